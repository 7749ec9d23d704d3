/** Reads a stream page by page with a consumer of its own that acks nothing and vanishes when it is left. */
import { randomUUID } from 'node:crypto';
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager, type JsMsg } from '@nats-io/jetstream';
import { nanos, type NatsConnection } from '@nats-io/nats-core';

/** Messages asked for at once: with 64 KiB each, 32 MiB on their way. */
const PAGE_MESSAGES = 512;
/** The server's least. */
const PAGE_EXPIRES_MS = 1_000;
const INACTIVE_THRESHOLD_MS = 60_000;

export interface StreamPagesOptions {
  stream: string;
  /** Where to begin; default: with what is stored from now on. */
  begin: { time: Date } | 'first' | 'new';
  filterSubject?: string | undefined;
}

export interface StreamPages {
  /** Messages left in the stream when it was last asked. */
  pending(): number;
  /** The next messages: all that are there up to a page's size, or what comes within a second; perhaps none. */
  next(): Promise<JsMsg[]>;
  close(): Promise<void>;
}

/**
 * @throws {JetStreamApiError} when the stream is not there
 */
export async function openStreamPages(nc: NatsConnection, { stream, begin, filterSubject }: StreamPagesOptions): Promise<StreamPages> {
  const manager = await jetstreamManager(nc, { checkAPI: false });
  const name = `tidegate-${randomUUID()}`;
  const info = await manager.consumers.add(stream, {
    name,
    ack_policy: AckPolicy.None,
    inactive_threshold: nanos(INACTIVE_THRESHOLD_MS),
    ...(filterSubject === undefined ? {} : { filter_subject: filterSubject }),
    ...(begin === 'first'
      ? { deliver_policy: DeliverPolicy.All }
      : begin === 'new'
        ? { deliver_policy: DeliverPolicy.New }
        : { deliver_policy: DeliverPolicy.StartTime, opt_start_time: begin.time.toISOString() }),
  });
  const consumer = await jetstream(nc, { checkAPI: false }).consumers.get(stream, name);
  let pending = info.num_pending;
  return {
    pending: () => pending,
    async next() {
      const page: JsMsg[] = [];
      const wanted = Math.max(1, Math.min(PAGE_MESSAGES, pending));
      for await (const message of await consumer.fetch({ max_messages: wanted, expires: PAGE_EXPIRES_MS })) {
        page.push(message);
        pending = message.info.pending;
      }
      return page;
    },
    close: async () => {
      await manager.consumers.delete(stream, name).catch(() => undefined); // The threshold ends it all the same.
    },
  };
}
