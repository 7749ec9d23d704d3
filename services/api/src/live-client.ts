/**
 * One WebSocket client: what it matches, in order, as fast as it takes it. What it is too slow for is dropped, oldest first, and counted; a `loss`
 * event in its place says how much. Oldest first, because then what all slow clients hold is the same few latest messages.
 */
import type { WebSocket } from '@fastify/websocket';
import type { Socket } from 'node:net';
import { matchesSubject, type EventFilter, type EventMatcher } from './event-filter.ts';
import type { EventMessage } from './event-message.ts';
import type { Follower } from './live-feed.ts';
import { formatTimeUs } from './time-text.ts';

export interface LiveClientOptions {
  socket: WebSocket;
  /** The socket under it: written to in one go for many frames. */
  transport: Socket;
  filter: EventFilter;
  match: EventMatcher;
  /** Several events a frame, as NDJSON. */
  isBatched: boolean;
  onSent: (events: number) => void;
  onFailure: (error: unknown) => void;
  onDropped: (events: number) => void;
}

/** What waits for a client: payload bytes of messages, at least one message. */
export const MAX_QUEUE_BYTES = 4 * 1024 ** 2;
/** JSON handed to the socket and not taken by the client yet: above, no more is made. */
export const MAX_SOCKET_BYTES = 1024 ** 2;
/** A frame of a batched feed is sent when it has grown to this. */
const FRAME_BYTES = 64 * 1024;

interface Waiting {
  message: EventMessage;
  /** Events that match, in order; the first `next` have been sent. */
  indices: number[];
  next: number;
}

interface PendingLoss {
  count: number;
  fromUs: number;
  toUs: number;
}

export class LiveClient implements Follower {
  readonly #options: LiveClientOptions;
  #queue: Waiting[] = [];
  #queuedBytes = 0;
  #loss: PendingLoss | undefined;
  #isWaitingForDrain = false;
  #isClosed = false;
  #idle: (() => void)[] = [];

  constructor(options: LiveClientOptions) {
    this.#options = options;
    options.socket.once('close', () => {
      this.#isClosed = true;
      this.#queue = [];
      this.#settleIdle();
    });
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  deliver(message: EventMessage): void {
    if (this.#isClosed || !matchesSubject(this.#options.filter, message.place)) return;
    const indices = this.#options.match(message);
    if (indices.length === 0) return;
    this.#queue.push({ message, indices, next: 0 });
    this.#queuedBytes += message.size;
    while (this.#queuedBytes > MAX_QUEUE_BYTES && this.#queue.length > 1) this.#drop(this.#queue.shift()!);
    this.#pump();
  }

  deliverGap(first: number, last: number): void {
    if (this.#isClosed) return;
    const nowUs = Date.now() * 1000;
    this.#send([lossJson({ reason: 'events_discarded', count: 0, fromUs: nowUs, toUs: nowUs, streamSequences: [first, last] })]);
  }

  fail(error: unknown): void {
    this.#options.onFailure(error);
  }

  /** Resolves when all that was delivered is with the client or on its way, or the client is gone. */
  async idle(): Promise<void> {
    if (this.#isClosed || (this.#queue.length === 0 && !this.#isWaitingForDrain)) return;
    await new Promise<void>(resolve => this.#idle.push(resolve));
  }

  #drop({ message, indices, next }: Waiting): void {
    this.#queuedBytes -= message.size;
    const count = indices.length - next;
    const fromUs = message.timeUs(indices[next]!);
    const toUs = message.timeUs(indices.at(-1)!);
    this.#loss ??= { count: 0, fromUs, toUs };
    this.#loss = { count: this.#loss.count + count, fromUs: Math.min(this.#loss.fromUs, fromUs), toUs: Math.max(this.#loss.toUs, toUs) };
    this.#options.onDropped(count);
  }

  /** Sends until the queue is empty or the socket holds enough. */
  #pump(): void {
    const { socket, transport } = this.#options;
    if (this.#isWaitingForDrain || this.#isClosed) return;
    transport.cork();
    while (socket.bufferedAmount < MAX_SOCKET_BYTES) {
      const frame: Buffer[] = [];
      let frameBytes = 0;
      if (this.#loss) {
        const { count, fromUs, toUs } = this.#loss;
        frame.push(lossJson({ reason: 'slow_client', count, fromUs, toUs }));
        this.#loss = undefined;
      }
      for (let first = this.#queue[0]; first && frameBytes < FRAME_BYTES; first = this.#queue[0]) {
        const json = first.message.json(first.indices[first.next++]!);
        frame.push(json);
        frameBytes += json.length;
        if (first.next === first.indices.length) {
          this.#queue.shift();
          this.#queuedBytes -= first.message.size;
        }
      }
      if (frame.length === 0) break;
      this.#send(frame);
      this.#options.onSent(frame.length);
    }
    if (socket.bufferedAmount >= MAX_SOCKET_BYTES) {
      this.#isWaitingForDrain = true;
      transport.once('drain', () => {
        this.#isWaitingForDrain = false;
        this.#pump();
      });
    }
    transport.uncork();
    if (this.#queue.length === 0 && !this.#isWaitingForDrain) this.#settleIdle();
  }

  #send(events: readonly Buffer[]): void {
    const { socket, isBatched } = this.#options;
    if (isBatched) socket.send(Buffer.concat(events.flatMap(json => [json, NEWLINE])), TEXT_FRAME);
    else for (const json of events) socket.send(json, TEXT_FRAME);
  }

  #settleIdle(): void {
    for (const resolve of this.#idle.splice(0)) resolve();
  }
}

const NEWLINE = Buffer.from('\n');
const TEXT_FRAME = { binary: false } as const;

interface LossDescription {
  reason: 'slow_client' | 'events_discarded';
  /** Events that matched and were dropped; 0: not known. */
  count: number;
  fromUs: number;
  toUs: number;
  streamSequences?: [number, number];
}

/** A loss of this connection alone, in the shape of an event. */
function lossJson({ reason, count, fromUs, toUs, streamSequences }: LossDescription): Buffer {
  return Buffer.from(
    JSON.stringify({
      time: formatTimeUs(toUs),
      kind: 'loss',
      node: '',
      boot: '',
      sequence: 0,
      ktime_ns: 0,
      namespace: '',
      workload: '',
      loss: {
        reason,
        count,
        from: formatTimeUs(fromUs),
        to: formatTimeUs(toUs),
        ...(streamSequences && { first_stream_sequence: streamSequences[0], last_stream_sequence: streamSequences[1] }),
      },
    }),
  );
}
