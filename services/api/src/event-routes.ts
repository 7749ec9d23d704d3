import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { Type } from './json-schema.ts';
import { parseDurationMs, parseTimeUs, TIME_EXPECTED } from '@tidegate/contracts';
import {
  filterDigest,
  MAX_CURSOR_LENGTH,
  Order,
  parseCursor,
  type EventFilter,
  type History,
  type HistoryQuery,
  type Page,
} from '@tidegate/events';
import { faultsError } from './errors.ts';
import { filterParameters } from './filter-parameters.ts';
import { choice, integer, parametersSchema, parseParameters, single } from './parameters.ts';
import { errorResponses, reference } from './response-schemas.ts';
import type { RequestSlots } from './request-slots.ts';

const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 5_000;
const DEFAULT_LATE_MS = 60_000;
const MAX_LATE_MS = 7 * 24 * 3_600_000;
const NEWLINE = Buffer.from('\n');
const NDJSON = 'application/x-ndjson';

const time = (description: string, example: string) =>
  single({ description, example, expected: TIME_EXPECTED }, text => parseTimeUs(text, Date.now()));

export const eventParameters = {
  from: time('Events from this time on.', '-15m'),
  to: time('Events before this time.', 'now'),
  order: choice({ description: 'Which come first. Default: newest.', example: 'newest' }, [Order.newest, Order.oldest]),
  ...filterParameters,
  limit: integer({ description: `Most events in the answer. Default: ${DEFAULT_LIMIT}; as NDJSON, all.`, example: '20' }, 1, MAX_LIMIT),
  cursor: single(
    {
      description: 'Continues where the page with this cursor ended; the filters must be the same. NDJSON has none.',
      example: '',
      expected: 'the cursor of a page',
      maxLength: MAX_CURSOR_LENGTH,
    },
    parseCursor,
  ),
  format: choice({ description: 'ndjson: a stream of one event a line; as does Accept: application/x-ndjson.', example: 'json' }, [
    'json',
    'ndjson',
  ]),
  late: single(
    {
      description: 'With `to`: how long after they happened events are still looked for, as of a node whose NATS was away. Default: 1m.',
      example: '1m',
      expected: 'a duration such as 30s, 10m or 1d',
    },
    text => {
      const durationMs = parseDurationMs(text);
      return durationMs !== undefined && durationMs <= MAX_LATE_MS ? durationMs : undefined;
    },
  ),
} as const;

const PageSchema = Type.Object({
  events: Type.Array(reference('Event')),
  cursor: Type.Union([Type.String(), Type.Null()], { description: 'For the next page; null at the end.' }),
  scanned: Type.Integer({ description: 'Events looked at.' }),
  complete: Type.Boolean({
    description: 'false: the limit or the work of one request was reached. Ask again with the cursor, also after a page without events.',
  }),
});

export function registerEventRoutes(app: FastifyInstance, history: History, slots: RequestSlots): void {
  app.get(
    '/api/v1/events',
    {
      schema: {
        summary: 'Search events',
        description:
          'Events of the stream, newest or oldest first, those of a node in the order of their sequence numbers. One request does a bounded amount of work: with a rare filter a page may be ' +
          'empty and not complete; its cursor goes on.',
        tags: ['events'],
        querystring: parametersSchema(eventParameters),
        response: {
          200: {
            description: 'A page of events, or a stream of them.',
            content: { 'application/json': { schema: PageSchema }, [NDJSON]: { schema: Type.String() } },
          },
          ...errorResponses(400, 410, 503),
        },
      },
    },
    async (request, reply) => {
      const { order, limit, cursor, format, late, from, to, ...filters } = parseParameters(request.query, eventParameters);
      const isStream = (format ?? (request.headers.accept?.includes(NDJSON) ? 'ndjson' : 'json')) === 'ndjson';
      const filter: EventFilter = { ...filters, ...(from !== undefined && { fromUs: from }), ...(to !== undefined && { toUs: to }) };
      if (from !== undefined && to !== undefined && from >= to)
        throw faultsError([{ field: 'to', expected: 'a time after `from`', got: 'an earlier one' }]);
      if (cursor && (cursor.digest !== filterDigest(filter) || (order !== undefined && order !== cursor.order)))
        throw faultsError([{ field: 'cursor', expected: 'a cursor of a query with the same filters and order', got: 'that of another' }]);
      if (cursor && isStream) throw faultsError([{ field: 'cursor', expected: 'no cursor with NDJSON', got: 'one' }]);
      const release = slots.take();
      try {
        const signal = abortSignal(reply);
        const query = cursor
          ? await history.resume(cursor, filter)
          : await history.resolve(order ?? Order.newest, filter, late ?? DEFAULT_LATE_MS);
        if (isStream) return await sendLines(reply, lines(history, query, limit ?? Infinity, signal));
        return await reply
          .type('application/json; charset=utf-8')
          .send(pageJson(await history.page(query, limit ?? DEFAULT_LIMIT, signal)));
      } finally {
        release();
      }
    },
  );
}

/** Aborted when the client has gone. */
export function abortSignal(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  reply.raw.once('close', () => controller.abort());
  return controller.signal;
}

async function* lines(history: History, query: HistoryQuery, limit: number, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  let left = limit;
  for await (const events of history.events(query, signal)) {
    yield Buffer.concat(events.slice(0, left).flatMap(json => [json, NEWLINE]));
    left -= events.length;
    if (left <= 0) return;
  }
}

/** Sends at the client's pace; resolves when the answer has ended. */
async function sendLines(reply: FastifyReply, chunks: AsyncGenerator<Buffer, void, undefined>): Promise<FastifyReply> {
  const ended = new Promise<void>(resolve => reply.raw.once('close', () => resolve()));
  await reply.type(NDJSON).send(Readable.from(chunks, { objectMode: false }));
  await ended;
  return reply;
}

function pageJson({ events, cursor, scanned, complete }: Page): Buffer {
  const parts: Buffer[] = [Buffer.from('{"events":[')];
  for (const [i, json] of events.entries()) parts.push(...(i === 0 ? [json] : [COMMA, json]));
  parts.push(Buffer.from(`],"cursor":${JSON.stringify(cursor)},"scanned":${scanned},"complete":${complete}}`));
  return Buffer.concat(parts);
}

const COMMA = Buffer.from(',');
