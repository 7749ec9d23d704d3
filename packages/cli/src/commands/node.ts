import { Option } from 'commander';
import { countText, durationText, printable, printableJson, type NodeReport } from '@tidegate/contracts';
import { createApiClient } from '../api-client.ts';
import { ExitCode, apiOption, apiUrlOf, type CommandGroup, type CommandSpec } from '../command.ts';

const STATE_WIDTH = 8;

const nodeListCommand: CommandSpec = {
  name: 'list',
  summary: 'Show the nodes there are',
  details:
    'up: its sensor reports. silent: it should and does not. no sensor: Kubernetes has the node, and no sensor reported from it. left: it is gone.',
  options: [
    new Option('--all', 'those that have left too'),
    new Option('-o, --output <format>', 'one of text, json').default('text'),
    apiOption(),
  ],
  examples: [
    ['tidegate node list', 'nodes that report or that Kubernetes has'],
    ['tidegate node list --all', 'and those that have left'],
  ],
  async run({ options, faults }, context) {
    const format = faults.oneOf('--output', options.text('output'), ['text', 'json']);
    const apiUrl = apiUrlOf(faults, options.text('api'));
    faults.check();
    const all = options.flag('all') ? 'true' : undefined;
    const { nodes } = await createApiClient(apiUrl, context.signal).get<{ nodes: NodeReport[] }>('api/v1/nodes', { all });
    if (format === 'json') {
      await context.print(printableJson(nodes, 2));
      return ExitCode.ok;
    }
    const width = Math.max(0, ...nodes.map(({ node }) => printable(node).length));
    for (const node of nodes) {
      const color = node.state === 'up' ? 'green' : node.state === 'silent' ? 'red' : 'gray';
      const state = (node.state === 'none' ? 'no sensor' : node.state).padEnd(STATE_WIDTH);
      await context.print(`${printable(node.node).padEnd(width)}  ${context.paint(color, state)}  ${detailText(node)}`);
    }
    if (nodes.length === 0) context.note('there are no nodes; `tidegate status` says more');
    return ExitCode.ok;
  },
};

const nodeRemoveCommand: CommandSpec = {
  name: 'remove',
  summary: 'Say that a node is gone for good',
  details:
    'For a node that no Kubernetes removes: renamed, scrapped, or tried once. What its sensor reported is forgotten, so that `tidegate status` speaks of it no more; its events stay, ' +
    'and its last number is kept: a node that gets the same name goes on counting. A node whose sensor still runs is refused, since it would be back within seconds.',
  argument: { name: 'name', description: 'a name of `tidegate node list`' },
  options: [apiOption()],
  examples: [['tidegate node remove old-worker', 'old-worker is gone']],
  async run({ argument, options, faults }, context) {
    const apiUrl = apiUrlOf(faults, options.text('api'));
    faults.check();
    const path = `api/v1/nodes/${encodeURIComponent(argument)}`;
    const { node, last_sequence } = await createApiClient(apiUrl, context.signal).delete<NodeReport>(path);
    await context.print(`${printable(node)} has left; a node of this name would go on behind number ${last_sequence}`);
    return ExitCode.ok;
  },
};

export const nodeCommands: CommandGroup = {
  name: 'node',
  summary: 'List nodes, and say which are gone for good',
  commands: [nodeListCommand, nodeRemoveCommand],
};

function detailText({ state, in_cluster, recorded, last_sequence, reported_at, left_at, removed_by }: NodeReport): string {
  const ago = (time: string) => `${durationText(Math.max(0, Date.now() - Date.parse(time)))} ago`;
  return [
    ...(state === 'none' ? [] : [`${countText(last_sequence)} events`]),
    ...(state === 'silent' && reported_at !== undefined ? [`reported ${ago(reported_at)}`] : []),
    ...(left_at === undefined ? [] : [`left ${ago(left_at)}, said by ${printable(removed_by ?? 'nobody')}`]),
    ...(recorded ? ['recorded'] : []),
    ...(in_cluster ? ['in the cluster'] : []),
  ].join(', ');
}
