import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { credsAuthenticator, errors, type NatsConnection, type QueuedIterator, type Status } from '@nats-io/nats-core';
import type { NatsConnectionImpl } from '@nats-io/nats-core/internal';
import { connect, type NodeConnectionOptions } from '@nats-io/transport-node';
import { TidegateError } from './errors.ts';
import type { Logger } from './logging.ts';

export interface NatsOptions {
  /** One or more addresses with commas: nats://127.0.0.1:4222. */
  url: string;
  /** Shown by the server's monitoring. */
  name: string;
  user?: string | undefined;
  password?: string | undefined;
  /** File with JWT and seed, instead of user and password. */
  credentialsFile?: string | undefined;
  /** The service's own, where its user may subscribe. Default: _INBOX. */
  inboxPrefix?: string | undefined;
  logger: Logger;
  /** Gives up waiting for the first connection. */
  signal?: AbortSignal | undefined;
}

const CONNECT_TIMEOUT_MS = 5_000;
const RECONNECT_WAIT_MS = 250;
/** Two missed pings of this interval end a connection that died without a word. */
const PING_INTERVAL_MS = 10_000;
const MAX_PINGS_OUT = 2;
/** While the first connection is awaited, one log line in so many milliseconds. */
const WAIT_LOG_INTERVAL_MS = 10_000;

/**
 * Connects, waiting for the server as long as it takes, and reconnects for ever after. Throws NATS_AUTHORIZATION when the server refuses
 * the user at the first connection, NATS_UNREACHABLE when `signal` aborts the wait.
 */
export async function connectNats({
  url,
  name,
  user,
  password,
  credentialsFile,
  inboxPrefix,
  logger,
  signal,
}: NatsOptions): Promise<NatsConnection> {
  const servers = url.split(',').map(server => server.trim());
  const options: NodeConnectionOptions = {
    servers,
    name,
    maxReconnectAttempts: -1,
    reconnectDelayHandler: reconnectDelays(servers.length),
    timeout: CONNECT_TIMEOUT_MS,
    pingInterval: PING_INTERVAL_MS,
    maxPingOut: MAX_PINGS_OUT,
    // A server that restarts may refuse users until its accounts are loaded.
    ignoreAuthErrorAbort: true,
    ...(user !== undefined && { user }),
    ...(password !== undefined && { pass: password }),
    ...(credentialsFile !== undefined && { authenticator: credsAuthenticator(readFileSync(credentialsFile)) }),
    ...(inboxPrefix !== undefined && { inboxPrefix }),
  };
  let lastLogMs = -Infinity;
  for (;;) {
    if (signal?.aborted === true) throw new TidegateError('NATS_UNREACHABLE', 'stopped while waiting for NATS', { field: 'url', got: url });
    try {
      const nc = await connect(options);
      logger.info({ url, server: nc.info?.server_name, version: nc.info?.version }, 'connected to NATS');
      watchStatus(nc, status => logStatus(nc, status, logger));
      return nc;
    } catch (error) {
      if (error instanceof errors.AuthorizationError) {
        throw new TidegateError('NATS_AUTHORIZATION', 'NATS refused the user', { field: 'user', got: user ?? 'none', cause: error });
      }
      const nowMs = performance.now();
      if (nowMs - lastLogMs >= WAIT_LOG_INTERVAL_MS) {
        lastLogMs = nowMs;
        logger.warn({ url, reason: error instanceof Error ? error.message : String(error) }, 'waiting for NATS');
      }
      await delay(RECONNECT_WAIT_MS, undefined, signal && { signal }).catch(() => undefined);
    }
  }
}

/**
 * How long to wait between two dials of one server. The client compares times of day, and after the clock was put back by an hour it would not dial for an hour:
 * then each server is dialled at once, once.
 */
function reconnectDelays(servers: number): () => number {
  let lastMs = 0;
  let backMs = 0;
  let left = 0;
  return () => {
    const nowMs = Date.now();
    if (nowMs < lastMs) [backMs, left] = [lastMs - nowMs, servers];
    lastMs = nowMs;
    return left-- > 0 ? -backMs - RECONNECT_WAIT_MS : RECONNECT_WAIT_MS;
  };
}

/** The prefix under which this connection's user may receive replies. */
export function inboxPrefixOf(nc: NatsConnection): string {
  return (nc as NatsConnectionImpl).options.inboxPrefix ?? '_INBOX';
}

/** Calls back for every change of the connection, until the returned function is called or the connection is closed. */
export function watchStatus(nc: NatsConnection, onStatus: (status: Status) => void): () => void {
  const statuses = nc.status() as QueuedIterator<Status>;
  void (async () => {
    for await (const status of statuses) onStatus(status);
  })();
  return () => statuses.stop();
}

/** Whether the connected server is `version` (x.y.z) or newer; false while it is not connected. */
export function serverAtLeast(nc: NatsConnection, version: string): boolean {
  return nc.info !== undefined && compareVersions(nc.info.version, version) >= 0;
}

/** Negative, zero or positive, by major, minor and patch number; pre-release and build tags are not looked at. */
export function compareVersions(left: string, right: string): number {
  const [a, b] = [left, right].map(text => (/\d+(\.\d+)*/.exec(text)?.[0] ?? '0').split('.').map(Number));
  for (let i = 0; i < 3; i++) {
    const difference = (a?.[i] ?? 0) - (b?.[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function logStatus(nc: NatsConnection, status: Status, logger: Logger): void {
  switch (status.type) {
    case 'disconnect':
      logger.warn({ server: status.server }, 'lost the connection to NATS');
      break;
    case 'reconnect':
      logger.info({ server: status.server, version: nc.info?.version }, 'connected to NATS again');
      break;
    case 'error':
      logger.error({ err: status.error }, 'NATS reported an error');
      break;
    case 'slowConsumer':
      logger.warn({ subject: status.sub.getSubject(), pending: status.pending }, 'slow NATS subscription');
      break;
    default:
      logger.debug({ status: status.type }, 'NATS status');
  }
}
