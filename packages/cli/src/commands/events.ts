import { Entered, type EventJson, type EventPage, formatTimeUs, isKindName, KIND_NAMES, printableJson } from '@tidegate/contracts';
import { Option } from 'commander';
import { createApiClient, type Query } from '../api-client.ts';
import { ExitCode, apiOption, apiUrlOf, type CommandContext, type CommandSpec } from '../command.ts';
import { followEvents } from '../event-feed.ts';
import { eventLine } from '../event-line.ts';

const FORMATS = ['compact', 'json', 'ndjson'] as const;
type Format = (typeof FORMATS)[number];
const ENTERED = Object.values(Entered);
/** How far back --no-follow looks when nothing else is said. */
const DEFAULT_HISTORY = '15m';
const PAGE_EVENTS = 1_000;
const MAX_PID = 4_194_304;
/** So many stored events are held at most, to print the newest in the order they happened. */
const MAX_LIMIT = 100_000;
/** Options whose values may be any text. */
const TEXT_OPTIONS = ['namespace', 'pod', 'container', 'workload', 'label', 'node', 'binary', 'exec-id'] as const;

export const eventsCommand: CommandSpec = {
  name: 'events',
  summary: 'Show events, and go on showing them as they happen',
  details:
    'Several values of one option are written with commas and are alternatives; ! before a value leaves it out; an event must match all options.',
  options: [
    new Option('--since <time>', `begin in the past: 15m, 2h, or a date (default with --no-follow: ${DEFAULT_HISTORY})`),
    new Option('--until <time>', 'end there instead of following'),
    new Option('--no-follow', 'show what is stored and end'),
    new Option('-n, --namespace <name>', 'Kubernetes namespace; _host: processes outside containers'),
    new Option('--pod <name>', 'pod, by name or UID'),
    new Option('--container <name>', 'container, by name or id (the first 12 digits will do)'),
    new Option('--entered <how>', `came into its container from outside: ${ENTERED.join(', ')}`),
    new Option('--workload <name>', 'workload: Deployment, StatefulSet, Job…'),
    new Option('-l, --label <key=value>', 'labels of the pod, all of them: app=web,tier=front'),
    new Option('--kind <kind>', `kinds: ${KIND_NAMES.join(', ')}`),
    new Option('--node <name>', 'node'),
    new Option('--binary <path>', 'path of the binary; with * at the end, its beginning'),
    new Option('--pid <pid>', 'process id on the node'),
    new Option('--exec-id <id>', 'one process, by its exec_id'),
    new Option('--text <text>', 'text in binary, arguments, working directory, addresses or names'),
    new Option('--limit <count>', `at most so many events: stored ones the newest, followed ones the first; up to ${MAX_LIMIT}`),
    new Option('-o, --output <format>', `one of ${FORMATS.join(', ')}`).default('compact'),
    apiOption(),
  ],
  examples: [
    ['tidegate events', 'follow everything'],
    ['tidegate events --kind exec,exit -n shop', 'programs started and ended in one namespace'],
    ['tidegate events --since 15m -l app=web', 'the last 15 minutes of some pods, then follow'],
    ['tidegate events --entered exec,debug', 'what people do in containers with kubectl exec and debug'],
    ["tidegate events --kind '!close' --binary '!/usr/lib/*'", 'all but some'],
    ["tidegate events --no-follow --binary '/usr/bin/*' -o ndjson", 'stored events as one JSON object a line'],
  ],
  async run({ options, faults }, context) {
    const nowMs = Date.now();
    const sinceUs = faults.timeUs('--since', options.text('since'), nowMs);
    const untilUs = faults.timeUs('--until', options.text('until'), nowMs);
    if (sinceUs !== undefined && untilUs !== undefined && sinceUs >= untilUs)
      faults.add('--until', 'a time after --since', options.text('until'));
    const format = faults.oneOf('--output', options.text('output'), FORMATS) ?? 'compact';
    const kinds = options.text('kind');
    for (const kind of wordsOf(kinds)) if (!isKindName(kind)) faults.oneOf('--kind', kind, KIND_NAMES);
    for (const entered of wordsOf(options.text('entered'))) faults.oneOf('--entered', entered, ENTERED);
    for (const pid of wordsOf(options.text('pid'))) faults.integer('--pid', pid, { min: 1, max: MAX_PID });
    for (const name of TEXT_OPTIONS) {
      const given = options.text(name.replace('-i', 'I'));
      if (wordsOf(given).includes('')) faults.add(`--${name}`, 'a value, or several with commas', given);
    }
    if (options.text('text') === '') faults.add('--text', 'a value', '');
    const limit = faults.integer('--limit', options.text('limit'), { min: 1, max: MAX_LIMIT });
    const apiUrl = apiUrlOf(faults, options.text('api'));
    faults.check();

    const query: Query = {
      kind: kinds,
      namespace: options.text('namespace'),
      pod: options.text('pod'),
      container: options.text('container'),
      entered: options.text('entered'),
      workload: options.text('workload'),
      label: options.text('label'),
      node: options.text('node'),
      binary: options.text('binary'),
      pid: options.text('pid'),
      exec_id: options.text('execId'),
      text: options.text('text'),
    };
    const print = (event: EventJson) => context.print(formatted(event, format, context));
    if (!options.flag('follow') || untilUs !== undefined) {
      const history = { apiUrl, query: { ...query, from: timeOf(sinceUs) ?? DEFAULT_HISTORY, to: timeOf(untilUs) }, print, context };
      if (limit === undefined) await printHistory(history);
      else await printNewest({ ...history, limit });
      return ExitCode.ok;
    }
    const enough = new AbortController();
    let printed = 0;
    await followEvents({
      apiUrl,
      query: { ...query, from: timeOf(sinceUs) },
      signal: AbortSignal.any([context.signal, enough.signal]),
      onEvent: async event => {
        if (enough.signal.aborted) return;
        await print(event);
        if (++printed === limit) enough.abort();
      },
      onConnection: (state, reason) =>
        context.note(
          state === 'lost' ? `tidegate: ${reason}; connecting again` : 'tidegate: connected again, going on from the last event',
        ),
    });
    return ExitCode.ok;
  },
};

