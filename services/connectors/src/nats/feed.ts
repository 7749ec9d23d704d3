/**
 * The connector `nats`: events as JSON, one a message, on `tidegate.feed.<kind>.<namespace>.<workload>`. While nobody listens it reads nothing and has no position;
 * the first listener finds it at the end of EVENTS. From then on it goes on from its position whatever happens to it, until the last listener has gone.
 */
import { setTimeout as delay } from 'node:timers/promises';
import {
  BUCKETS,
  CONNECTOR_POSITION_PREFIX,
  CONNECTOR_STATUS_INTERVAL_MS,
  NO_NAMESPACE,
  STREAMS,
  connectorStatusCodec,
  consumerPositionCodec,
  feedSubject,
  type ConnectorStatus,
} from '@tidegate/contracts';
import { only, type ConsumedBatch, type EventConsumer, type Events, type PositionStore } from '@tidegate/events';
import { startStateReports, type Closable, type Logger, type Metrics } from '@tidegate/runtime';
import { headers as createHeaders, type NatsConnection } from '@nats-io/nats-core';
import { connectorMetrics, type ConnectorMetrics } from '../metrics.ts';
import { askListeners, isListenedTo, type Listeners } from './listeners.ts';

export interface FeedDeps {
  nc: NatsConnection;
  events: Events;
  logger: Logger;
  metrics: Metrics;
  /** Names of kinds. */
  kinds: readonly string[];
}

/** What it says of itself in KV `connectors`. */
export type FeedState = Pick<ConnectorStatus, 'listeners' | 'pending' | 'published' | 'skipped' | 'faults'>;

export interface Feed extends Closable {
  /** Reasons why it is not ready; empty: it is. */
  readiness(): string[];
}

/** Header of each message of the feed. */
export const FEED_ID_HEADER = 'Tidegate-Event-Id';
/** Name of its position and label of its metrics. */
const CONNECTOR = 'nats';
const POSITION_KEY = CONNECTOR_POSITION_PREFIX + CONNECTOR;
/** Its own losses have no namespace and no workload. */
const LOSS_WORKLOAD = 'feed';
/** Listeners are asked for so often. */
const ASK_INTERVAL_MS = 1_000;
/** So many questions in a row that found nobody before it sleeps: a client that reconnects is gone for a moment. */
const ASKS_UNTIL_SLEEP = 5;
const RETRY_MS = 1_000;
const REPORT_CHECK_MS = 1_000;
/** Not yet a fault. */
const STARTING = 'starting';
/** So many bytes are sent before the server has to have taken them. */
const FLUSH_BYTES = 1024 ** 2;

export function createFeed(deps: FeedDeps): Feed {
  return new NatsFeed(deps);
}

class NatsFeed implements Feed {
  readonly #deps: FeedDeps;
  readonly #metrics: ConnectorMetrics;
  readonly #closing = new AbortController();
  readonly #running: Promise<void>;
  readonly #reports: Closable;
  #published = 0;
  #skipped = 0;
  #listeners: Listeners = [];
  #consumer: EventConsumer | undefined;
  #trouble: string | undefined = STARTING;

