/** The API as one fastify application on one NATS connection. */
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import websocket from '@fastify/websocket';
import type { NatsConnection } from '@nats-io/nats-core';
import { openEvents } from '@tidegate/events';
import { createNodeRegistry, malformedEntries, type Logger } from '@tidegate/runtime';
import fastify, { LogController, type FastifyInstance, type FastifyReply } from 'fastify';
import { createApiMetrics, type ApiMetrics } from './api-metrics.ts';
import { ApiError, toApiError } from './errors.ts';
import { registerEventRoutes } from './event-routes.ts';
import { Close, registerLiveRoute } from './live-route.ts';
import { registerNodeRoutes } from './node-routes.ts';
import { createPaces } from './pace.ts';
import { registerPageRoutes } from './page-routes.ts';
import { registerProcessRoutes } from './process-routes.ts';
import { createProcessCandidates } from './process-candidates.ts';
import { createProcessTrees } from './process-tree.ts';
import { guardRequests } from './request-guard.ts';
import { createRequestSlots } from './request-slots.ts';
import { SHARED_SCHEMAS } from './response-schemas.ts';
import { createStatusReader } from './status.ts';
import { registerStatusRoutes } from './status-routes.ts';

export interface ApiOptions {
  nc: NatsConnection;
  logger: Logger;
  host: string;
  /** 0: any free one. */
  port: number;
  /** Host names besides loopback ones that requests may be addressed to. */
  allowedHosts?: readonly string[];
  maxLiveClients?: number;
}

export interface Api {
  readonly url: string;
  readonly app: FastifyInstance;
  /** Ends WebSockets with 1001 and running requests; the connection to NATS stays open. */
  close(): Promise<void>;
}

/** exec_id: base64 of a node's name of up to 253 characters and two numbers. */
const MAX_PATH_PARAMETER_LENGTH = 512;
/** Clients of the live feed send nothing but control frames. */
const MAX_CLIENT_MESSAGE_BYTES = 4096;
const MAX_BODY_BYTES = 1024;
/** Clients have this long to answer the closing of their WebSocket. */
const CLOSE_GRACE_MS = 2_000;
const REQUEST_TIMEOUT_MS = 10_000;
const DEFAULT_MAX_LIVE_CLIENTS = 100;

export async function createApi({
  nc,
  logger,
  host,
  port,
  allowedHosts = [],
  maxLiveClients = DEFAULT_MAX_LIVE_CLIENTS,
}: ApiOptions): Promise<Api> {
  const metrics = createApiMetrics();
  const events = await openEvents(nc, {
    logger,
    malformed: malformedEntries(metrics.metrics),
    onUnreadable: () => metrics.unreadableMessages.inc(),
  });
  const { history, readers, feeds, buckets } = events;
  const registry = createNodeRegistry(buckets);
  metrics.observeFeedMessages(() => feeds.messages);
  const slots = createRequestSlots();
  const paces = createPaces(nc, buckets, logger);

  const app = fastify({
    loggerInstance: logger,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: MAX_BODY_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: true,
    routerOptions: { maxParamLength: MAX_PATH_PARAMETER_LENGTH },
    // A path that cannot be decoded, or with a part that is too long, comes to no hook and no handler.
    frameworkErrors: (error, _request, reply) => void answerError(error, reply, logger),
  }) as unknown as FastifyInstance;
  // Parameters are checked with their own table, which lists every fault at once; answers are made by us.
  app.setValidatorCompiler(() => () => true);
  app.setSerializerCompiler(() => data => JSON.stringify(data));
  app.decorateRequest('live', undefined);
  answerErrors(app, logger);
  measureRequests(app, metrics);

  await registerWebSockets(app);
  // After the WebSocket plugin: its own hook must have seen a request that is refused here, or the connection stays open.
  guardRequests(app, allowedHosts);
  for (const [$id, schema] of Object.entries(SHARED_SCHEMAS)) app.addSchema({ $id, ...schema });
  await app.register(swagger, { openapi: DESCRIPTION, refResolver: { buildLocalReference: ({ $id }) => String($id) } });
  // Without its bar on top, which breaks every content security policy and offers to load other descriptions.
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    staticCSP: DOCS_POLICY,
    uiConfig: { layout: 'BaseLayout' },
    theme: { title: 'Tidegate API' },
  });
  await app.register(async routes => {
    registerEventRoutes(routes, history, slots);
    registerLiveRoute(routes, { events, paces, maxClients: maxLiveClients, metrics, logger });
    registerProcessRoutes(routes, createProcessTrees(history, readers), createProcessCandidates(history, readers), slots);
    registerStatusRoutes(routes, nc, createStatusReader(nc, readers, registry, buckets), metrics);
    registerNodeRoutes(routes, registry);
    registerPageRoutes(routes);
  });
  const url = await app.listen({ host, port });

  let closing: Promise<void> | undefined;
  return {
    url,
    app,
    close: () =>
      (closing ??= (async () => {
        const closed = app.close();
        paces.close();
        events.close();
        await closed;
      })()),
  };
}

