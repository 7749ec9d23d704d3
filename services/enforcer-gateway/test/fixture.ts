/** A cluster, a nats-server and gateways as processes, for the tests of this folder. */
import {
  AppsV1Api,
  BatchV1Api,
  CoordinationV1Api,
  CoreV1Api,
  DiscoveryV1Api,
  KubeConfig,
  type V1Pod,
  type V1PodTemplateSpec,
} from '@kubernetes/client-node';
import { BUCKETS, Destination, Pod, addressKey, podKey } from '@tidegate/contracts';
import { NatsRole, bucketPrefix, bucketStream, ensureBuckets } from '@tidegate/runtime';
import {
  connectAs,
  createHost,
  roleUsers,
  startCluster,
  startNatsServer,
  waitFor,
  type Cluster,
  type ClusterOptions,
  type Host,
  type TestNatsServer,
} from '@tidegate/testkit';
import { jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const NODE = 'node-a.test';
export const LINGER_MS = 1_500;
const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));

export type PodEntry = ReturnType<typeof Pod.decode>;
export type DestinationEntry = ReturnType<typeof Destination.decode>;

export interface GatewayProcess {
  readonly child: ChildProcess;
  readonly identity: string;
  /** Lines of its log. */
  readonly log: readonly string[];
  /** One metric without labels; the prefix is left out. */
  metric(name: string): Promise<number>;
  isLeader(): Promise<boolean>;
  isReady(): Promise<boolean>;
}

export interface Fixture extends AsyncDisposable {
  host: Host;
  cluster: Cluster;
  nats: TestNatsServer;
  nc: NatsConnection;
  core: CoreV1Api;
  apps: AppsV1Api;
  batch: BatchV1Api;
  coordination: CoordinationV1Api;
  discovery: DiscoveryV1Api;
  /** Resolves when it leads, or when it is ready where another leads. */
  startGateway(options?: { env?: Record<string, string>; leads?: boolean }): Promise<GatewayProcess>;
  podEntry(pod: V1Pod): Promise<PodEntry | undefined>;
  /** @param uid as the node knows it */
  podEntryOf(uid: string): Promise<PodEntry | undefined>;
  destination(ip: string): Promise<DestinationEntry | undefined>;
  /** undefined: nothing there, or a delete marker. */
  entry(bucket: string, key: string): Promise<Uint8Array | undefined>;
  /** Messages of the bucket's stream, delete markers included. */
  bucketMessages(bucket: string): Promise<number>;
  createNamespace(name: string): Promise<void>;
  createNode(name: string, ip?: string): Promise<void>;
}

export async function startFixture(options: ClusterOptions = {}): Promise<Fixture> {
  const host = createHost();
  const cluster = await startCluster(options);
  host.defer(() => cluster.stop());
  const nats = await startNatsServer({ users: roleUsers([NatsRole.admin, NatsRole.gateway]) });
  host.defer(() => nats.stop());
  const nc = await connectAs(NatsRole.admin, nats.url, host);
  await ensureBuckets(nc, Object.values(BUCKETS));
  const manager = await jetstreamManager(nc, { checkAPI: false });
  const config = new KubeConfig();
  config.loadFromFile(cluster.kubeconfigPath);
  const core = config.makeApiClient(CoreV1Api);
  let gateways = 0;

  const entry: Fixture['entry'] = (bucket, key) => readEntry(manager, bucket, key);
  const podEntryOf = async (uid: string) => {
    const value = await entry(BUCKETS.pods.name, podKey(NODE, uid));
    return value && Pod.decode(value);
  };

  const fixture: Fixture = {
    host,
    cluster,
    nats,
    nc,
    core,
    apps: config.makeApiClient(AppsV1Api),
    batch: config.makeApiClient(BatchV1Api),
    coordination: config.makeApiClient(CoordinationV1Api),
    discovery: config.makeApiClient(DiscoveryV1Api),
    async startGateway({ env = {}, leads = true } = {}) {
      const identity = `gateway-${++gateways}`;
      const child = host.spawn(process.execPath, [MAIN], {
        env: {
          ...process.env,
          KUBECONFIG: cluster.kubeconfigPath,
          TIDEGATE_NATS_URL: nats.url,
          TIDEGATE_NATS_USER: NatsRole.gateway,
          TIDEGATE_NATS_PASSWORD: NatsRole.gateway,
          TIDEGATE_HEALTH_PORT: '0',
          TIDEGATE_IDENTITY: identity,
          TIDEGATE_LINGER_MS: String(LINGER_MS),
          ...env,
        },
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let url: string | undefined;
      const log: string[] = [];
      createInterface(child.stderr!).on('line', line => {
        log.push(line);
        if (process.env.TIDEGATE_TEST_LOG_LEVEL !== undefined) console.error(line);
        try {
          url ??= (JSON.parse(line) as { health?: string }).health;
        } catch {
          console.error(line);
        }
      });
      const gateway: GatewayProcess = {
        child,
        identity,
        log,
        async metric(name) {
          const text = await (await fetch(`${url}/metrics`)).text();
          return Number(new RegExp(`^tidegate_enforcer_gateway_${name} (.*)$`, 'm').exec(text)?.[1] ?? NaN);
        },
        isLeader: async () => (await gateway.metric('leader')) === 1,
        isReady: async () => (await fetch(`${url}/readyz`)).ok,
      };
      await waitFor(() => url !== undefined && (leads ? gateway.isLeader() : gateway.isReady()), {
        what: `${identity} to ${leads ? 'lead' : 'be ready'}`,
        timeoutMs: 30_000,
      });
      return gateway;
    },
    podEntry: pod => podEntryOf(pod.metadata?.uid ?? ''),
    podEntryOf,
    async destination(ip) {
      const value = await entry(BUCKETS.destinations.name, addressKey(ip));
      return value && Destination.decode(value);
    },
    entry,
    bucketMessages: async bucket => (await manager.streams.info(bucketStream(bucket))).state.messages,
    async createNamespace(name) {
      await core.createNamespace({ body: { metadata: { name } } });
      // Controllers of a restarted API server back off for up to half a minute.
      const options = { what: `the service account of ${name}`, timeoutMs: 60_000 };
      await waitFor(async () => (await core.readNamespacedServiceAccount({ namespace: name, name: 'default' })).metadata, options);
    },
    async createNode(name, ip) {
      await core.createNode({ body: { metadata: { name } } });
      if (ip === undefined) return;
      const body = [{ op: 'add', path: '/status/addresses', value: [{ type: 'InternalIP', address: ip }] }];
      await core.patchNodeStatus({ name, body });
    },
    [Symbol.asyncDispose]: () => host[Symbol.asyncDispose](),
  };
  await fixture.createNode(NODE, '10.1.0.1');
  return fixture;
}

/** A template whose pods are on NODE without a scheduler, and never run. */
export function podTemplate(labels: Record<string, string>): V1PodTemplateSpec {
  return {
    metadata: { labels },
    spec: {
      nodeName: NODE,
      tolerations: [{ operator: 'Exists' }],
      terminationGracePeriodSeconds: 0,
      containers: [{ name: 'main', image: 'shop/web:1' }],
    },
  };
}

async function readEntry(manager: JetStreamManager, bucket: string, key: string): Promise<Uint8Array | undefined> {
  const message = await manager.streams.getMessage(bucketStream(bucket), { last_by_subj: bucketPrefix(bucket) + key });
  return message === null || message.header.has('KV-Operation') ? undefined : message.data;
}
