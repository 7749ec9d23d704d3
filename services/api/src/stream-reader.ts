/**
 * Reads a stream in order from a point on, without a gap or a duplicate over anything that happens to the connection: a named pull consumer
 * without acks, made again from the last sequence plus one on any trouble. (The client's ordered consumer stalls for 44 s after a server's restart.)
 */
import { setTimeout as delay } from 'node:timers/promises';
import {
  AckPolicy,
  DeliverPolicy,
  jetstreamManager,
  type ConsumerConfig,
  type ConsumerInfo,
  type JetStreamManager,
} from '@nats-io/jetstream';
import { createInbox, nanos, nuid, type Msg, type MsgHdrs, type NatsConnection, type Subscription } from '@nats-io/nats-core';
import { inboxPrefixOf } from '@tidegate/runtime';
import { ApiError } from './errors.ts';

/** One message of a stream. */
export interface StreamMessage {
  sequence: number;
  subject: string;
  data: Uint8Array;
  headers: MsgHdrs | undefined;
  /** When the server stored it. */
  storedAtMs: number;
}

export type ReaderStart = { sequence: number } | { timeMs: number } | { lastPerSubject: true };

export interface ReaderOptions {
  stream: string;
  start: ReaderStart;
  /** Empty or left out: all subjects. `lastPerSubject` needs one. */
  subjects?: readonly string[];
  /** Messages asked for at one time, at most. */
  maxBatch?: number;
  headersOnly?: boolean;
}

/** Opens readers on one connection. */
export interface StreamReaders {
  open(options: ReaderOptions): StreamReader;
  /** The sequence of the first message stored at or after a time, or the one the next message will get. */
  sequenceAt(stream: string, timeMs: number): Promise<number>;
  /** First and last sequence of a stream. An empty stream's first is its last plus one. */
  bounds(stream: string): Promise<{ first: number; last: number }>;
  readonly manager: JetStreamManager;
  close(): void;
}

/** A consumer that nobody pulls from vanishes after this. */
const INACTIVE_THRESHOLD_MS = 30_000;
/** Messages in one pull. */
const MAX_BATCH = 256;
/** Bytes in one pull, unless one message may be larger. */
const PULL_BYTES = 4 * 1024 ** 2;
const MESSAGE_OVERHEAD_BYTES = 64 * 1024;
const PULL_EXPIRES_MS = 30_000;
const PULL_HEARTBEAT_MS = 2_000;
/** Two heartbeats and a bit: then the pull is lost. */
const MAX_SILENCE_MS = 5_000;
const RETRY_MIN_MS = 50;
const RETRY_MAX_MS = 2_000;
/** A reader that is not to wait gives up after so many attempts in a row. */
const MAX_ATTEMPTS = 3;

const NO_MESSAGES = 404;
const REQUEST_TIMEOUT = 408;
const IDLE_HEARTBEAT = 100;
const MAX_BYTES_REACHED = 409;
const MAX_BYTES_DESCRIPTION = /exceeds maxbytes|batch completed/i;

export async function createStreamReaders(nc: NatsConnection): Promise<StreamReaders> {
  const manager = await jetstreamManager(nc, { checkAPI: false });
  const readers = new Set<StreamReader>();
  let closed = false;
  void watchReconnects(nc, () => readers.forEach(reader => reader.interrupt()));
  return {
    manager,
    open(options) {
      const reader = new StreamReader(nc, manager, options, () => readers.delete(reader));
      if (closed) reader.close();
      else readers.add(reader);
      return reader;
    },
    sequenceAt: (stream, timeMs) =>
      available(async () => {
        const info = await manager.consumers.add(stream, consumerConfig({ stream, start: { timeMs } }));
        void manager.consumers.delete(stream, info.name).catch(() => undefined);
        return info.delivered.stream_seq + 1;
      }),
    bounds: stream =>
      available(async () => {
        const { state } = await manager.streams.info(stream);
        return { first: state.messages === 0 ? state.last_seq + 1 : state.first_seq, last: state.last_seq };
      }),
    close() {
      closed = true;
      readers.forEach(reader => reader.close());
    },
  };
}

