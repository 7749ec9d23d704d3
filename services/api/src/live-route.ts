import { STREAMS, parseTimeUs, TIME_EXPECTED } from '@tidegate/contracts';
import {
  CLOCK_SKEW_MS,
  createMatcher,
  EventMessage,
  filterDigest,
  filterSubjects,
  formatCursor,
  MAX_CURSOR_LENGTH,
  Order,
  parseCursor,
  resumePlace,
  type Cursor,
  type EventFilter,
  type Events,
  type LiveFeed,
  type Place,
} from '@tidegate/events';
import type { Logger } from '@tidegate/runtime';
import type { WebSocket } from '@fastify/websocket';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { ApiError, faultsError, toApiError } from './errors.ts';
import { filterParameters } from './filter-parameters.ts';
import { LiveClient } from './live-client.ts';
import type { ApiMetrics } from './api-metrics.ts';
import type { Paces } from './pace.ts';
import { choice, parametersSchema, parseParameters, single, type ParameterValues } from './parameters.ts';
import { errorResponses } from './response-schemas.ts';

export interface LiveRouteOptions {
  events: Events;
  paces: Paces;
  maxClients: number;
  metrics: ApiMetrics;
  logger: Logger;
}

export const liveParameters = {
  ...filterParameters,
  from: single(
    {
      description: 'Replays events from this time on, then follows without a gap. Left out: only what happens from now on.',
      example: '-15m',
      expected: TIME_EXPECTED,
    },
    text => parseTimeUs(text, Date.now()),
  ),
  pace: choice(
    {
      description:
        'live: somebody is looking. Sensors then send small batches at once (20 ms; of more than 20 nodes 1 ms for each), which costs CPU; without it events are as old as TIDEGATE_LINGER_MS lets them be.',
      example: 'live',
    },
    ['live'],
  ),
  batch: choice({ description: 'true: several events a frame, as NDJSON.', example: 'true' }, ['true', 'false']),
  cursors: choice(
    {
      description:
        'true: frames as with `batch`, and the last line of each is `{"cursor":"…"}`, which names what comes next; also sent now and then where nothing matches.',
      example: 'true',
    },
    ['true', 'false'],
  ),
  cursor: single(
    {
      description:
        'The last cursor of a connection that was lost: goes on exactly there, without a gap or a repetition, whatever `from` says. The filters must be the same.',
      example: '',
      expected: 'a cursor of this feed',
      maxLength: MAX_CURSOR_LENGTH,
    },
    text => {
      const cursor = parseCursor(text);
      return cursor?.order === Order.oldest ? cursor : undefined;
    },
  ),
} as const;

type LiveParameters = ParameterValues<typeof liveParameters>;

/** RFC 6455 close codes. */
export const Close = { goingAway: 1001, internalError: 1011, tryAgainLater: 1013 } as const;

const PING_INTERVAL_MS = 15_000;
/** Where nothing matches, a client that asks is told so often up to where. */
const TELL_INTERVAL_MS = 5_000;
/** A client that in this time neither answers a ping nor takes a byte is gone. */
const MAX_SILENCE_MS = 45_000;

export function registerLiveRoute(app: FastifyInstance, options: LiveRouteOptions): void {
  const { maxClients, metrics, logger } = options;
  const clients = new Set<WebSocket>();
  metrics.observeLiveClients(() => clients.size);

  app.route({
    method: 'GET',
    url: '/api/v1/events/live',
    schema: {
      summary: 'Follow events (WebSocket)',
      description:
        'Upgrades to a WebSocket that sends one JSON event in each text frame, the events of a node in the order of their sequence numbers. A client that is too slow loses the oldest that wait ' +
        'for it; an event of kind `loss` with reason `slow_client`, count, from and to stands in their place. Close codes: 1001 the API stops, 1011 a fault, ' +
        '1013 too many clients or NATS away: try again later.',
      tags: ['events'],
      querystring: parametersSchema(liveParameters),
      response: { 101: { description: 'Switched to WebSocket.', type: 'null' }, ...errorResponses(400, 426) },
    },
    preValidation: async request => {
      const parameters = parseParameters(request.query, liveParameters);
      if (parameters.cursors === 'true' && parameters.batch === 'false')
        throw faultsError([{ field: 'batch', expected: 'true, or nothing, with cursors', got: 'false' }]);
      if (parameters.cursor && parameters.cursor.digest !== filterDigest(filterOf(parameters)))
        throw faultsError([{ field: 'cursor', expected: 'a cursor of a feed with the same filters', got: 'that of another' }]);
      request.live = parameters;
    },
    handler: async () => {
      throw new ApiError('UPGRADE_REQUIRED', 'this is a WebSocket: connect with a WebSocket client');
    },
    wsHandler: (socket, request) => {
      if (clients.size >= maxClients) {
        socket.close(Close.tryAgainLater, `${maxClients} clients at most: try again later`);
        return;
      }
      clients.add(socket);
      const stopPinging = keepAlive(socket, request);
      socket.once('close', () => {
        clients.delete(socket);
        stopPinging();
      });
      const onFailure = (error: unknown) => {
        const answer = toApiError(error);
        if (answer) socket.close(Close.tryAgainLater, answer.code);
        else {
          logger.error({ err: error }, 'live client failed');
          socket.close(Close.internalError, 'internal error');
        }
      };
      serve(socket, request, options, onFailure).catch(onFailure);
    },
  });
}

