/** A real nats-server with Tidegate's streams, events in them, and the API in front. */
import { jetstream, type JetStreamClient } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { BUCKETS, STREAMS } from '@tidegate/contracts';
import { connectNats, ensureBuckets, ensureStreams } from '@tidegate/runtime';
import { startNatsServer, testLogger, type TestNatsServer } from '@tidegate/testkit';
import { createApi, type Api } from '../src/api.ts';

/** An answer's JSON: tests look into it as they please. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- Checked by assertions.
type Body = any;

export interface Fixture {
  readonly nats: TestNatsServer;
  readonly nc: NatsConnection;
  readonly js: JetStreamClient;
  readonly api: Api;
  /** GET, as JSON. */
  get(path: string, headers?: Record<string, string>): Promise<{ status: number; body: Body }>;
  [Symbol.asyncDispose](): Promise<void>;
}

export async function startFixture({
  version = 'new',
  maxLiveClients,
}: { version?: 'new' | 'debian'; maxLiveClients?: number } = {}): Promise<Fixture> {
  const nats = await startNatsServer({ version });
  const nc = await connectNats({ url: nats.url, name: 'test', logger: testLogger() });
  await ensureStreams(nc, Object.values(STREAMS));
  await ensureBuckets(nc, Object.values(BUCKETS));
  const apiNc = await connectNats({ url: nats.url, name: 'api', logger: testLogger() });
  const api = await createApi({
    nc: apiNc,
    logger: testLogger(),
    host: '127.0.0.1',
    port: 0,
    ...(maxLiveClients !== undefined && { maxLiveClients }),
  });
  return {
    nats,
    nc,
    js: jetstream(nc),
    api,
    async get(path, headers = {}) {
      const response = await fetch(api.url + path, { headers });
      return { status: response.status, body: await response.json() };
    },
    async [Symbol.asyncDispose]() {
      await api.close();
      await apiNc.close();
      await nc.close();
      await nats.stop();
    },
  };
}
