/**
 * Reads a stream in order from a point on, without a gap or a duplicate over anything that happens to the connection: through a named pull consumer
 * without acks, so that the place in the stream is the reader's own, made again behind the last message taken on any trouble. (The client's
 * ordered consumer stalls for 44 s after a server's restart.)
 */
import { setTimeout as delay } from 'node:timers/promises';
import { AckPolicy, DeliverPolicy, jetstreamManager, type ConsumerConfig, type JetStreamManager } from '@nats-io/jetstream';
import { createInbox, nanos, nuid, type Msg, type MsgHdrs, type NatsConnection, type Subscription } from '@nats-io/nats-core';
import type { MsgImpl } from '@nats-io/nats-core/internal';
import { TidegateError } from './errors.ts';
import { inboxPrefixOf, watchStatus } from './nats.ts';

/** One message of a stream. */
export interface StreamMessage {
  subject: string;
  headers: MsgHdrs | undefined;
  data: Uint8Array;
  streamSequence: number;
  /** When the stream stored it, nanoseconds since 1970 (not exact: 256 ns). */
  timeNs: number;
  /** Bytes, with headers and subject. */
  size: number;
  /** Messages that wait behind it. */
  pending: number;
}

/** One message, read by itself. */
export type StoredMessage = Pick<StreamMessage, 'streamSequence' | 'timeNs' | 'headers' | 'data'>;

/** A message that was taken, by which the same place is found in a stream that has lost its end since. */
export interface StreamPlace {
  streamSequence: number;
  /** When the stream stored it, milliseconds since 1970. */
  timeMs: number;
}

/** A stream sequence, a time of storing, behind a message that was taken, or the last message of each subject and then everything. */
export type ReaderStart = { streamSequence: number } | { timeMs: number } | { after: StreamPlace } | 'last-per-subject';

export interface StreamReaderOptions {
  stream: string;
  start: ReaderStart;
  /** Empty or left out: all subjects. `last-per-subject` needs one. Several: from nats-server 2.10 on. */
  subjects?: readonly string[];
  /** Stream sequence with which reading ends. */
  last?: number;
  headersOnly?: boolean;
  /** Awaited before each pull: bytes it may bring. A larger message comes alone. Only when all of one pull was taken the next is sent. */
  windowBytes?: () => number | Promise<number>;
  /** Failures in a row after which reading rejects. */
  maxAttempts?: number;
}

export interface StreamReader {
  /**
   * Stream sequence of the last message taken; 0: none yet. All that matches up to it was taken. It goes back when the stream has: a server that lost power forgets
   * the messages that it had not written to its disk, and gives their sequences to others.
   */
  readonly position: number;
  /**
   * The messages, in order, up to the end of the stream, or with `follow` on and on. May be called again to go on. Ends when the reader is closed.
   * @throws {TidegateError} STREAM_UNAVAILABLE
   */
  read(options: { follow: boolean }): AsyncGenerator<StreamMessage, void, undefined>;
  close(): void;
}

export interface StreamBounds {
  /** Stream sequences; an empty one's first is its last plus one. */
  first: number;
  last: number;
  /** When the stream was made, RFC 3339. */
  created: string;
  /** When the last message was stored, and what time it is at the server, milliseconds since 1970; where it holds none, the first is of no use. */
  lastStoredAtMs: number;
  nowMs: number;
}

/** Opens readers on one connection. */
export interface StreamReaders {
  readonly manager: JetStreamManager;
  /** How long what a stream holds may be less than it had acknowledged, milliseconds: in a cluster a leader that was just elected catches up. */
  readonly catchUpMs: number;
  open(options: StreamReaderOptions): StreamReader;
  /** Sequence of the first message stored at or after a time, or the one the next message will get. @throws {TidegateError} STREAM_UNAVAILABLE */
  sequenceAt(stream: string, timeMs: number): Promise<number>;
  /**
   * Stream sequence at which what was stored after a place begins: the next one, or less when the stream has lost its end since, or was made anew. Before it says so
   * it asks for some seconds, because a leader that was just elected may be behind. @throws {TidegateError} STREAM_UNAVAILABLE
   */
  sequenceAfter(stream: string, place: StreamPlace): Promise<number>;
  /** @throws {TidegateError} STREAM_UNAVAILABLE */
  bounds(stream: string): Promise<StreamBounds>;
  /**
   * One message of a subject, which may have wildcards: the first from a sequence on, or the last; undefined when there is none.
   * @throws {TidegateError} STREAM_UNAVAILABLE
   */
  message(stream: string, subject: string, which: { from: number } | 'last'): Promise<StoredMessage | undefined>;
  /** Closes all readers; the connection stays open. */
  close(): void;
}

