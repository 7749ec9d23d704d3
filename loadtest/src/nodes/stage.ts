/** Two enrichers, the API and one nats-server or three, with a fleet of simulated nodes; the enforcer-gateway's part the fleet plays. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { BUCKETS, CLUSTER_KEY, clusterSettingCodec, CURSOR_PREFIX, enricherCursorCodec, STREAMS } from '@tidegate/contracts';
import { jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import { configuredCluster, createBuckets, ensureBuckets, ensureStreams, NatsRole } from '@tidegate/runtime';
import { connectAs, createHost, roleUsers, startNatsCluster, startNatsServer, type Host } from '@tidegate/testkit';
import { startServiceProcess, type ServiceProcess } from '../service-process.ts';
import { runTidegate } from '../tidegate-command.ts';
import { createFleet, type Fleet, type FleetOptions } from './fleet.ts';

export interface NodesStageOptions extends Omit<FleetOptions, 'natsUrl'> {
  /** nats-servers, which keep as many copies of everything. */
  servers: 1 | 3;
}

export interface NodesStage {
  readonly fleet: Fleet;
  readonly enrichers: readonly ServiceProcess[];
  readonly api: ServiceProcess;
  readonly manager: JetStreamManager;
  /** Process ids by service: nats-server, enricher, api. */
  readonly pids: Readonly<Record<string, readonly number[]>>;
  /** Events that EVENTS has stored, as the enrichers count them: what was sent twice counts twice. */
  stored(): Promise<number>;
  /** Events up to the enrichers' cursors, which are written once a second. */
  enriched(): Promise<number>;
  /** Bytes that a stream takes on the disk of one server. */
  diskBytes(stream: string): number;
  /** As `tidegate audit` finds it. */
  audit(): Promise<{ isClean: boolean; events: number }>;
  [Symbol.asyncDispose](): Promise<void>;
}

const ENRICHERS = 2;
/** A thousand nodes with a few lines each. */
const AUDIT_BYTES = 16 * 1024 * 1024;

export async function setNodesStage(options: NodesStageOptions): Promise<NodesStage> {
  const host = createHost();
  try {
    return await set(host, options);
  } catch (error) {
    await host[Symbol.asyncDispose]();
    throw error;
  }
}

async function set(host: Host, { servers: replicas, ...fleetOptions }: NodesStageOptions): Promise<NodesStage> {
  const { url, servers } = await startServers(host, replicas);
  const nc = await connectAs(NatsRole.admin, url, host);
  await ensureStreams(nc, Object.values(STREAMS), { replicas });
  await ensureBuckets(nc, Object.values(BUCKETS), { replicas });
  const buckets = await createBuckets({ nc, logger: host.logger });
  host.defer(() => buckets.close());
  await buckets.open(BUCKETS.settings, clusterSettingCodec).put(CLUSTER_KEY, configuredCluster('bench'));
  const cursors = buckets.open(BUCKETS.enrichers, enricherCursorCodec);
  const start = (folder: string, role: NatsRole) =>
    startServiceProcess(host, { folder, role, natsUrl: url, env: { TIDEGATE_API_PORT: '0' } });
  const fleet = await createFleet(host, { ...fleetOptions, natsUrl: url });
  const enrichers = await Promise.all(Array.from({ length: ENRICHERS }, () => start('enricher', NatsRole.enricher)));
  const api = await start('api', NatsRole.api);
  const env = { TIDEGATE_NATS_URL: url, TIDEGATE_NATS_USER: NatsRole.admin, TIDEGATE_NATS_PASSWORD: NatsRole.admin };
  return {
    fleet,
    enrichers,
    api,
    manager: await jetstreamManager(nc, { checkAPI: false }),
    pids: { 'nats-server': servers.map(({ pid }) => pid), enricher: enrichers.map(({ pid }) => pid), api: [api.pid] },
    async stored() {
      const counts = await Promise.all(enrichers.map(enricher => enricher.metric('events_stored_total')));
      return counts.reduce((sum, count) => sum + count, 0);
    },
    async enriched() {
      const all = await cursors.snapshot(`${CURSOR_PREFIX}*`);
      return [...all.values()].reduce((sum, { value }) => sum + value.lastSequence, 0);
    },
    diskBytes: stream => bytesBelow(join(servers[0]!.storeDir, 'jetstream', '$G', 'streams', stream)),
    async audit() {
      const { code, output } = await runTidegate(['audit', '--output', 'json'], { env, keptBytes: AUDIT_BYTES });
      const { nodes } = JSON.parse(output.slice(output.indexOf('{'))) as { nodes: { events: number }[] };
      return { isClean: code === 0, events: nodes.reduce((sum, { events }) => sum + events, 0) };
    },
    [Symbol.asyncDispose]: () => host[Symbol.asyncDispose](),
  };
}

async function startServers(host: Host, count: 1 | 3) {
  const users = roleUsers();
  if (count === 1) {
    const server = await startNatsServer({ users });
    host.defer(() => server.stop());
    return { url: server.url, servers: [server] };
  }
  const cluster = await startNatsCluster({ users });
  host.defer(() => cluster[Symbol.asyncDispose]());
  return cluster;
}

function bytesBelow(folder: string): number {
  let bytes = 0;
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    try {
      bytes += statSync(join(entry.parentPath, entry.name)).blocks * 512;
    } catch {
      continue; // A block that was replaced meanwhile.
    }
  }
  return bytes;
}
