import { BUCKETS, STREAMS } from '@tidegate/contracts';
import { ensureBuckets, ensureStreams, type NatsUser } from '@tidegate/runtime';
import { jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { startNatsServer, type TestNatsOptions, type TestNatsServer } from './nats-server.ts';

/** Where one server of a cluster runs. */
export type ServerPlace = Required<Pick<TestNatsOptions, 'address'>> & Pick<TestNatsOptions, 'launcher' | 'storeDir'>;

export interface TestNatsClusterOptions {
  users?: readonly NatsUser[];
  /** One for each server; default: three on loopback addresses of their own. */
  places?: readonly ServerPlace[];
}

/** Several nats-servers, each a process, that keep every stream and bucket together; `await using` stops them. */
export interface TestNatsCluster {
  /** All servers, with commas. */
  readonly url: string;
  readonly servers: readonly TestNatsServer[];
  /** Creates Tidegate's streams and buckets, a copy on each server. */
  setUp(nc: NatsConnection): Promise<void>;
  /** The server that leads a stream now; undefined while none does. */
  leaderOf(nc: NatsConnection, stream: string): Promise<TestNatsServer | undefined>;
  [Symbol.asyncDispose](): Promise<void>;
}

const SERVERS = 3;
const CLIENT_PORT = 4222;
const ROUTE_PORT = 6222;
/** Far more than a test stores: a server refuses streams that may grow larger than its disk, and a small disk has to do. */
const MAX_BYTES = 256 * 1024 * 1024;

let clusters = 0;

export async function startNatsCluster({ users, places = loopbackPlaces() }: TestNatsClusterOptions = {}): Promise<TestNatsCluster> {
  const routes = places.map(({ address }) => `nats://${address}:${ROUTE_PORT}`);
  const started = await Promise.allSettled(
    places.map((place, i) =>
      startNatsServer({
        ...place,
        port: CLIENT_PORT,
        ...(users && { users }),
        // As docs/operations.md wants it: what a server has agreed to it must not forget, or its cluster finds no leader for minutes, or one that knows too little.
        syncInterval: 'always',
        config: { server_name: serverName(i), cluster: { name: 'test', listen: `${place.address}:${ROUTE_PORT}`, routes } },
      }),
    ),
  );
  const servers = started.flatMap(result => (result.status === 'fulfilled' ? result.value : []));
  const stop = async () => void (await Promise.all(servers.map(server => server.stop())));
  const failed = started.find(result => result.status === 'rejected');
  if (failed) {
    await stop();
    throw failed.reason;
  }
  return {
    url: servers.map(server => server.url).join(','),
    servers,
    async setUp(nc) {
      const streams = Object.values(STREAMS).map(stream => ({ ...stream, maxBytes: MAX_BYTES }));
      await ensureStreams(nc, streams, { replicas: places.length });
      await ensureBuckets(nc, Object.values(BUCKETS), { replicas: places.length });
    },
    async leaderOf(nc, stream) {
      const { cluster } = await (await jetstreamManager(nc, { checkAPI: false })).streams.info(stream);
      return servers.find((_, i) => serverName(i) === cluster?.leader);
    },
    [Symbol.asyncDispose]: stop,
  };
}

function serverName(index: number): string {
  return `nats-${index + 1}`;
}

/** Addresses of 127.0.0.0/8 that nobody else uses: the servers must know each other's ports before they listen. */
function loopbackPlaces(): ServerPlace[] {
  const cluster = clusters++;
  const [high, low] = [(process.pid >> 8) & 0xff, process.pid & 0xff];
  return Array.from({ length: SERVERS }, (_, i) => ({ address: `127.${high === 0 ? 255 : high}.${low}.${cluster * SERVERS + i + 1}` }));
}