/** The server forgets a consumer that nobody pulls from. */
const INACTIVE_THRESHOLD_MS = 30_000;
const PULL_BYTES = 4 * 1024 ** 2;
/** What bounds a pull is its bytes. One is under way at a time, and a busy server takes 20 ms: at 256 messages a reader of all nodes' small ones fell behind at 14,000 a second. */
const PULL_MESSAGES = 4_096;
const PULL_EXPIRES_MS = 30_000;
const HEARTBEAT_MS = 4_000;
/** Two heartbeats and a bit: then the pull is lost. */
const MAX_SILENCE_MS = 10_000;
const RETRY_MIN_MS = 50;
const RETRY_MAX_MS = 2_000;
const DEFAULT_MAX_ATTEMPTS = 3;
/** A stream's leader has applied within milliseconds what was agreed on before it was elected. */
const CATCH_UP_MS = 3_000;
const CATCH_UP_POLL_MS = 100;

export async function createStreamReaders(nc: NatsConnection): Promise<StreamReaders> {
  const manager = await jetstreamManager(nc, { checkAPI: false });
  const readers = new Set<ResumingReader>();
  let isClosed = false;
  const unwatch = watchStatus(nc, ({ type }) => {
    if (type === 'reconnect') readers.forEach(reader => reader.interrupt());
  });
  return {
    manager,
    get catchUpMs() {
      return catchUpMs(nc);
    },
    open(options) {
      const reader = new ResumingReader(nc, manager, options, () => readers.delete(reader));
      if (isClosed) reader.close();
      else readers.add(reader);
      return reader;
    },
    sequenceAt: (stream, timeMs) => available(stream, () => sequenceAt(manager, stream, timeMs)),
    sequenceAfter: (stream, place) => available(stream, () => sequenceAfter(nc, manager, stream, place)),
    bounds: stream =>
      available(stream, async () => {
        const { state, created, ts } = await manager.streams.info(stream);
        return {
          first: state.messages === 0 ? state.last_seq + 1 : state.first_seq,
          last: state.last_seq,
          created,
          lastStoredAtMs: Date.parse(state.last_ts),
          nowMs: ts === undefined ? Date.now() : Date.parse(ts), // servers from 2.10 on say it
        };
      }),
    message: (stream, subject, which) =>
      available(stream, async () => {
        // The client's type leaves out `next_by_subj`, which servers take from 2.9 on.
        const request = which === 'last' ? { last_by_subj: subject } : ({ seq: which.from, next_by_subj: subject } as { seq: number });
        const message = await manager.streams.getMessage(stream, request);
        return message
          ? { streamSequence: message.seq, timeNs: message.time.getTime() * 1e6, headers: message.header, data: message.data }
          : undefined;
      }),
    close() {
      isClosed = true;
      unwatch();
      readers.forEach(reader => reader.close());
    },
  };
}

/** One consumer after the other, each behind the last message taken. */
class ResumingReader implements StreamReader {
  position = 0;
  readonly #nc: NatsConnection;
  readonly #manager: JetStreamManager;
  readonly #options: StreamReaderOptions;
  readonly #onClose: () => void;
  readonly #closing = new AbortController();
  #consumer: PullConsumer | undefined;
  #hasStarted = false;
  /** When all up to `position` had been stored; undefined: not known yet. */
  #positionTimeMs: number | undefined;
  /** All last messages of subjects were taken: from here on it is a place in the stream that one can go on from. */
  #isPastLasts: boolean;

  constructor(nc: NatsConnection, manager: JetStreamManager, options: StreamReaderOptions, onClose: () => void) {
    this.#nc = nc;
    this.#manager = manager;
    this.#options = options;
    this.#onClose = onClose;
    this.#isPastLasts = options.start !== 'last-per-subject';
    const { start } = options;
    if (typeof start !== 'object') return;
    if ('streamSequence' in start) this.position = Math.max(0, start.streamSequence - 1);
    if ('after' in start) {
      this.position = start.after.streamSequence;
      this.#positionTimeMs = start.after.timeMs;
    }
  }

