/**
 * One WebSocket client: what it matches, in order, as fast as it takes it. What it is too slow for is dropped, oldest first, and counted; a `loss`
 * event in its place says how much. Oldest first, because then what all slow clients hold is the same few latest messages.
 */
import type { WebSocket } from '@fastify/websocket';
import type { Socket } from 'node:net';
import {
  BatchWalk,
  Order,
  readerLossJson,
  sourceKey,
  type BatchSearch,
  type EventMatcher,
  type EventMessage,
  type EventPlace,
  type Follower,
  type Place,
} from '@tidegate/events';

export interface LiveClientOptions {
  socket: WebSocket;
  /** The socket under it: written to in one go for many frames. */
  transport: Socket;
  match: EventMatcher;
  /** Where it begins. */
  place: Place;
  /** A line for the client that says up to where it has all; undefined: there is none for this place. Left out: it does not ask. */
  placeLine?: ((place: Place) => Buffer | undefined) | undefined;
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
export const FRAME_BYTES = 64 * 1024;

/** A batch of which a part is missing is sent after so long. While an enricher is taken over from, nothing else comes of the node either. */
const HOLD_MS = 10_000;
const HOLD_CHECK_MS = 1_000;
/** While history is sent: batches of which a filter shows only some parts are looked for after so many bytes. */
const SEARCH_AFTER_BYTES = 1024 ** 2;

interface Waiting {
  /** Payload bytes. */
  bytes: number;
  /** Events that match, in order; the first `next` have been sent. */
  events: EventPlace[];
  next: number;
  /** Where another would go on when none and when all of them have been sent. */
  before: Place | undefined;
  after: Place | undefined;
}

interface PendingLoss {
  count: number;
  fromUs: number;
  toUs: number;
}

export class LiveClient implements Follower {
  readonly #options: LiveClientOptions;
  readonly #walk: BatchWalk;
  #holdTimer: NodeJS.Timeout | undefined;
  #queue: Waiting[] = [];
  #queuedBytes = 0;
  #loss: PendingLoss | undefined;
  #isWaitingForDrain = false;
  #isClosed = false;
  /** Where the line sent last says to go on. */
  #toldStart = -1;
  #idle: (() => void)[] = [];

  constructor(options: LiveClientOptions) {
    this.#options = options;
    this.#walk = new BatchWalk(Order.oldest, options.place, sourceKey);
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

  deliver(message: EventMessage): void {
    if (this.#isClosed) return;
    this.#walk.add(message, this.#options.match(message));
    // Their ends were found while history was sent.
    for (const group of this.#walk.held()) this.#walk.settle(group);
    this.#sendWhole();
    this.#limitHolding();
  }

  /** As `deliver`, of messages stored long ago, among which not all parts of a batch need be. */
  async replay(message: EventMessage, search: BatchSearch): Promise<void> {
    if (this.#isClosed) return;
    this.#walk.add(message, this.#options.match(message));
    await search.settleAhead(this.#walk, SEARCH_AFTER_BYTES);
    this.#sendWhole();
  }

  /** All of history was replayed, up to this stream sequence: what is left of it is not held up by parts that the filter does not show. */
  async endReplay(search: BatchSearch, position: number): Promise<void> {
    this.#walk.pass(position);
    await search.settleAhead(this.#walk);
    this.#sendWhole();
    this.#limitHolding();
  }

  /** Tells the client up to where it has all, if that has moved: where nothing matches, nothing else does. */
  tellPlace(): void {
    const { placeLine } = this.#options;
    if (!placeLine || this.#isClosed || this.#queue.length > 0 || this.#isWaitingForDrain) return;
    const place = this.#walk.place();
    const line = place.start > this.#toldStart ? placeLine(place) : undefined;
    if (line) this.#send([line]);
    this.#toldStart = place.start;
  }

  deliverGap(first: number, last: number): void {
    if (this.#isClosed) return;
    const nowUs = Date.now() * 1000;
    this.#send([readerLossJson({ reason: 'events_discarded', count: 0, fromUs: nowUs, toUs: nowUs, streamSequences: [first, last] })]);
  }

  fail(error: unknown): void {
    this.#options.onFailure(error);
  }

  /** Resolves when all that was delivered is with the client or on its way, or the client is gone. */
  async idle(): Promise<void> {
    if (this.#isClosed || (this.#queue.length === 0 && !this.#isWaitingForDrain)) return;
    await new Promise<void>(resolve => this.#idle.push(resolve));
  }

  #limitHolding(): void {
    if (this.#isClosed || this.#holdTimer || this.#walk.held().length === 0) return;
    this.#holdTimer = setTimeout(() => {
      this.#holdTimer = undefined;
      const nowMs = performance.now();
      for (const group of this.#walk.held()) if (nowMs - group.metAtMs >= HOLD_MS) this.#walk.giveUp(group);
      this.#sendWhole();
      this.#limitHolding();
    }, HOLD_CHECK_MS);
  }

  #sendWhole(): void {
    for (let events = this.#walk.nextBatch(); events; events = this.#walk.nextBatch()) {
      const place = () => (this.#options.placeLine ? this.#walk.place() : undefined);
      const before = place();
      this.#walk.takeBatch();
      if (events.length > 0) this.#enqueue({ events, before, after: place() });
    }
    this.#pump();
  }

  #enqueue(waiting: Pick<Waiting, 'events' | 'before' | 'after'>): void {
    // What messages hold in memory counts, once each.
    const bytes = [...new Set(waiting.events.map(({ message }) => message))].reduce((sum, { size }) => sum + size, 0);
    this.#queue.push({ ...waiting, bytes, next: 0 });
    this.#queuedBytes += bytes;
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
      let place: Place | undefined;
      if (this.#loss) {
        const { count, fromUs, toUs } = this.#loss;
        frame.push(readerLossJson({ reason: 'slow_client', count, fromUs, toUs }));
        this.#loss = undefined;
      }
      for (let first = this.#queue[0]; first && frameBytes < FRAME_BYTES; first = this.#queue[0]) {
        const { message, index } = first.events[first.next++]!;
        const json = message.json(index);
        frame.push(json);
        frameBytes += json.length;
        place = placeAfter(first);
        if (first.next === first.events.length) {
          this.#queue.shift();
          this.#queuedBytes -= first.bytes;
        }
      }
      if (frame.length === 0) break;
      const line = place && this.#options.placeLine?.(place);
      this.#send(line ? [...frame, line] : frame);
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

/** Where another goes on after what was sent of a batch. */
function placeAfter({ events, next, before, after }: Waiting): Place | undefined {
  if (next === events.length || !before?.partial) return after;
  return { ...before, partial: { ...before.partial, taken: before.partial.taken + next } };
}

const NEWLINE = Buffer.from('\n');
const TEXT_FRAME = { binary: false } as const;
