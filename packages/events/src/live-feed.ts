/**
 * The live feed: one reader of all of EVENTS for all clients that follow, from the first client's arrival to the last one's leaving. It decodes a
 * message once, whoever wants it. A client that replays history first reads with a consumer of its own and joins at an exact stream sequence.
 */
import { STREAMS } from '@tidegate/contracts';
import type { Logger, StreamReader, StreamReaders } from '@tidegate/runtime';
import { EventMessage } from './event-message.ts';

/** Who follows. */
export interface Follower {
  deliver(message: EventMessage): void;
  /** It could not take a message, and gets no more. */
  fail(error: unknown): void;
  /** Stream sequences that are missing, both included: the stream discarded them before they were read. */
  deliverGap(first: number, last: number): void;
}

export interface LiveFeed {
  /** Sequence of the last message delivered to the followers. */
  readonly position: number;
  /** Follows from the first message after a sequence; false when that is too far back for the feed. */
  follow(follower: Follower, afterSequence: number): boolean;
  unfollow(follower: Follower): void;
}

export interface LiveFeeds {
  /** The running feed, started for its first user. Each `acquire` needs its `release`. @throws {TidegateError} STREAM_UNAVAILABLE */
  acquire(): Promise<LiveFeed>;
  release(): void;
  /** Messages delivered so far. */
  readonly messages: number;
  close(): void;
}

export interface LiveFeedOptions {
  readers: StreamReaders;
  logger: Logger;
  onUnreadable: (message: EventMessage) => void;
}

/** Payload bytes of latest messages that are kept for those who join; small, so that joining does not fill a client's queue at once. */
const RECENT_BYTES = 256 * 1024;

export function createLiveFeeds({ readers, logger, onUnreadable }: LiveFeedOptions): LiveFeeds {
  let users = 0;
  let messages = 0;
  let running: Promise<RunningFeed> | undefined;

  async function start(): Promise<RunningFeed> {
    const { last } = await readers.bounds(STREAMS.events.name);
    const reader = readers.open({ stream: STREAMS.events.name, start: { streamSequence: last + 1 }, maxAttempts: Infinity });
    const feed = new RunningFeed(reader, last, message => {
      messages++;
      if (message.isUnreadable) onUnreadable(message);
    });
    feed.run().catch((error: unknown) => logger.error({ err: error }, 'live feed failed'));
    return feed;
  }

  return {
    get messages() {
      return messages;
    },
    async acquire() {
      users++;
      try {
        return await (running ??= start());
      } catch (error) {
        running = undefined;
        users--;
        throw error;
      }
    },
    release() {
      users--;
      if (users === 0) {
        void running?.then(feed => feed.close());
        running = undefined;
      }
    },
    close() {
      void running?.then(
        feed => feed.close(),
        () => undefined,
      );
      running = undefined;
    },
  };
}

class RunningFeed implements LiveFeed {
  position: number;
  readonly #reader: StreamReader;
  readonly #onMessage: (message: EventMessage) => void;
  /** Value: all up to this sequence the follower has from elsewhere. */
  readonly #followers = new Map<Follower, number>();
  #recent: EventMessage[] = [];
  #recentBytes = 0;
  /** All messages after this one, up to `position`, are in #recent. */
  #recentAfter: number;

  constructor(reader: StreamReader, position: number, onMessage: (message: EventMessage) => void) {
    this.#reader = reader;
    this.position = position;
    this.#recentAfter = position;
    this.#onMessage = onMessage;
  }

  async run(): Promise<void> {
    for await (const read of this.#reader.read({ follow: true })) {
      const message = new EventMessage(read);
      if (message.sequence <= this.position) this.#setBack(message.sequence);
      const expected = this.position + 1;
      if (message.sequence > expected) {
        for (const follower of this.#followers.keys()) follower.deliverGap(expected, message.sequence - 1);
      }
      this.position = message.sequence;
      this.#remember(message);
      for (const [follower, after] of this.#followers) if (message.sequence > after) this.#deliver(follower, message);
      this.#onMessage(message);
    }
  }

  follow(follower: Follower, afterSequence: number): boolean {
    if (afterSequence < this.#recentAfter) return false;
    for (const message of this.#recent) if (message.sequence > afterSequence) follower.deliver(message);
    this.#followers.set(follower, afterSequence);
    return true;
  }

  unfollow(follower: Follower): void {
    this.#followers.delete(follower);
  }

  close(): void {
    this.#reader.close();
  }

  /** The stream has lost its end, and what comes now is new to all. */
  #setBack(sequence: number): void {
    this.position = this.#recentAfter = sequence - 1;
    this.#recent = [];
    this.#recentBytes = 0;
    for (const follower of this.#followers.keys()) this.#followers.set(follower, this.position);
  }

  /** One follower's fault must not end the feed of the others. */
  #deliver(follower: Follower, message: EventMessage): void {
    try {
      follower.deliver(message);
    } catch (error) {
      this.#followers.delete(follower);
      follower.fail(error);
    }
  }

  #remember(message: EventMessage): void {
    this.#recent.push(message);
    this.#recentBytes += message.size;
    while (this.#recentBytes > RECENT_BYTES) {
      const oldest = this.#recent.shift()!;
      this.#recentBytes -= oldest.size;
      this.#recentAfter = oldest.sequence;
    }
  }
}