/** Nothing from elsewhere; and no upgrade to HTTPS, which is not spoken here. */
const DOCS_POLICY =
  "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const DESCRIPTION = {
  openapi: '3.1.0',
  info: {
    title: 'Tidegate API',
    version: '1',
    description: 'Kernel events with Kubernetes identity: as history, live, and as process trees. Loopback only, without sign-in.',
  },
  tags: [
    { name: 'events', description: 'History and live feed' },
    { name: 'processes', description: 'Process trees' },
    { name: 'nodes', description: 'Nodes that report, and that have left' },
    { name: 'status', description: 'State, health and metrics' },
  ],
};

function answerErrors(app: FastifyInstance, logger: Logger): void {
  app.setNotFoundHandler(async (_request, reply) =>
    reply.code(404).send(new ApiError('NOT_FOUND', 'there is nothing at this path; see /docs').toJSON()),
  );
  app.setErrorHandler(async (error: Error & { statusCode?: number }, _request, reply) => answerError(error, reply, logger));
}

function answerError(error: Error & { statusCode?: number }, reply: FastifyReply, logger: Logger): FastifyReply {
  const answer = toApiError(error);
  if (answer) {
    if (answer.statusCode >= 500) logger.warn({ code: answer.code, reason: answer.message }, 'request not served');
    return reply.code(answer.statusCode).send(answer.toJSON());
  }
  // Faults that fastify finds itself.
  const { statusCode = 500 } = error;
  if (statusCode < 500) return reply.code(statusCode).send(new ApiError('BAD_REQUEST', error.message).toJSON());
  logger.error({ err: error }, 'request failed');
  return reply.code(500).send(new ApiError('INTERNAL', 'a fault of the API').toJSON());
}

async function registerWebSockets(app: FastifyInstance): Promise<void> {
  await app.register(websocket, {
    options: { maxPayload: MAX_CLIENT_MESSAGE_BYTES, perMessageDeflate: false },
    // A client that breaks the protocol, or is gone without a word.
    errorHandler: (_error, socket) => socket.terminate(),
    preClose: done => {
      const { clients } = app.websocketServer;
      for (const client of clients) client.close(Close.goingAway, 'the API is stopping');
      const timer = setTimeout(() => clients.forEach(client => client.terminate()), CLOSE_GRACE_MS);
      app.websocketServer.close(() => {
        clearTimeout(timer);
        done();
      });
    },
  });
}

function measureRequests(app: FastifyInstance, { requestSeconds }: ApiMetrics): void {
  app.addHook('onResponse', async (request, reply) => {
    requestSeconds.observe({ route: request.routeOptions.url ?? 'none', status: String(reply.statusCode) }, reply.elapsedTime / 1000);
  });
}
