/**
 * One WebSocket client: what it matches, in order, as fast as it takes it. What it is too slow for is dropped, oldest first, and counted; a `loss`
 * event in its place says how much. Oldest first, because then what all slow clients hold is the same few latest messages.
 */
import type { WebSocket } from '@fastify/websocket';
import { formatTimeUs, type EventJson, type LossJson } from '@tidegate/contracts';
import type { Socket } from 'node:net';
import { BatchGatherer, type BatchGroup, type EventPlace } from './batch-order.ts';
import { matchesSubject, type EventFilter, type EventMatcher } from './event-filter.ts';
import type { EventMessage } from './event-message.ts';
import type { Follower } from './live-feed.ts';

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

/** What waits for a client: payload bytes of messages, at least those of one batch. */
export const MAX_QUEUE_BYTES = 4 * 1024 ** 2;
/** JSON handed to the socket and not taken by the client yet: above, no more is made. */
export const MAX_SOCKET_BYTES = 1024 ** 2;
/** A frame of a batched feed is sent when it has grown to this. */
const FRAME_BYTES = 64 * 1024;

/**
 * How long the rest of a batch with a hole is waited for, after each of its messages and after its first. Its messages are stored together, so that this is
 * the delay of batches that lost events, and of no others.
 */
const MAX_GAP_MS = 50;
const MAX_HOLD_MS = 250;

interface Waiting {
  /** Payload bytes. */
  bytes: number;
  /** Events that match, in order; the first `next` have been sent. */
  events: EventPlace[];
  next: number;
}

interface PendingLoss {
  count: number;
  fromUs: number;
  toUs: number;
}

export class LiveClient implements Follower {
  readonly #options: LiveClientOptions;
  /** Batches of which more may come. */
  readonly #gatherer = new BatchGatherer();
  #holdTimer: NodeJS.Timeout | undefined;
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
      clearTimeout(this.#holdTimer);
      this.#queue = [];
      this.#settleIdle();
    });
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  deliver(message: EventMessage, isWhole: boolean): void {
    if (!this.#gather(message)) return;
    if (isWhole) this.#gatherer.settle(message.batch!.node);
    this.#sendComplete();
    this.#limitHolding();
  }

  /** As `deliver`, of messages stored long ago: they tell by themselves when a batch is complete, however late they come. */
  replay(message: EventMessage): void {
    if (this.#gather(message)) this.#sendComplete();
  }

  /** From here on `deliver` goes on. */
  endReplay(): void {
    this.#limitHolding();
  }

  deliverGap(first: number, last: number): void {
    if (this.#isClosed) return;
    const nowUs = Date.now() * 1000;
    this.#send([lossEvent({ reason: 'events_discarded', count: 0, fromUs: nowUs, toUs: nowUs, streamSequences: [first, last] })]);
  }

  fail(error: unknown): void {
    this.#options.onFailure(error);
  }

  /** Resolves when all that was delivered is with the client or on its way, or the client is gone. */
  async idle(): Promise<void> {
    if (this.#isClosed || (this.#queue.length === 0 && !this.#isWaitingForDrain)) return;
    await new Promise<void>(resolve => this.#idle.push(resolve));
  }

  /** false: nothing of it is wanted. */
  #gather(message: EventMessage): boolean {
    if (this.#isClosed || !matchesSubject(this.#options.filter, message.place)) return false;
    const indices = this.#options.match(message);
    if (indices.length > 0) this.#gatherer.add(message, indices);
    return indices.length > 0;
  }

  #limitHolding(): void {
    if (this.#isClosed || !this.#gatherer.isHolding) return;
    this.#holdTimer ??= setTimeout(() => {
      this.#holdTimer = undefined;
      this.#gatherer.expire(MAX_GAP_MS, MAX_HOLD_MS);
      this.#sendComplete();
      this.#limitHolding();
    }, MAX_GAP_MS);
  }

  #sendComplete(): void {
    for (let group = this.#gatherer.take(); group; group = this.#gatherer.take()) this.#enqueue(group);
    this.#pump();
  }

  #enqueue(group: BatchGroup): void {
    this.#queue.push({ bytes: group.bytes, events: group.events(), next: 0 });
    this.#queuedBytes += group.bytes;
    while (this.#queuedBytes > MAX_QUEUE_BYTES && this.#queue.length > 1) this.#drop(this.#queue.shift()!);
  }

  #drop({ bytes, events, next }: Waiting): void {
    this.#queuedBytes -= bytes;
    const dropped = events.slice(next);
    const timesUs = [dropped[0]!, dropped.at(-1)!].map(({ message, index }) => message.timeUs(index));
    const loss = (this.#loss ??= { count: 0, fromUs: Infinity, toUs: -Infinity });
    loss.count += dropped.length;
    loss.fromUs = Math.min(loss.fromUs, ...timesUs);
    loss.toUs = Math.max(loss.toUs, ...timesUs);
    this.#options.onDropped(dropped.length);
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
        frame.push(lossEvent({ reason: 'slow_client', count, fromUs, toUs }));
        this.#loss = undefined;
      }
      for (let first = this.#queue[0]; first && frameBytes < FRAME_BYTES; first = this.#queue[0]) {
        const { message, index } = first.events[first.next++]!;
        const json = message.json(index);
        frame.push(json);
        frameBytes += json.length;
        if (first.next === first.events.length) {
          this.#queue.shift();
          this.#queuedBytes -= first.bytes;
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

/** What a loss of this connection says more: no node's clock and no node's numbers tell of it. */
interface FeedLossJson extends LossJson {
  from: string;
  to: string;
  first_stream_sequence?: number;
  last_stream_sequence?: number;
}

/** A loss of this connection alone, in the shape of an event. */
function lossEvent({ reason, count, fromUs, toUs, streamSequences }: LossDescription): Buffer {
  const loss: FeedLossJson = {
    reason,
    count,
    first_sequence: 0,
    last_sequence: 0,
    from_ktime_ns: '0',
    to_ktime_ns: '0',
    by_kind: {},
    from: formatTimeUs(fromUs),
    to: formatTimeUs(toUs),
    ...(streamSequences && { first_stream_sequence: streamSequences[0], last_stream_sequence: streamSequences[1] }),
  };
  const nowhere = { node: '', boot: '', sequence: 0, ktime_ns: '0', namespace: '', workload: '' };
  const event: EventJson = { time: formatTimeUs(toUs), kind: 'loss', ...nowhere, loss };
  return Buffer.from(JSON.stringify(event));
}