  constructor(deps: FeedDeps) {
    this.#deps = deps;
    this.#metrics = connectorMetrics(deps.metrics);
    this.#metrics.isAwake.set({ connector: CONNECTOR }, 0);
    this.#running = this.#run();
    this.#reports = startStateReports<Pick<ConnectorStatus, 'connector'>, FeedState>({
      bucket: deps.events.buckets.open(BUCKETS.connectors, connectorStatusCodec),
      key: CONNECTOR,
      intervalMs: CONNECTOR_STATUS_INTERVAL_MS,
      checkMs: REPORT_CHECK_MS,
      about: { connector: CONNECTOR },
      state: () => this.#state(),
      urgent: ({ listeners, faults }) => ({ listeners, faults }),
      logger: deps.logger,
    });
  }

  readiness(): string[] {
    if (this.#closing.signal.aborted) return ['stopping'];
    return this.#trouble === undefined ? [] : [this.#trouble];
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#consumer?.close();
    await this.#running;
    await this.#reports.close();
  }

  #state(): FeedState {
    return {
      listeners: this.#listeners.length,
      pending: this.#consumer?.pending ?? 0,
      published: this.#published,
      skipped: this.#skipped,
      faults: this.#trouble === undefined || this.#trouble === STARTING ? [] : [this.#trouble],
    };
  }

  async #run(): Promise<void> {
    const { nc, logger } = this.#deps;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        this.#listeners = await askListeners(nc);
        this.#trouble = undefined;
        if (this.#listeners.length > 0) await this.#feed();
        if (!signal.aborted && this.#listeners.length === 0) await this.#forgetPosition();
      } catch (error) {
        if (signal.aborted) return;
        this.#trouble = error instanceof Error ? error.message : String(error);
        this.#metrics.restarts.inc({ connector: CONNECTOR });
        logger.warn({ reason: this.#trouble }, 'the feed starts again from its position');
        await pause(RETRY_MS, signal);
      }
      await pause(ASK_INTERVAL_MS, signal);
    }
  }

  /** Publishes until nobody listens any more. */
  async #feed(): Promise<void> {
    const { events, logger, kinds } = this.#deps;
    const position = events.position(POSITION_KEY);
    await this.#begin(position);
    const consumer = events.consume({ filter: { kind: only(...kinds) }, position });
    this.#consumer = consumer;
    const watching = new AbortController();
    const watched = this.#watchListeners(consumer, watching.signal);
    logger.info({ listeners: this.#listeners.length }, 'somebody listens to the feed');
    this.#metrics.isAwake.set({ connector: CONNECTOR }, 1);
    try {
      for await (const batch of consumer) {
        await this.#publish(batch);
        batch.done();
        this.#metrics.lag.set({ connector: CONNECTOR }, consumer.pending);
      }
    } finally {
      watching.abort();
      await watched;
      await consumer.close().catch(() => undefined);
      this.#consumer = undefined;
      this.#metrics.isAwake.set({ connector: CONNECTOR }, 0);
      this.#metrics.lag.set({ connector: CONNECTOR }, 0);
    }
    if (!this.#closing.signal.aborted) logger.info('nobody listens to the feed');
  }

  /** At the end of EVENTS where there is no position: from here on nothing is left out in silence. */
  async #begin(position: PositionStore): Promise<void> {
    if (await position.load()) return;
    const { last, created } = await this.#deps.events.readers.bounds(STREAMS.events.name);
    await position.save?.({ created, next: last + 1, given: {} });
  }

  /** Keeps the listeners' subjects, and ends the consumer when there are none. */
  async #watchListeners(consumer: EventConsumer, signal: AbortSignal): Promise<void> {
    const { nc, logger } = this.#deps;
    let asksWithoutAny = 0;
    for (;;) {
      await pause(ASK_INTERVAL_MS, signal);
      if (signal.aborted) return;
      // Who was there a moment ago still counts where NATS does not answer.
      const listeners = await askListeners(nc).catch((error: unknown) => {
        logger.debug({ err: error }, 'listeners are not known');
        return this.#listeners;
      });
      asksWithoutAny = listeners.length === 0 ? asksWithoutAny + 1 : 0;
      if (asksWithoutAny > 0 && asksWithoutAny < ASKS_UNTIL_SLEEP) continue;
      this.#listeners = listeners;
      if (listeners.length > 0) continue;
      void consumer.close().catch(() => undefined);
      return;
    }
  }

  async #publish(batch: ConsumedBatch): Promise<void> {
    const { nc } = this.#deps;
    let published = 0;
    let unflushedBytes = 0;
    for (const { subject, id, text } of this.#eventsOf(batch)) {
      const header = createHeaders();
      if (id !== undefined) header.set(FEED_ID_HEADER, id);
      nc.publish(subject, text, { headers: header });
      published++;
      unflushedBytes += text.length;
      if (unflushedBytes < FLUSH_BYTES) continue;
      await nc.flush();
      unflushedBytes = 0;
    }
    // Nothing that was only handed to this process's socket counts as done.
    if (unflushedBytes > 0) await nc.flush();
    this.#published += published;
    this.#metrics.events.inc({ connector: CONNECTOR }, published);
  }

  /** Those of a batch that somebody listens to. */
  *#eventsOf(batch: ConsumedBatch): Generator<{ subject: string; id: string | undefined; text: Uint8Array }, void, undefined> {
    if (batch.node === '' && batch.places().length === 0) {
      this.#skipped++;
      this.#metrics.skips.inc({ connector: CONNECTOR });
      for (const event of batch.events()) {
        yield { subject: feedSubject(event.kind, NO_NAMESPACE, LOSS_WORKLOAD), id: event.id, text: Buffer.from(JSON.stringify(event)) };
      }
      return;
    }
    const subjects = new Map<string, string | undefined>();
    for (const { message, index } of batch.places()) {
      const { kind, namespace, workload } = message.place;
      const key = `${kind} ${namespace} ${workload}`;
      if (!subjects.has(key)) {
        const subject = feedSubject(kind, namespace, workload);
        subjects.set(key, isListenedTo(subject, this.#listeners) ? subject : undefined);
      }
      const subject = subjects.get(key);
      if (subject !== undefined) yield { subject, id: message.id(index), text: message.json(index) };
    }
  }

  /** The next listener begins at the end. */
  async #forgetPosition(): Promise<void> {
    const positions = this.#deps.events.buckets.open(BUCKETS.positions, consumerPositionCodec);
    const { value, revision } = await positions.get(POSITION_KEY);
    if (value) await positions.delete(POSITION_KEY, revision);
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal }).catch(() => undefined);
}
