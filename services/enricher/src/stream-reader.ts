/**
 * Reads a stream in order through a named pull consumer without acks: the place in the stream is the reader's own, so nothing is kept on the
 * server but for a while. Pulls one window at a time, when its owner has room. On any trouble it says so once and stops: its owner opens
 * another where it left off.
 */
import { AckPolicy, DeliverPolicy, type JetStreamManager } from '@nats-io/jetstream';
import { createInbox, nanos, nuid, type Msg, type MsgHdrs, type NatsConnection, type Subscription } from '@nats-io/nats-core';
import type { MsgImpl } from '@nats-io/nats-core/internal';
import { inboxPrefixOf } from '@tidegate/runtime';

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

export interface StreamReaderOptions {
  nc: NatsConnection;
  manager: JetStreamManager;
  stream: string;
  filter: string;
  /** Stream sequence to begin with, or the last message of each subject and then everything. */
  from: number | 'last-per-subject';
  /** Bytes one pull may bring; a larger message comes alone, after `grant`. */
  windowBytes: () => number;
  /** Awaited before each pull. Without it there is always room. */
  grant?: (() => Promise<void>) | undefined;
  headersOnly?: boolean;
  onMessage: (message: StreamMessage) => void;
  /** Called once; the reader is closed then. */
  onTrouble: (reason: string) => void;
}

export interface StreamReader {
  /** Messages that waited when the reader was opened. */
  readonly pendingAtStart: number;
  close(): void;
}

/** The server forgets a consumer that nobody pulls from. */
const INACTIVE_THRESHOLD_MS = 30_000;
const PULL_EXPIRES_MS = 30_000;
const HEARTBEAT_MS = 5_000;
/** Without a sign of life for so long a pull is lost. */
const SILENCE_LIMIT_MS = 12_500;
const PULL_MESSAGES = 256;

/** Opens a reader; rejects when the consumer cannot be made. */
export async function openStreamReader(options: StreamReaderOptions): Promise<StreamReader> {
  const { manager, stream, filter, from, headersOnly = false } = options;
  const name = `tidegate-${nuid.next()}`;
  const info = await manager.consumers.add(stream, {
    name,
    filter_subject: filter,
    ack_policy: AckPolicy.None,
    ...(from === 'last-per-subject'
      ? { deliver_policy: DeliverPolicy.LastPerSubject }
      : { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: Math.max(1, from) }),
    inactive_threshold: nanos(INACTIVE_THRESHOLD_MS),
    mem_storage: true,
    num_replicas: 1,
    ...(headersOnly && { headers_only: true }),
  });
  return new PullReader(options, name, info.num_pending);
}

class PullReader implements StreamReader {
  readonly pendingAtStart: number;
  readonly #options: StreamReaderOptions;
  readonly #name: string;
  readonly #inbox: string;
  readonly #subscription: Subscription;
  readonly #watchdog: NodeJS.Timeout;
  /** Of the present pull: its replies of status come to `<inbox>.<number>`, those of an earlier one mean nothing any more. */
  #pullNumber = 0;
  #messagesLeft = 0;
  #bytesLeft = 0;
  #received = 0;
  #isPulling = false;
  #closed = false;

  constructor(options: StreamReaderOptions, name: string, pendingAtStart: number) {
    this.#options = options;
    this.#name = name;
    this.pendingAtStart = pendingAtStart;
    this.#inbox = createInbox(inboxPrefixOf(options.nc));
    this.#subscription = options.nc.subscribe(`${this.#inbox}.*`, {
      callback: (error, message) => (error ? this.#fail(error.message) : this.#onReply(message)),
    });
    this.#watchdog = setTimeout(() => this.#onSilence(), SILENCE_LIMIT_MS);
    void this.#pull(options.windowBytes());
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#watchdog);
    const { nc, manager, stream } = this.#options;
    if (nc.isClosed()) return;
    this.#subscription.unsubscribe();
    // The server would forget it anyway.
    manager.consumers.delete(stream, this.#name).catch(() => undefined);
  }

  /** @param windowBytes 0: a single message of any size */
  async #pull(windowBytes: number): Promise<void> {
    const { nc, stream, grant } = this.#options;
    this.#isPulling = false;
    await grant?.();
    if (this.#closed) return;
    this.#isPulling = true;
    this.#received = 0;
    this.#messagesLeft = windowBytes === 0 ? 1 : PULL_MESSAGES;
    this.#bytesLeft = windowBytes === 0 ? Infinity : windowBytes;
    this.#watchdog.refresh();
    const request = {
      batch: this.#messagesLeft,
      ...(windowBytes > 0 && { max_bytes: windowBytes }),
      expires: nanos(PULL_EXPIRES_MS),
      idle_heartbeat: nanos(HEARTBEAT_MS),
    };
    try {
      const reply = `${this.#inbox}.${++this.#pullNumber}`;
      nc.publish(`$JS.API.CONSUMER.MSG.NEXT.${stream}.${this.#name}`, JSON.stringify(request), { reply });
    } catch (error) {
      this.#fail(error instanceof Error ? error.message : String(error));
    }
  }

  #onReply(message: Msg): void {
    if (this.#closed) return;
    this.#watchdog.refresh();
    if (message.subject.startsWith(this.#inbox)) {
      if (message.subject.endsWith(`.${this.#pullNumber}`)) this.#onStatus(message.headers?.code ?? 0, message.headers?.description ?? '');
      return;
    }
    // As the server counts: when the bytes are used up to the last one it ends the pull without a word.
    const size = (message as MsgImpl).size();
    this.#messagesLeft--;
    this.#bytesLeft -= size;
    this.#received++;
    const info = deliveryInfo(message.reply);
    if (!info) return this.#fail('a delivery without its place in the stream');
    this.#options.onMessage({ subject: message.subject, headers: message.headers, data: message.data, size, ...info });
    if (this.#messagesLeft === 0 || this.#bytesLeft <= 0) void this.#pull(this.#options.windowBytes());
  }

  #onStatus(code: number, description: string): void {
    switch (code) {
      case 100: // heartbeat
        return;
      case 404:
      case 408: // expired
        void this.#pull(this.#options.windowBytes());
        return;
      case 409:
        // As newer servers end a pull that is used up; when the last message was counted too, the next pull is on its way already.
        if (/batch completed/i.test(description)) {
          if (this.#isPulling) void this.#pull(this.#options.windowBytes());
          return;
        }
        if (!/exceeds maxbytes/i.test(description)) break;
        // The next message did not fit in what was left of the window; when nothing came at all, it fits in no window.
        void this.#pull(this.#received === 0 ? 0 : this.#options.windowBytes());
        return;
      default:
    }
    this.#fail(code === 503 ? 'no responders' : `${code} ${description}`);
  }

  #onSilence(): void {
    // Waiting for room is no silence of the server's.
    if (this.#isPulling) this.#fail('no heartbeat');
    else this.#watchdog.refresh();
  }

  #fail(reason: string): void {
    if (this.#closed) return;
    this.close();
    this.#options.onTrouble(reason);
  }
}

/** From `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>`, or the longer form with a domain. */
function deliveryInfo(reply: string | undefined): { streamSequence: number; timeNs: number; pending: number } | undefined {
  const tokens = reply?.split('.') ?? [];
  const base = tokens.length === 9 ? 5 : 7;
  const streamSequence = Number(tokens[base]);
  const timeNs = Number(tokens[base + 2]);
  const pending = Number(tokens[base + 3]);
  return Number.isSafeInteger(streamSequence) && Number.isFinite(timeNs) && Number.isFinite(pending)
    ? { streamSequence, timeNs, pending }
    : undefined;
}
