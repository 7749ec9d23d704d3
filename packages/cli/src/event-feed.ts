/** Events as they happen, from the API's WebSocket, over lost connections without a gap or a repetition. */
import { setTimeout as delay } from 'node:timers/promises';
import type { EventJson } from '@tidegate/contracts';
import type { TidegateError } from '@tidegate/runtime';
import { WebSocket } from 'ws';
import { apiUrl, refusal, unreachable, type Query } from './api-client.ts';

const CONNECT_TIMEOUT_MS = 10_000;
const RECONNECT_MIN_MS = 250;
const RECONNECT_MAX_MS = 5_000;
const MAX_FRAME_BYTES = 16 * 1024 * 1024;
const MAX_BODY_BYTES = 64 * 1024;
/** The other side must answer a ping within the interval. */
const PING_INTERVAL_MS = 15_000;

export interface FeedOptions {
  apiUrl: string;
  /** Filters, and `from` to begin in the past. */
  query: Query;
  signal: AbortSignal;
  /** Reading waits for it. */
  onEvent(event: EventJson): Promise<void>;
  /** The connection was lost, or is there again. */
  onConnection(state: 'lost' | 'again', reason: string): void;
}

/**
 * Runs until the signal is aborted.
 * @throws {TidegateError} API_UNREACHABLE when the first connection fails, API_REFUSED at any time
 */
export async function followEvents({ apiUrl: base, query, signal, onEvent, onConnection }: FeedOptions): Promise<void> {
  const from = query['from'] ?? new Date().toISOString();
  /** Names what comes next; the API sends it behind the events of a frame. */
  let cursor: string | undefined;
  let hasConnected = false;
  let waitMs = RECONNECT_MIN_MS;
  while (!signal.aborted) {
    const start = cursor === undefined && hasConnected ? { from } : { cursor };
    const connection = await connect(base, { ...query, ...start, cursors: 'true', pace: 'live' }, signal).catch((error: unknown) => {
      if (signal.aborted) return undefined;
      if (!hasConnected || isRefusal(error)) throw error;
      return undefined;
    });
    if (connection) {
      if (hasConnected) onConnection('again', '');
      hasConnected = true;
      for await (const frame of connection.frames) {
        waitMs = RECONNECT_MIN_MS;
        for (const line of frame.split('\n')) {
          if (line === '') continue;
          const said = JSON.parse(line) as EventJson | { cursor: string };
          if ('cursor' in said) ({ cursor } = said);
          else await onEvent(said);
        }
      }
      if (!signal.aborted) onConnection('lost', connection.reason());
    }
    await delay(waitMs, undefined, { signal }).catch(() => undefined);
    waitMs = Math.min(waitMs * 2, RECONNECT_MAX_MS);
  }
}

interface Connection {
  /** Ends when the connection does. */
  frames: AsyncIterable<string>;
  reason(): string;
}

async function connect(base: string, query: Query, signal: AbortSignal): Promise<Connection> {
  const url = apiUrl(base, 'api/v1/events/live', query);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(url, { handshakeTimeout: CONNECT_TIMEOUT_MS, maxPayload: MAX_FRAME_BYTES });
  const frames: string[] = [];
  let wake: (() => void) | undefined;
  let isClosed = false;
  let reason = 'the connection broke';
  const change = () => {
    wake?.();
    wake = undefined;
  };
  const abort = () => {
    // A paused socket would not read the answer to its close.
    socket.resume();
    if (socket.readyState === WebSocket.OPEN) socket.close(1000);
    else socket.terminate();
  };
  signal.addEventListener('abort', abort, { once: true });
  // Two frames at most wait here; the rest waits in the socket, and the server notices.
  socket.on('message', data => {
    if (signal.aborted) return;
    frames.push(String(data));
    socket.pause();
    change();
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve);
    socket.once('error', error => reject(unreachable(base, error)));
    socket.once('unexpected-response', (_request, response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        if (body.length < MAX_BODY_BYTES) body += chunk;
      });
      response.on('end', () => reject(refusal(response.statusCode ?? 0, body)));
      response.on('error', error => reject(unreachable(base, error)));
    });
  }).catch((error: unknown) => {
    signal.removeEventListener('abort', abort);
    throw error;
  });
  let isAlive = true;
  const pings = setInterval(() => {
    // A paused socket reads no pong: the reader is slow, not the connection.
    if (!isAlive && !socket.isPaused) return socket.terminate();
    isAlive = socket.isPaused;
    socket.ping();
  }, PING_INTERVAL_MS);
  socket.on('pong', () => (isAlive = true));
  socket.on('error', error => (reason = error.message));
  socket.once('close', (code, text) => {
    clearInterval(pings);
    signal.removeEventListener('abort', abort);
    if (code !== 1006) reason = `closed by the API (${code}${text.length > 0 ? ` ${text.toString()}` : ''})`;
    isClosed = true;
    change();
  });
  async function* read(): AsyncGenerator<string> {
    for (;;) {
      const frame = frames.shift();
      if (frame !== undefined) yield frame;
      else if (isClosed) return;
      else {
        const changed = new Promise<void>(resolve => (wake = resolve));
        if (socket.readyState === WebSocket.OPEN) socket.resume();
        await changed;
      }
    }
  }
  return { frames: read(), reason: () => reason };
}

function isRefusal(error: unknown): error is TidegateError {
  // What the API does not accept once it never will; overload and a missing stream pass.
  return error instanceof Error && 'code' in error && error.code === 'API_REFUSED' && !/got 5\d\d/.test(error.message);
}
