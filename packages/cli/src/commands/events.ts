import { KIND_NAMES, type EventJson } from '@tidegate/contracts';
import { Option } from 'commander';
import { createApiClient, type Query } from '../api-client.ts';
import { ExitCode, apiOption, urlOf, type CommandContext, type CommandSpec } from '../command.ts';
import { followEvents } from '../event-feed.ts';
import { eventLine } from '../event-line.ts';
import { printableJson } from '../terminal-text.ts';

const FORMATS = ['compact', 'json', 'ndjson'] as const;
type Format = (typeof FORMATS)[number];
/** How far back --no-follow looks when nothing else is said. */
const DEFAULT_HISTORY = '15m';
const PAGE_EVENTS = 1_000;
const MAX_PID = 4_194_304;

interface EventPage {
  events: EventJson[];
  cursor?: string | null;
  complete: boolean;
}

export const eventsCommand: CommandSpec = {
  name: 'events',
  summary: 'Show events, and go on showing them as they happen',
  details: 'Several values of one option are written with commas and are alternatives; an event must match all options.',
  options: [
    new Option('--since <time>', `begin in the past: 15m, 2h, or a date (default with --no-follow: ${DEFAULT_HISTORY})`),
    new Option('--until <time>', 'end there instead of following'),
    new Option('--no-follow', 'show what is stored and end'),
    new Option('-n, --namespace <name>', 'Kubernetes namespace; _host: processes outside containers'),
    new Option('--pod <name>', 'pod, by name or UID'),
    new Option('--workload <name>', 'workload: Deployment, StatefulSet, Job…'),
    new Option('-l, --label <key=value>', 'labels of the pod, all of them: app=web,tier=front'),
    new Option('--kind <kind>', `kinds: ${KIND_NAMES.join(', ')}`),
    new Option('--node <name>', 'node'),
    new Option('--binary <path>', 'path of the binary; with * at the end, its beginning'),
    new Option('--pid <pid>', 'process id on the node'),
    new Option('--exec-id <id>', 'one process, by its exec_id'),
    new Option('--text <text>', 'text in binary, arguments, working directory, addresses or names'),
    new Option('-o, --output <format>', `one of ${FORMATS.join(', ')}`).default('compact'),
    apiOption(),
  ],
  examples: [
    ['tidegate events', 'follow everything'],
    ['tidegate events --kind exec,exit -n shop', 'programs started and ended in one namespace'],
    ['tidegate events --since 15m -l app=web', 'the last 15 minutes of some pods, then follow'],
    ["tidegate events --no-follow --binary '/usr/bin/*' -o ndjson", 'stored events as one JSON object a line'],
  ],
  async run({ options, faults }, context) {
    const nowMs = Date.now();
    const since = faults.time('--since', options.text('since'), nowMs);
    const until = faults.time('--until', options.text('until'), nowMs);
    if (since && until && since >= until) faults.add('--until', 'a time after --since', options.text('until')!);
    const format = faults.oneOf('--output', options.text('output'), FORMATS) ?? 'compact';
    const kinds = options.text('kind');
    for (const kind of kinds?.split(',') ?? []) faults.oneOf('--kind', kind, KIND_NAMES);
    for (const pid of options.text('pid')?.split(',') ?? []) faults.integer('--pid', pid, { min: 1, max: MAX_PID });
    for (const name of ['namespace', 'pod', 'workload', 'label', 'node', 'binary', 'execId', 'text'])
      if (options.text(name) === '') faults.add(`--${name}`, 'a value', '');
    const apiUrl = urlOf(faults, '--api', options.text('api'), ['http:', 'https:']);
    faults.check();

    const query: Query = {
      kind: kinds,
      namespace: options.text('namespace'),
      pod: options.text('pod'),
      workload: options.text('workload'),
      label: options.text('label'),
      node: options.text('node'),
      binary: options.text('binary'),
      pid: options.text('pid'),
      exec_id: options.text('execId'),
      text: options.text('text'),
    };
    const print = (event: EventJson) => context.print(formatted(event, format, context));
    if (!options.flag('follow') || until) {
      const from = since?.toISOString() ?? DEFAULT_HISTORY;
      await printHistory(apiUrl, { ...query, from, to: until?.toISOString() }, print, context);
      return ExitCode.ok;
    }
    await followEvents({
      apiUrl,
      query: { ...query, from: since?.toISOString() },
      signal: context.signal,
      onEvent: print,
      onConnection: (state, reason) =>
        context.note(
          state === 'lost' ? `tidegate: ${reason}; connecting again` : 'tidegate: connected again, going on from the last event',
        ),
    });
    return ExitCode.ok;
  },
};

async function printHistory(
  apiUrl: string,
  query: Query,
  print: (event: EventJson) => Promise<void>,
  context: CommandContext,
): Promise<void> {
  const api = createApiClient(apiUrl, context.signal);
  let cursor: string | undefined;
  do {
    const page: EventPage = await api.get('api/v1/events', { ...query, order: 'oldest', limit: PAGE_EVENTS, cursor });
    for (const event of page.events) await print(event);
    cursor = page.complete ? undefined : (page.cursor ?? undefined);
  } while (cursor !== undefined && !context.signal.aborted);
}

function formatted(event: EventJson, format: Format, context: CommandContext): string {
  switch (format) {
    case 'compact':
      return eventLine(event, context.paint);
    case 'json':
      return printableJson(event, 2);
    case 'ndjson':
      return printableJson(event);
  }
}
