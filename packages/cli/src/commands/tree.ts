import {
  eventDetail,
  exitSummary,
  printable,
  printableJson,
  processCommand,
  processName,
  quoted,
  type CandidatePage,
  type ProcessNode,
  type ProcessTree,
} from '@tidegate/contracts';
import { TidegateError } from '@tidegate/runtime';
import { Option } from 'commander';
import { createApiClient, type ApiClient } from '../api-client.ts';
import { ExitCode, apiOption, apiUrlOf, type CommandContext, type CommandSpec } from '../command.ts';
import { paintParts, type Paint } from '../event-line.ts';
import { treeLines, type TreeNode } from '../tree-text.ts';

const MAX_PID = 4_194_304;
const MAX_CANDIDATES = 10;

export const treeCommand: CommandSpec = {
  name: 'tree',
  summary: 'Show a process with its ancestors and descendants',
  argument: { name: 'exec_id|pid', description: 'exec_id of an event, or a pid: then the latest process that had it' },
  options: [
    new Option('--node <name>', 'node of the pid'),
    new Option('-o, --output <format>', 'one of text, json').default('text'),
    apiOption(),
  ],
  examples: [
    ['tidegate tree 4711', 'the latest process with this pid'],
    ['tidegate tree d29ya2VyLTE6MTIzNDU2Nzg5OjQ3MTE=', 'exactly this process'],
  ],
  async run({ argument, options, faults }, context) {
    const isPid = /^\d+$/.test(argument);
    const pid = isPid ? faults.integer('<exec_id|pid>', argument, { min: 1, max: MAX_PID }) : undefined;
    const format = faults.oneOf('--output', options.text('output'), ['text', 'json']);
    const node = options.text('node');
    if (argument !== '' && !isPid && node !== undefined) faults.add('--node', 'only with a pid: an exec_id names its node', node);
    const apiUrl = apiUrlOf(faults, options.text('api'));
    faults.check();

    const api = createApiClient(apiUrl, context.signal);
    const execId = pid === undefined ? argument : await latestProcess(api, pid, node, context);
    const answer = await api.get<ProcessTree>(`api/v1/processes/${encodeURIComponent(execId)}`);
    if (format === 'json') await context.print(printableJson(answer, 2));
    else await printTree(answer, context);
    return ExitCode.ok;
  },
};

async function latestProcess(api: ApiClient, pid: number, node: string | undefined, context: CommandContext): Promise<string> {
  let answer: CandidatePage;
  let cursor: string | undefined;
  // Newest first; one request goes back only so far.
  do {
    answer = await api.get('api/v1/processes', { pid, node, limit: MAX_CANDIDATES, cursor });
    cursor = answer.cursor ?? undefined;
  } while (answer.processes.length === 0 && cursor !== undefined && !context.signal.aborted);
  const [latest, ...others] = answer.processes;
  if (!latest)
    throw new TidegateError('API_REFUSED', 'no process with this pid is in the events that are stored', { field: 'pid', got: String(pid) });
  if (others.length > 0) {
    context.note(`${others.length === 1 ? 'One other process' : `${others.length} other processes`} had this pid:`);
    for (const { node: itsNode, process, seen_at } of others)
      context.note(`  ${process.exec_id}  ${printable(itsNode)}  ${processCommand(process)}  (seen ${seen_at})`);
  }
  return latest.process.exec_id;
}

async function printTree(answer: ProcessTree, { print, paint }: CommandContext): Promise<void> {
  const { node, pod, container, ancestors, ancestors_cut, recorded } = answer;
  const where = [
    `node ${printable(node)}`,
    ...(pod ? [pod.name === undefined ? `pod uid ${printable(pod.uid)}` : `pod ${printable(`${pod.namespace}/${pod.name}`)}`] : []),
    ...(container ? [`container ${quoted(container.name ?? container.id)}`] : []),
    ...(recorded ? ['recorded'] : []),
  ];
  await print(paint('gray', where.join(', ')));
  let root: TreeNode = branchNode(answer, paint, true);
  for (const ancestor of ancestors) root = { label: `${processName(ancestor)} ${processCommand(ancestor)}`, children: [root] };
  if (ancestors_cut) root = { label: paint('gray', 'further ancestors, left out'), children: [root] };
  for (const line of treeLines(root, paint)) await print(line);
  for (const { kinds, from, to } of answer.not_searched)
    await print(paint('yellow', `There may be more: ${kinds.join(', ')} events stored from ${from} to ${to} were not searched.`));
  if (answer.processes_left_out)
    await print(paint('yellow', 'There may be more: a tree shows so many processes, and so many generations, at most.'));
}

function branchNode({ process, exit, children }: ProcessNode, paint: Paint, isAsked: boolean): TreeNode {
  const name = isAsked ? paint('bold', processName(process)) : processName(process);
  const end = exit ? `   ${paint('gray', '[')}${paintParts(exitSummary(eventDetail(exit)), paint)}${paint('gray', ']')}` : '';
  const user = paint('gray', `(uid ${process.uid})`);
  return { label: `${name} ${processCommand(process)} ${user}${end}`, children: children.map(child => branchNode(child, paint, false)) };
}