interface HistoryOptions {
  apiUrl: string;
  query: Query;
  print(event: EventJson): Promise<void>;
  context: CommandContext;
}

/** Stored events in the order they happened. */
async function printHistory({ print, ...options }: HistoryOptions): Promise<void> {
  for await (const events of pages({ ...options, order: 'oldest' })) for (const event of events) await print(event);
}

/** The newest `limit` of them, in the order they happened. */
async function printNewest({ print, limit, ...options }: HistoryOptions & { limit: number }): Promise<void> {
  const newest: EventJson[] = [];
  for await (const events of pages({ ...options, order: 'newest', limit })) {
    newest.push(...events);
    if (newest.length >= limit) break;
  }
  for (const event of newest.slice(0, limit).reverse()) await print(event);
}

interface PagesOptions extends Omit<HistoryOptions, 'print'> {
  order: 'oldest' | 'newest';
  /** No more are wanted. */
  limit?: number;
}

async function* pages({ apiUrl, query, context, order, limit = PAGE_EVENTS }: PagesOptions): AsyncGenerator<EventJson[]> {
  const api = createApiClient(apiUrl, context.signal);
  let cursor: string | undefined;
  do {
    const page: EventPage = await api.get('api/v1/events', { ...query, order, limit: Math.min(limit, PAGE_EVENTS), cursor });
    yield page.events;
    cursor = page.complete ? undefined : (page.cursor ?? undefined);
  } while (cursor !== undefined && !context.signal.aborted);
}

function timeOf(timeUs: number | undefined): string | undefined {
  return timeUs === undefined ? undefined : formatTimeUs(timeUs);
}

/** Values of a list, without what leaves them out. */
function wordsOf(text: string | undefined): string[] {
  return text?.split(',').map(word => word.replace(/^!/, '')) ?? [];
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
