/** Reading EVENTS on one connection: history, the live feed, and consumers of one's own. */
import type { NatsConnection } from '@nats-io/nats-core';
import {
  connectNats,
  createBuckets,
  createLogger,
  createStreamReaders,
  serverAtLeast,
  type Buckets,
  type Logger,
  type MalformedEntries,
  type StreamReaders,
} from '@tidegate/runtime';
import { createBatchSearch, type BatchSearch } from './batch-search.ts';
import { createConsumer, type ConsumerOptions, type EventConsumer } from './consumer.ts';
import type { EventMessage } from './event-message.ts';
import { createHistory, type History } from './history.ts';
import { createLiveFeeds, type LiveFeeds } from './live-feed.ts';
import { bucketPosition, type PositionStore } from './position.ts';

export interface EventsOptions {
  logger: Logger;
  /** Counts entries of buckets that cannot be read. */
  malformed?: MalformedEntries;
  /** Called for each message of EVENTS that is no event batch, besides a line in the log. */
  onUnreadable?: () => void;
}

export interface Events {
  readonly readers: StreamReaders;
  readonly buckets: Buckets;
  readonly search: BatchSearch;
  /** Any range of the stream, oldest or newest first, in bounded pieces of work. */
  readonly history: History;
  /** What happens from now on, shared by all who follow in this process. */
  readonly feeds: LiveFeeds;
  /** nats-server takes several filter subjects for one consumer. */
  canFilterSeveral(): boolean;
  /** From a position on, and then as events come. */
  consume(options?: ConsumerOptions): EventConsumer;
  /** The position of that name in KV `positions`. */
  position(name: string): PositionStore;
  /** Ends all that reads; the connection stays open. */
  close(): void;
}

/**
 * Connects, for programs that do nothing else; ends with the process.
 * @param url of NATS, with user and password where it takes them: nats://user:password@host:4222
 * @throws {TidegateError} NATS_AUTHORIZATION
 */
export async function connectEvents(url: string): Promise<Events> {
  const logger = createLogger({ name: 'tidegate-events', level: 'warn' });
  return openEvents(await connectNats({ url, name: 'tidegate-events', logger }), { logger });
}

/** From which server on a consumer takes several filter subjects. */
const SEVERAL_FILTERS_SINCE = '2.10.0';

export async function openEvents(nc: NatsConnection, { logger, malformed, onUnreadable: countUnreadable }: EventsOptions): Promise<Events> {
  const readers = await createStreamReaders(nc);
  const buckets = await createBuckets({ nc, logger, ...(malformed && { malformed }) });
  const search = createBatchSearch(readers);
  const canFilterSeveral = () => serverAtLeast(nc, SEVERAL_FILTERS_SINCE);
  const onUnreadable = (message: EventMessage) => {
    countUnreadable?.();
    logger.warn({ streamSequence: message.sequence }, 'a message of EVENTS is no event batch');
  };
  const feeds = createLiveFeeds({ readers, logger, onUnreadable });
  return {
    readers,
    buckets,
    search,
    history: createHistory({ readers, search, canFilterSeveral, onUnreadable }),
    feeds,
    canFilterSeveral,
    consume: (options = {}) => createConsumer(options, { readers, search, canFilterSeveral, onUnreadable }),
    position: name => bucketPosition(buckets, name),
    close() {
      feeds.close();
      readers.close();
      buckets.close();
    },
  };
}