export class StreamReader {
  /** The last sequence read; 0: none yet. All that matches up to it has been read. */
  position = 0;
  readonly #nc: NatsConnection;
  readonly #manager: JetStreamManager;
  readonly #options: ReaderOptions;
  readonly #onClose: () => void;
  readonly #inbox: string;
  readonly #closing = new AbortController();
  #subscription: Subscription | undefined;
  #consumer: { name: string; delivered: number } | undefined;
  #pulls = 0;
  #arrived: Msg[] = [];
  #wake: (() => void) | undefined;
  #interrupted = false;
  #started = false;

  constructor(nc: NatsConnection, manager: JetStreamManager, options: ReaderOptions, onClose: () => void) {
    this.#nc = nc;
    this.#manager = manager;
    this.#options = options;
    this.#onClose = onClose;
    this.#inbox = createInbox(inboxPrefixOf(nc));
    if ('sequence' in options.start) this.position = options.start.sequence - 1;
  }

  /**
   * What is there, in order; ends when there is no more, or goes on for ever with `wait`. May be called again to go on.
   * @throws {ApiError} STREAM_UNAVAILABLE, without `wait` only
   */
  async *read({ wait }: { wait: boolean }): AsyncGenerator<StreamMessage, void, undefined> {
    let failures = 0;
    while (!this.#closing.signal.aborted) {
      try {
        this.#consumer ??= await this.#createConsumer();
        let isEnd = false;
        for await (const message of this.#pull(this.#consumer, wait)) {
          failures = 0;
          if (message === 'end') isEnd = true;
          else yield message;
        }
        failures = 0;
        if (isEnd && !wait) return;
      } catch (error) {
        this.#dropConsumer();
        if (this.#closing.signal.aborted) return;
        failures++;
        if (!wait && failures >= MAX_ATTEMPTS) throw unavailable(error);
        const waitMs = Math.min(RETRY_MIN_MS * 2 ** failures, RETRY_MAX_MS);
        await delay(waitMs, undefined, { signal: this.#closing.signal }).catch(() => undefined);
      }
    }
  }

  /** Gives up the consumer: the connection was lost and came back. */
  interrupt(): void {
    this.#interrupted = true;
    this.#wake?.();
  }

  close(): void {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
    this.#wake?.();
    this.#dropConsumer();
    this.#subscription?.unsubscribe();
    this.#onClose();
  }

  async #createConsumer(): Promise<{ name: string; delivered: number }> {
    this.#interrupted = false;
    this.#subscription ??= this.#nc.subscribe(`${this.#inbox}.*`, {
      callback: (error, message) => {
        if (error) this.#interrupted = true;
        else this.#arrived.push(message);
        this.#wake?.();
      },
    });
    if (this.#started) await this.#checkStream();
    const { start } = this.#options;
    const from: ReaderStart = this.#started ? { sequence: this.position + 1 } : start;
    const info: ConsumerInfo = await this.#manager.consumers.add(this.#options.stream, consumerConfig({ ...this.#options, start: from }));
    if (!this.#started && 'timeMs' in start) this.position = info.delivered.stream_seq;
    // The last message of each subject is not a place in the stream that one could go on from: trouble starts it over.
    this.#started = !('lastPerSubject' in start);
    return { name: info.name, delivered: 0 };
  }

  /** A stream that was deleted and made again numbers from 1: without this the reader would wait for a sequence that is far away. */
  async #checkStream(): Promise<void> {
    const { state } = await this.#manager.streams.info(this.#options.stream);
    if (state.last_seq < this.position) this.position = 0;
  }

  #dropConsumer(): void {
    const consumer = this.#consumer;
    if (!consumer) return;
    this.#consumer = undefined;
    if (!this.#nc.isClosed()) void this.#manager.consumers.delete(this.#options.stream, consumer.name).catch(() => undefined);
  }

  /** One pull: its messages, then 'end' when the server had no more for now. */
  async *#pull(consumer: { name: string; delivered: number }, wait: boolean): AsyncGenerator<StreamMessage | 'end', void, undefined> {
    const { stream, maxBatch = MAX_BATCH } = this.#options;
    const replyTo = `${this.#inbox}.${++this.#pulls}`;
    const request = {
      batch: maxBatch,
      max_bytes: Math.max(PULL_BYTES, (this.#nc.info?.max_payload ?? 0) + MESSAGE_OVERHEAD_BYTES),
      ...(wait ? { expires: nanos(PULL_EXPIRES_MS), idle_heartbeat: nanos(PULL_HEARTBEAT_MS) } : { no_wait: true }),
    };
    this.#nc.publish(`$JS.API.CONSUMER.MSG.NEXT.${stream}.${consumer.name}`, JSON.stringify(request), { reply: replyTo });
    let received = 0;
    while (received < maxBatch) {
      const message = await this.#next();
      if (message.subject.startsWith(this.#inbox)) {
        if (message.subject !== replyTo) continue;
        const code = message.headers?.code ?? 0;
        const description = message.headers?.description ?? '';
        if (code === IDLE_HEARTBEAT) continue;
        if (code === NO_MESSAGES || code === REQUEST_TIMEOUT) return yield 'end';
        if (code === MAX_BYTES_REACHED && MAX_BYTES_DESCRIPTION.test(description)) return;
        throw new Error(`pull ended with ${code} ${description}`);
      }
      const delivery = parseDelivery(message.reply ?? '');
      // Of a consumer that was given up: the present one delivers it again.
      if (delivery?.consumer !== consumer.name) continue;
      if (delivery.consumerSequence !== consumer.delivered + 1) throw new Error('a message was lost between server and client');
      consumer.delivered++;
      received++;
      this.position = delivery.sequence;
      const { subject, data, headers } = message;
      yield { sequence: delivery.sequence, subject, data, headers, storedAtMs: delivery.storedAtMs };
    }
  }

  /** What arrives next. The wait ends with an error when nothing does, not even a heartbeat. */
  async #next(): Promise<Msg> {
    if (this.#arrived.length === 0 && !this.#interrupted && !this.#closing.signal.aborted) {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error('NATS is silent')), MAX_SILENCE_MS);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      }).finally(() => (this.#wake = undefined));
    }
    if (this.#closing.signal.aborted) throw new Error('closed');
    const message = this.#arrived.shift();
    if (!message || this.#interrupted) throw new Error('the connection was interrupted');
    return message;
  }
}

/** Turns trouble with NATS into STREAM_UNAVAILABLE. */
async function available<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw unavailable(error);
  }
}

function unavailable(error: unknown): ApiError {
  return new ApiError('STREAM_UNAVAILABLE', error instanceof Error ? error.message : String(error), { cause: error });
}

function consumerConfig({ start, subjects = [], headersOnly = false }: ReaderOptions): Partial<ConsumerConfig> {
  return {
    name: `api-${nuid.next()}`,
    ack_policy: AckPolicy.None,
    inactive_threshold: nanos(INACTIVE_THRESHOLD_MS),
    mem_storage: true,
    num_replicas: 1,
    ...(headersOnly && { headers_only: true }),
    ...(subjects.length === 1 && { filter_subject: subjects[0]! }),
    ...(subjects.length > 1 && { filter_subjects: [...subjects] }),
    ...('sequence' in start
      ? { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: Math.max(1, start.sequence) }
      : 'timeMs' in start
        ? { deliver_policy: DeliverPolicy.StartTime, opt_start_time: new Date(start.timeMs).toISOString() }
        : { deliver_policy: DeliverPolicy.LastPerSubject }),
  };
}

interface Delivery {
  consumer: string;
  sequence: number;
  consumerSequence: number;
  storedAtMs: number;
}

/** Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns>.<pending>`, or its longer form with domain and account. */
function parseDelivery(reply: string): Delivery | undefined {
  const tokens = reply.split('.');
  const at = tokens.length >= 11 ? 5 : 3;
  if (tokens[0] !== '$JS' || tokens[1] !== 'ACK' || tokens.length < 9) return undefined;
  return {
    consumer: tokens[at]!,
    sequence: Number(tokens[at + 2]),
    consumerSequence: Number(tokens[at + 3]),
    storedAtMs: Number(tokens[at + 4]) / 1e6,
  };
}

async function watchReconnects(nc: NatsConnection, onReconnect: () => void): Promise<void> {
  for await (const status of nc.status()) if (status.type === 'reconnect') onReconnect();
}