  async *read({ follow }: { follow: boolean }): AsyncGenerator<StreamMessage, void, undefined> {
    const { last = Infinity, maxAttempts = DEFAULT_MAX_ATTEMPTS } = this.#options;
    const { signal } = this.#closing;
    let failures = 0;
    while (!signal.aborted && this.position < last) {
      try {
        const consumer = (this.#consumer ??= await this.#createConsumer());
        const message = await consumer.next(follow);
        if (signal.aborted) return;
        if (!message || message.pending === 0) this.#isPastLasts = true;
        if (!message || message.streamSequence > last) return;
        failures = 0;
        // A last message of a subject that was taken before trouble.
        if (message.streamSequence <= this.position) continue;
        this.position = message.streamSequence;
        this.#positionTimeMs = message.timeNs / 1e6;
        yield message;
      } catch (error) {
        this.#dropConsumer();
        if (signal.aborted) return;
        if (++failures >= maxAttempts) throw unavailable(this.#options.stream, error);
        await delay(Math.min(RETRY_MIN_MS * 2 ** failures, RETRY_MAX_MS), undefined, { signal }).catch(() => undefined);
      }
    }
  }

  /** Gives up the consumer: the connection was lost and came back. */
  interrupt(): void {
    this.#consumer?.fail('the connection was interrupted');
  }

  close(): void {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
    this.#dropConsumer();
    this.#onClose();
  }

  async #createConsumer(): Promise<PullConsumer> {
    const { stream, start } = this.#options;
    await this.#findPosition();
    const from =
      (typeof start === 'object' && 'after' in start) || (this.#hasStarted && this.#isPastLasts)
        ? { streamSequence: this.position + 1 }
        : start;
    const info = await this.#manager.consumers.add(stream, consumerConfig({ ...this.#options, start: from }));
    if (!this.#hasStarted && typeof start === 'object' && 'timeMs' in start) this.position = info.delivered.stream_seq;
    this.#hasStarted = true;
    // Nothing taken yet: what comes later than now lies behind it.
    this.#positionTimeMs ??= Date.parse(info.created);
    const consumer = new PullConsumer(this.#nc, this.#manager, info.name, { ...this.#options, after: this.position });
    if (this.#closing.signal.aborted) consumer.close();
    return consumer;
  }

  /** A stream that has gone back, or was made anew: without this the reader would pass over what is new, or wait for a sequence that is far away. */
  async #findPosition(): Promise<void> {
    if (this.#positionTimeMs === undefined) return;
    const place = { streamSequence: this.position, timeMs: this.#positionTimeMs };
    const next = await sequenceAfter(this.#nc, this.#manager, this.#options.stream, place);
    if (next <= this.position) this.position = next - 1;
  }

  #dropConsumer(): void {
    this.#consumer?.close();
    this.#consumer = undefined;
  }
}

interface PullOptions extends StreamReaderOptions {
  /** Stream sequence before the first message. */
  after: number;
}

/** One consumer: pulls one window at a time, when all of the one before was taken. After any trouble it is of no use any more. */
class PullConsumer {
  readonly #nc: NatsConnection;
  readonly #manager: JetStreamManager;
  readonly #name: string;
  readonly #options: PullOptions;
  readonly #inbox: string;
  readonly #subscription: Subscription;
  readonly #watchdog: NodeJS.Timeout;
  /** Bounded by the window. */
  readonly #arrived: StreamMessage[] = [];
  #wake: (() => void) | undefined;
  #failure: Error | undefined;
  #delivered = 0;
  /** Stream sequence of the latest arrival. */
  #reached: number;
  /** Of the present pull: its replies of status come to `<inbox>.<number>`, those of an earlier one mean nothing any more. */
  #pullNumber = 0;
  #messagesLeft = 0;
  #bytesLeft = 0;
  #received = 0;
  /** A pull is under way, or waits for its window. */
  #isPulling = false;
  /** The server has it. */
  #isRequested = false;
  /** The server had no more for now. */
  #isAtEnd = false;
  #follow = false;

  constructor(nc: NatsConnection, manager: JetStreamManager, name: string, options: PullOptions) {
    this.#nc = nc;
    this.#manager = manager;
    this.#name = name;
    this.#options = options;
    this.#reached = options.after;
    this.#inbox = createInbox(inboxPrefixOf(nc));
    this.#subscription = nc.subscribe(`${this.#inbox}.*`, {
      callback: (error, message) => (error ? this.fail(error.message) : this.#onReply(message)),
    });
    // Waiting for a window, or for what arrived to be taken, is no silence of the server's.
    this.#watchdog = setTimeout(() => this.#isRequested && this.fail('NATS is silent'), MAX_SILENCE_MS);
  }

  /** The next message; undefined at the end of the stream, without `follow` only. Rejects after trouble, whatever has arrived. */
  async next(follow: boolean): Promise<StreamMessage | undefined> {
    this.#follow = follow;
    for (;;) {
      if (this.#failure) throw this.#failure;
      const message = this.#arrived.shift();
      const { last = Infinity } = this.#options;
      const isWanted = message === undefined || message.streamSequence < last;
      if (this.#arrived.length === 0 && !this.#isPulling && isWanted) {
        // What is asked for while the last message is worked on is there when that is done.
        if (!this.#isAtEnd || (follow && !message)) this.#pull();
        else if (!message) {
          this.#isAtEnd = false;
          return undefined;
        }
      }
      if (message) return message;
      await new Promise<void>(resolve => (this.#wake = resolve));
    }
  }

  fail(reason: string): void {
    this.#failure ??= new Error(reason);
    this.#wake?.();
  }

  close(): void {
    this.fail('closed');
    clearTimeout(this.#watchdog);
    if (this.#nc.isClosed()) return;
    this.#subscription.unsubscribe();
    // The server would forget it anyway.
    this.#manager.consumers.delete(this.#options.stream, this.#name).catch(() => undefined);
  }

  #pull(): void {
    const { windowBytes = () => PULL_BYTES } = this.#options;
    this.#isPulling = true;
    this.#isAtEnd = false;
    Promise.resolve(windowBytes()).then(
      bytes => this.#request(bytes),
      (error: unknown) => this.fail(String(error)),
    );
  }

  /** @param windowBytes Infinity: a single message of any size */
  #request(windowBytes: number): void {
    if (this.#failure) return;
    const { stream, last = Infinity } = this.#options;
    this.#isRequested = true;
    this.#received = 0;
    this.#messagesLeft = windowBytes === Infinity ? 1 : Math.min(PULL_MESSAGES, Math.max(1, last - this.#reached));
    this.#bytesLeft = windowBytes;
    this.#watchdog.refresh();
    const request = {
      batch: this.#messagesLeft,
      ...(windowBytes !== Infinity && { max_bytes: windowBytes }),
      ...(this.#follow ? { expires: nanos(PULL_EXPIRES_MS), idle_heartbeat: nanos(HEARTBEAT_MS) } : { no_wait: true }),
    };
    try {
      const reply = `${this.#inbox}.${++this.#pullNumber}`;
      this.#nc.publish(`$JS.API.CONSUMER.MSG.NEXT.${stream}.${this.#name}`, JSON.stringify(request), { reply });
    } catch (error) {
      this.fail(error instanceof Error ? error.message : String(error));
    }
  }

  #onReply(message: Msg): void {
    this.#watchdog.refresh();
    if (message.subject.startsWith(this.#inbox)) {
      if (this.#isRequested && message.subject.endsWith(`.${this.#pullNumber}`))
        this.#onStatus(message.headers?.code ?? 0, message.headers?.description ?? '');
      return;
    }
    const delivery = parseDelivery(message.reply);
    if (delivery?.consumerSequence !== ++this.#delivered) return this.fail('a message was lost between server and client');
    // As the server counts: when the bytes are used up to the last one it ends the pull without a word.
    const size = (message as MsgImpl).size();
    this.#messagesLeft--;
    this.#bytesLeft -= size;
    this.#received++;
    const { streamSequence, timeNs, pending } = delivery;
    this.#reached = streamSequence;
    this.#arrived.push({ subject: message.subject, headers: message.headers, data: message.data, streamSequence, timeNs, size, pending });
    if (this.#messagesLeft === 0 || this.#bytesLeft <= 0) this.#endPull();
    this.#wake?.();
  }

  #onStatus(code: number, description: string): void {
    switch (code) {
      case 100: // heartbeat
        return;
      case 404: // no messages
      case 408: // expired
        this.#isAtEnd = true;
        return this.#endPull();
      case 409:
        // As newer servers end a pull that is used up; when the last message was counted too, it has ended already.
        if (/batch completed/i.test(description)) return this.#endPull();
        if (!/exceeds maxbytes/i.test(description)) break;
        // The next message did not fit in what was left of the window; when nothing came at all, it fits in no window.
        if (this.#received === 0) return this.#request(Infinity);
        return this.#endPull();
      default:
    }
    this.fail(code === 503 ? 'no responders' : `${code} ${description}`);
  }

  #endPull(): void {
    this.#isPulling = this.#isRequested = false;
    this.#wake?.();
  }
}

function catchUpMs(nc: NatsConnection): number {
  return nc.info?.cluster === undefined ? 0 : CATCH_UP_MS;
}

async function sequenceAt(manager: JetStreamManager, stream: string, timeMs: number): Promise<number> {
  const info = await manager.consumers.add(stream, consumerConfig({ stream, start: { timeMs } }));
  void manager.consumers.delete(stream, info.name).catch(() => undefined);
  return info.delivered.stream_seq + 1;
}

/**
 * Whoever lost its end stores nothing for longer than a millisecond: if what comes later than that begins at the place or before, the place is another message's
 * now, or nobody's; or the server's clock was put back, and the message is still there.
 */
async function sequenceAfter(nc: NatsConnection, manager: JetStreamManager, stream: string, place: StreamPlace): Promise<number> {
  const { streamSequence, timeMs } = place;
  const untilMs = performance.now() + catchUpMs(nc);
  for (;;) {
    const later = await sequenceAt(manager, stream, Math.floor(timeMs) + 2);
    if (later > streamSequence || (await isThere(manager, stream, place))) return streamSequence + 1;
    if (performance.now() > untilMs) return later;
    await delay(CATCH_UP_POLL_MS);
  }
}

async function isThere(manager: JetStreamManager, stream: string, { streamSequence, timeMs }: StreamPlace): Promise<boolean> {
  if (streamSequence === 0) return false;
  const found = await manager.streams.getMessage(stream, { seq: streamSequence });
  return found !== null && Math.abs(found.time.getTime() - timeMs) < 2;
}

/** Turns trouble with NATS into STREAM_UNAVAILABLE. */
async function available<T>(stream: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw unavailable(stream, error);
  }
}

function unavailable(stream: string, error: unknown): TidegateError {
  return new TidegateError('STREAM_UNAVAILABLE', error instanceof Error ? error.message : String(error), {
    field: 'stream',
    got: stream,
    cause: error,
  });
}

function consumerConfig({
  start,
  subjects = [],
  headersOnly = false,
}: StreamReaderOptions & { start: Exclude<ReaderStart, { after: StreamPlace }> }): Partial<ConsumerConfig> {
  return {
    name: `tidegate-${nuid.next()}`,
    ack_policy: AckPolicy.None,
    inactive_threshold: nanos(INACTIVE_THRESHOLD_MS),
    mem_storage: true,
    num_replicas: 1,
    ...(headersOnly && { headers_only: true }),
    ...(subjects.length === 1 && { filter_subject: subjects[0]! }),
    ...(subjects.length > 1 && { filter_subjects: [...subjects] }),
    ...(start === 'last-per-subject'
      ? { deliver_policy: DeliverPolicy.LastPerSubject }
      : 'timeMs' in start
        ? { deliver_policy: DeliverPolicy.StartTime, opt_start_time: new Date(start.timeMs).toISOString() }
        : { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: Math.max(1, start.streamSequence) }),
  };
}

interface Delivery {
  streamSequence: number;
  consumerSequence: number;
  timeNs: number;
  pending: number;
}

/** Reads `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>`, or its longer form with domain and account. */
function parseDelivery(reply = ''): Delivery | undefined {
  const tokens = reply.split('.');
  if (tokens[0] !== '$JS' || tokens[1] !== 'ACK' || tokens.length < 9) return undefined;
  const at = tokens.length === 9 ? 5 : 7;
  return {
    streamSequence: Number(tokens[at]),
    consumerSequence: Number(tokens[at + 1]),
    timeNs: Number(tokens[at + 2]),
    pending: Number(tokens[at + 3]),
  };
}
