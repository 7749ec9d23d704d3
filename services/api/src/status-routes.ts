import type { NatsConnection } from '@nats-io/nats-core';
import type { FastifyInstance } from 'fastify';
import { Type } from './json-schema.ts';
import type { ApiMetrics } from './api-metrics.ts';
import { parametersSchema, parseParameters } from './parameters.ts';
import { errorResponses } from './response-schemas.ts';
import { LAG_PROBLEM_MS, type StatusReader } from './status.ts';

const Open = { additionalProperties: true } as const;

const StatusSchema = Type.Object({
  time: Type.String({ format: 'date-time' }),
  nats: Type.Object({ version: Type.String(), server: Type.String(), time: Type.String() }),
  sensors: Type.Array(
    Type.Object(
      {
        node: Type.String(),
        stale: Type.Boolean(),
        recorded: Type.Boolean(),
        ack_ms: Type.Optional(Type.Integer({ description: 'Mean milliseconds until NATS has stored a batch, of the last seconds.' })),
      },
      Open,
    ),
  ),
  streams: Type.Array(Type.Object({ name: Type.String(), messages: Type.Integer(), bytes: Type.Integer() }, Open)),
  gateways: Type.Array(
    Type.Object({
      identity: Type.String({ description: 'Its name in the Lease.' }),
      started_at: Type.String({ format: 'date-time' }),
      reported_at: Type.String({ format: 'date-time' }),
      server: Type.String({ description: 'URL of the API server of Kubernetes.' }),
      lease: Type.String({ description: '<namespace>/<name> of the Lease by which gateways choose their leader.' }),
      leads: Type.Boolean(),
      holder: Type.Optional(
        Type.Object(
          { identity: Type.String(), since: Type.Optional(Type.String({ format: 'date-time' })) },
          { description: 'Who leads instead; a gateway of another installation too.' },
        ),
      ),
      faults: Type.Array(Type.String(), { description: 'What keeps it from its work, in words.' }),
    }),
    { description: 'Gateways to Kubernetes that report; none without a cluster.' },
  ),
  enrichers: Type.Array(
    Type.Object({
      id: Type.String(),
      alive: Type.Boolean(),
      seen_at: Type.String({ format: 'date-time' }),
      ack_ms: Type.Optional(
        Type.Integer({ description: 'Mean milliseconds until NATS has stored a message of its, of the last seconds.' }),
      ),
    }),
  ),
  connectors: Type.Array(
    Type.Object({
      connector: Type.String({ description: '`nats` is the feed.' }),
      started_at: Type.String({ format: 'date-time' }),
      reported_at: Type.String({ format: 'date-time' }),
      listeners: Type.Integer({ description: 'Subjects that somebody listens to; 0: it sleeps.' }),
      pending: Type.Integer({ description: 'Messages of EVENTS that it has not read yet; 0 while it sleeps.' }),
      published: Type.Integer({ description: 'Events handed over since it started.' }),
      skipped: Type.Integer({
        description: 'Times that EVENTS had discarded what it had not read yet, since it started; listeners get a loss event each.',
      }),
      faults: Type.Array(Type.String(), { description: 'What keeps it from its work, in words.' }),
    }),
    { description: 'Connectors that report.' },
  ),
  lag: Type.Array(
    Type.Object({
      node: Type.String(),
      owner: Type.String(),
      events: Type.Integer({ description: 'In RAW and not yet in EVENTS.' }),
      waiting_seconds: Type.Number({
        description: `How long the oldest of them has been in RAW; up to ${LAG_PROBLEM_MS / 1000} s at most so long, beyond it is a problem.`,
      }),
      raw_last_sequence: Type.Integer(),
      enriched_last_sequence: Type.Integer(),
    }),
  ),
  problems: Type.Array(Type.String(), { description: 'What is wrong, in words; empty: nothing.' }),
});

export function registerStatusRoutes(app: FastifyInstance, nc: NatsConnection, status: StatusReader, { metrics }: ApiMetrics): void {
  app.get(
    '/api/v1/status',
    {
      schema: {
        summary: 'State of sensors, streams and enrichers',
        tags: ['status'],
        querystring: parametersSchema({}),
        response: { 200: { ...StatusSchema, description: 'The state, at most a second old.' }, ...errorResponses(503) },
      },
    },
    async request => {
      parseParameters(request.query, {});
      return status.read();
    },
  );

  app.get('/healthz', { schema: { summary: 'The process answers', tags: ['status'] } }, async () => ({ status: 'ok' }));

  app.get('/readyz', { schema: { summary: 'Whether requests can be served', tags: ['status'] } }, async (_request, reply) => {
    const reasons = await unreadyReasons(nc);
    return reply.code(reasons.length === 0 ? 200 : 503).send({ ready: reasons.length === 0, reasons });
  });

  app.get('/metrics', { schema: { summary: 'Prometheus metrics', tags: ['status'], produces: ['text/plain'] } }, async (_request, reply) =>
    reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
  );
}

const READY_TIMEOUT_MS = 1_000;

async function unreadyReasons(nc: NatsConnection): Promise<string[]> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string[]>(resolve => (timer = setTimeout(resolve, READY_TIMEOUT_MS, ['NATS does not answer'])));
  const answered = nc.rtt().then(
    () => [],
    () => ['NATS is not connected'],
  );
  return Promise.race([answered, late]).finally(() => clearTimeout(timer));
}
