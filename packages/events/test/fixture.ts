/** A real nats-server with Tidegate's streams, and readers on it. */
import { jetstream, type JetStreamClient } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { BUCKETS, STREAMS, type EventJson } from '@tidegate/contracts';
import { connectNats, ensureBuckets, ensureStreams } from '@tidegate/runtime';
import { startNatsServer, testLogger, type TestNatsOptions, type TestNatsServer } from '@tidegate/testkit';
import { openEvents, type EventConsumer, type Events } from '../src/index.ts';

export interface Fixture {
  readonly server: TestNatsServer;
  readonly nc: NatsConnection;
  readonly js: JetStreamClient;
  readonly events: Events;
  [Symbol.asyncDispose](): Promise<void>;
}

export async function startFixture(version: 'new' | 'debian' = 'new', options: TestNatsOptions = {}): Promise<Fixture> {
  const server = await startNatsServer({ version, ...options });
  const nc = await connectNats({ url: server.url, name: 'test', logger: testLogger() });
  await ensureStreams(nc, Object.values(STREAMS));
  await ensureBuckets(nc, Object.values(BUCKETS));
  const events = await openEvents(nc, { logger: testLogger() });
  return {
    server,
    nc,
    js: jetstream(nc),
    events,
    async [Symbol.asyncDispose]() {
      events.close();
      await nc.close();
      await server.stop();
    },
  };
}

/** Reads until so many events came, and closes the consumer. */
export async function take(consumer: EventConsumer, count: number): Promise<EventJson[]> {
  const taken: EventJson[] = [];
  for await (const batch of consumer) {
    taken.push(...batch.events());
    batch.done();
    if (taken.length >= count) break;
  }
  await consumer.close();
  return taken;
}

export const sequencesOf = (events: readonly EventJson[], node?: string) =>
  events.filter(event => node === undefined || event.node === node).map(({ sequence }) => sequence);

export const upTo = (count: number) => Array.from({ length: count }, (_, i) => i + 1);
