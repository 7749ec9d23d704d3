/** A server with the users of an installation, and the connectors' process beside it; for tests. */
import type { ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { jetstream } from '@nats-io/jetstream';
import { BUCKETS, CONNECTOR_POSITION_PREFIX, STREAMS, connectorStatusCodec, consumerPositionCodec } from '@tidegate/contracts';
import { NatsRole, consumerPermissions, createBuckets, ensureBuckets, ensureStreams } from '@tidegate/runtime';
import { connectAs, roleUsers, startNatsServer, waitFor, type Host } from '@tidegate/testkit';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
export const NODES = ['n1', 'n2'];

export async function startStage(host: Host, version: 'new' | 'debian' = 'new', limits: { maxBytes?: number } = {}) {
  const server = await startNatsServer({
    version,
    users: [...roleUsers(), { user: 'consumer', password: 'consumer', permissions: consumerPermissions() }],
    config: { no_auth_user: 'consumer' },
  });
  host.defer(() => server.stop());
  const admin = await connectAs(NatsRole.admin, server.url, host);
  await ensureStreams(admin, [{ ...STREAMS.events, ...limits }]);
  await ensureBuckets(admin, Object.values(BUCKETS));
  const buckets = await createBuckets({ nc: admin, logger: host.logger });
  host.defer(() => buckets.close());
  const positions = buckets.open(BUCKETS.positions, consumerPositionCodec);
  const statuses = buckets.open(BUCKETS.connectors, connectorStatusCodec);
  let health = '';
  return {
    server,
    admin,
    js: jetstream(admin),
    position: async () => (await positions.get(`${CONNECTOR_POSITION_PREFIX}nats`)).value,
    /** What it says of itself. */
    status: async () => (await statuses.get('nats')).value,
    isAwake: async () => /tidegate_connectors_awake\{[^}]*\} 1/.test(await (await fetch(`${health}/metrics`)).text()),
    async startConnectors(): Promise<ChildProcess> {
      const child = host.spawn(process.execPath, [MAIN], {
        stdio: ['ignore', 'inherit', 'pipe'],
        env: {
          ...process.env,
          TIDEGATE_NATS_URL: server.url,
          TIDEGATE_NATS_USER: NatsRole.connectors,
          TIDEGATE_NATS_PASSWORD: NatsRole.connectors,
          TIDEGATE_HEALTH_PORT: '0',
          TIDEGATE_LOG_LEVEL: 'info',
        },
      });
      let log = '';
      child.stderr!.on('data', (chunk: Buffer) => (log += chunk.toString()));
      health = await waitFor(() => /"url":"(http:[^"]+)"/.exec(log)?.[1], { what: 'the connectors', timeoutMs: 30_000 });
      return child;
    },
  };
}
