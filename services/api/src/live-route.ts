import { STREAMS, parseTimeUs, TIME_EXPECTED } from '@tidegate/contracts';
import { CLOCK_SKEW_MS, createMatcher, EventMessage, filterSubjects, type EventFilter, type Events, type LiveFeed } from '@tidegate/events';
import type { Logger } from '@tidegate/runtime';
import type { WebSocket } from '@fastify/websocket';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { ApiError, toApiError } from './errors.ts';
import { filterParameters } from './filter-parameters.ts';
import { LiveClient } from './live-client.ts';
import type { ApiMetrics } from './api-metrics.ts';
import { choice, parametersSchema, parseParameters, single, type ParameterValues } from './parameters.ts';
import { errorResponses } from './response-schemas.ts';

export interface LiveRouteOptions {
  events: Events;
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
  batch: choice({ description: 'true: several events a frame, as NDJSON.', example: 'true' }, ['true', 'false']),
} as const;

type LiveParameters = ParameterValues<typeof liveParameters>;

/** RFC 6455 close codes. */
export const Close = { goingAway: 1001, internalError: 1011, tryAgainLater: 1013 } as const;

const PING_INTERVAL_MS = 15_000;
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
      request.live = parseParameters(request.query, liveParameters);
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
  { events, metrics }: LiveRouteOptions,
  onFailure: (error: unknown) => void,
): Promise<void> {
  const { from, batch, ...filters } = request.live!;
  const filter: EventFilter = { ...filters, ...(from !== undefined && { fromUs: from }) };
  const client = new LiveClient({
    socket,
    transport: request.raw.socket,
    match: createMatcher(filter),
    isBatched: batch === 'true',
    onFailure,
    onSent: count => metrics.eventsSent.inc(count),
    onDropped: count => metrics.eventsDropped.inc(count),
  });
  const closed = new Promise<void>(resolve => socket.once('close', () => resolve()));
  const feed = await events.feeds.acquire();
  try {
    if (from === undefined) feed.follow(client, feed.position);
    else await replay(client, feed, from, filterSubjects(filter, events.canFilterSeveral()), events);
    await closed;
  } finally {
    feed.unfollow(client);
    events.feeds.release();
  }
}

/** Sends history at the client's pace until the feed can take over at the exact sequence that was reached. */
async function replay(client: LiveClient, feed: LiveFeed, fromUs: number, subjects: string[], { readers, search }: Events): Promise<void> {
  const start = { timeMs: Math.max(0, fromUs / 1000 - CLOCK_SKEW_MS) };
  const reader = readers.open({ stream: STREAMS.events.name, start, subjects, maxAttempts: Infinity });
  const isDone = (after: number): boolean => client.isClosed || feed.follow(client, after);
  try {
    while (!client.isClosed) {
      // Taken before reading: all matching messages up to here are in the stream by now, so the end of the read is beyond it.
      const target = feed.position;
      for await (const message of reader.read({ follow: false })) {
        await client.replay(new EventMessage(message), search);
        await client.idle();
        if (isDone(message.streamSequence)) return await client.endReplay(search);
      }
      if (isDone(Math.max(reader.position, target))) return await client.endReplay(search);
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