/** Replays when asked to, then follows until the client is gone. */
async function serve(
  socket: WebSocket,
  request: FastifyRequest,
  { events, paces, metrics }: LiveRouteOptions,
  onFailure: (error: unknown) => void,
): Promise<void> {
  const parameters = request.live!;
  const filter = filterOf(parameters);
  const lease = parameters.pace === 'live' ? paces.hold(nodesOf(filter)) : undefined;
  socket.once('close', () => lease?.release());
  const closed = new Promise<void>(resolve => socket.once('close', () => resolve()));
  const feed = await events.feeds.acquire();
  let client: LiveClient | undefined;
  let timer: NodeJS.Timeout | undefined;
  try {
    const { created, place, discarded } = await beginning(parameters, feed, events);
    if (socket.readyState !== socket.OPEN) return;
    client = new LiveClient({
      socket,
      transport: request.raw.socket,
      match: createMatcher(filter),
      place,
      placeLine: parameters.cursors === 'true' ? cursorLines(filter, created) : undefined,
      isBatched: parameters.batch === 'true' || parameters.cursors === 'true',
      onFailure,
      onSent: count => metrics.eventsSent.inc(count),
      onDropped: count => metrics.eventsDropped.inc(count),
    });
    const following = client;
    if (discarded) client.deliverGap(...discarded);
    client.tellPlace();
    timer = setInterval(() => following.tellPlace(), TELL_INTERVAL_MS);
    // What happens from now on, and what happened a moment ago, the feed has.
    if (!feed.follow(client, place.start - 1))
      await replay(client, feed, place.start, filterSubjects(filter, events.canFilterSeveral()), events);
    await closed;
  } finally {
    clearInterval(timer);
    if (client) feed.unfollow(client);
    events.feeds.release();
  }
}

function filterOf({ from, pace: _pace, batch: _batch, cursors: _cursors, cursor, ...filters }: LiveParameters): EventFilter {
  const fromUs = cursor ? (cursor.fromUs ?? undefined) : from;
  return { ...filters, ...(fromUs !== undefined && { fromUs }) };
}

/** Nodes that the filter names; undefined: any. */
function nodesOf({ node }: EventFilter): readonly string[] | undefined {
  return node && node.only.length > 0 ? node.only : undefined;
}

interface Beginning {
  /** When the stream was made. */
  created: string;
  place: Place;
  /** Stream sequences that a cursor asks for and that can be read no more. */
  discarded?: readonly [number, number] | undefined;
}

async function beginning({ from, cursor }: LiveParameters, feed: LiveFeed, { readers }: Events): Promise<Beginning> {
  const stream = await readers.bounds(STREAMS.events.name);
  const { created, last } = stream;
  const at = (start: number): Beginning => ({ created, place: { start, given: new Map() } });
  // Clamped: a cursor is the client's.
  if (cursor)
    return { created, ...(await resumePlace(readers, stream, { ...cursor, start: Math.min(cursor.start, last + 1) }, cursor.created)) };
  if (from === undefined) return at(feed.position + 1);
  return at(await readers.sequenceAt(STREAMS.events.name, Math.max(0, from / 1000 - CLOCK_SKEW_MS)));
}

function cursorLines(filter: EventFilter, created: string): (place: Place) => Buffer | undefined {
  const query: Omit<Cursor, keyof Place> = {
    order: Order.oldest,
    created,
    first: 0,
    last: Number.MAX_SAFE_INTEGER,
    fromUs: filter.fromUs ?? null,
    toUs: null,
    digest: filterDigest(filter),
  };
  return place => {
    const cursor = formatCursor({ ...query, ...place });
    // So many nodes are ahead of one whose batch is not whole that no request could name them all: for a moment the cursor before stays the newest.
    return cursor.length <= MAX_CURSOR_LENGTH ? Buffer.from(JSON.stringify({ cursor })) : undefined;
  };
}

/** Sends history at the client's pace until the feed can take over at the exact sequence that was reached. */
async function replay(client: LiveClient, feed: LiveFeed, start: number, subjects: string[], { readers, search }: Events): Promise<void> {
  const reader = readers.open({ stream: STREAMS.events.name, start: { streamSequence: start }, subjects, maxAttempts: Infinity });
  const isDone = (after: number): boolean => client.isClosed || feed.follow(client, after);
  try {
    while (!client.isClosed) {
      // Taken before reading: all matching messages up to here are in the stream by now, so the end of the read is beyond it.
      const target = feed.position;
      for await (const message of reader.read({ follow: false })) {
        await client.replay(new EventMessage(message), search);
        await client.idle();
        if (isDone(message.streamSequence)) return await client.endReplay(search, message.streamSequence);
      }
      const reached = Math.max(reader.position, target);
      if (isDone(reached)) return await client.endReplay(search, reached);
    }
  } finally {
    reader.close();
  }
}

/** Pings, and ends a connection that gives no sign of life. Returns what stops it. */
function keepAlive(socket: WebSocket, request: FastifyRequest): () => void {
  const transport = request.raw.socket;
  let lastSignMs = performance.now();
  let lastWritten = transport.bytesWritten - transport.writableLength;
  const sign = () => (lastSignMs = performance.now());
  socket.on('pong', sign);
  const timer = setInterval(() => {
    const written = transport.bytesWritten - transport.writableLength;
    if (written > lastWritten) sign();
    lastWritten = written;
    if (performance.now() - lastSignMs > MAX_SILENCE_MS) socket.terminate();
    else socket.ping();
  }, PING_INTERVAL_MS);
  return () => clearInterval(timer);
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Parameters of a live request, checked before the upgrade. */
    live: LiveParameters | undefined;
  }
}
