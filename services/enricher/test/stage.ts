/** A real nats-server with Tidegate's streams and users, enrichers as processes, and what they stored. */
import type { ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import {
  BUCKETS,
  CLUSTER_KEY,
  clusterSettingCodec,
  decodeBatch,
  Kind,
  nodeKey,
  parseEventSubject,
  RAW_PREFIX,
  rawSubject,
  STREAMS,
  type EventBatch,
} from '@tidegate/contracts';
import {
  bucketPrefix,
  configuredCluster,
  connectNats,
  createBuckets,
  createMetrics,
  createStreamReaders,
  ensureBuckets,
  ensureStreams,
  NatsRole,
  roleInboxPrefix,
  rolePermissions,
  type StreamMessage,
} from '@tidegate/runtime';
import { createHost, startNatsServer, testLogger, waitFor, type Host, type TestNatsOptions, type TestNatsServer } from '@tidegate/testkit';
import { jetstream, jetstreamManager, type JetStreamClient, type JetStreamManager } from '@nats-io/jetstream';
import type { MsgHdrs, NatsConnection } from '@nats-io/nats-core';
import { createEnricher, type Enricher } from '../src/enricher.ts';
import type { RawBatch } from './batches.ts';

export interface Stage {
  host: Host;
  server: TestNatsServer;
  nc: NatsConnection;
  client: JetStreamClient;
  manager: JetStreamManager;
  /** Names the cluster, as the gateway does. */
  nameCluster(name: string): Promise<void>;
  /** Makes a node known, as its sensor does. */
  announceNode(node: string): Promise<void>;
  putPod(key: string, pod: Uint8Array): Promise<void>;
  /** Stores a message on the node's subject of RAW. */
  store(node: string, message: { id: string; payload: Uint8Array; headers: MsgHdrs }): Promise<void>;
  storeBatches(node: string, batches: readonly RawBatch[]): Promise<void>;
  /** An enricher in this process. */
  enricher(id: string, options?: { isReady?: boolean }): Promise<Enricher>;
  /** An enricher as a process; resolves when it runs. */
  spawnEnricher(): Promise<ChildProcess>;
  /** All messages of a stream so far. */
  read(stream: string): Promise<StreamMessage[]>;
  /** Waits until the cursors of these nodes stand behind all they have on RAW. */
  enriched(nodes: readonly string[], timeoutMs?: number): Promise<void>;
  audit(): Promise<Audit>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** What EVENTS holds of one node. */
export interface NodeAudit {
  /** Of each event, in the order of the stream. */
  sequences: number[];
  /** Numbers stored more than once. */
  duplicates: number[];
  /** Numbers from the lowest to the highest that are neither stored nor covered by a loss. */
  gaps: number[];
  /** Subjects on which the numbers do not rise. */
  unordered: string[];
  losses: { reason: number; count: number; first: number; last: number }[];
}

export interface StageOptions extends TestNatsOptions {
  /** Name of the cluster; '': it has none yet. */
  cluster?: string;
}

export type Audit = Map<string, NodeAudit>;

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));

export const CLUSTER = 'east';

export async function setStage({ cluster = CLUSTER, ...options }: StageOptions = {}): Promise<Stage> {
  const host = createHost();
  const server = await startNatsServer({
    ...options,
    users: [
      { user: 'test', password: 'test', permissions: rolePermissions(NatsRole.admin) },
      { user: 'enricher', password: 'secret', permissions: rolePermissions(NatsRole.enricher) },
    ],
  });
  host.defer(() => server.stop());
  const nc = await connectNats({ url: server.url, name: 'test', user: 'test', password: 'test', logger: testLogger() });
  host.defer(() => nc.close());
  await ensureStreams(nc, Object.values(STREAMS));
  await ensureBuckets(nc, Object.values(BUCKETS));
  const manager = await jetstreamManager(nc);
  const client = jetstream(nc);

  const readers = await createStreamReaders(nc);
  const buckets = await createBuckets({ nc, logger: testLogger() });
  host.defer(() => {
    buckets.close();
  });
  const settings = buckets.open(BUCKETS.settings, clusterSettingCodec);
  const nameCluster = async (name: string) => void (await settings.put(CLUSTER_KEY, configuredCluster(name)));
  if (cluster !== '') await nameCluster(cluster);

  async function read(stream: string): Promise<StreamMessage[]> {
    const reader = readers.open({ stream, start: { streamSequence: 1 } });
    const messages: StreamMessage[] = [];
    for await (const message of reader.read({ follow: false })) messages.push(message);
    reader.close();
    return messages;
  }

  async function lastOnRaw(node: string): Promise<number> {
    const message = await manager.streams.getMessage(STREAMS.raw.name, { last_by_subj: rawSubject(node) });
    return message?.seq ?? 0;
  }

  return {
    host,
    server,
    nc,
    client,
    manager,
    read,
    nameCluster,
    announceNode: async node => void (await client.publish(bucketPrefix(BUCKETS.sensors.name) + nodeKey(node), '{}')),
    putPod: async (key, pod) => void (await client.publish(bucketPrefix(BUCKETS.pods.name) + key, pod)),
    store: async (node, { id, payload, headers }) =>
      void (await client.publish(rawSubject(node), payload, { msgID: id, headers, retries: 20 })),
    storeBatches: async (node, batches) => {
      for (const batch of batches)
        await client.publish(rawSubject(node), batch.payload, { msgID: batch.id, headers: batch.headers, retries: 20 });
    },
    enricher: async (id, { isReady = true } = {}) => {
      const connection = await connectNats({
        url: server.url,
        name: id,
        user: 'enricher',
        password: 'secret',
        inboxPrefix: roleInboxPrefix(NatsRole.enricher),
        logger: testLogger(),
      });
      host.defer(() => connection.close());
      const enricher = createEnricher({
        nc: connection,
        logger: testLogger(),
        metrics: createMetrics('enricher'),
        id,
        maxInFlightBytes: 16 * 1024 * 1024,
        workloadsPerNamespace: 1_000,
      });
      host.defer(() => enricher.close());
      if (isReady) await waitFor(() => enricher.readiness().length === 0, { what: 'the enricher to be ready' });
      return enricher;
    },
    spawnEnricher: async () => {
      const env = {
        ...process.env,
        TIDEGATE_NATS_URL: server.url,
        TIDEGATE_NATS_USER: 'enricher',
        TIDEGATE_NATS_PASSWORD: 'secret',
        TIDEGATE_HEALTH_PORT: '0',
        TIDEGATE_LOG_LEVEL: 'info',
      };
      const child = host.spawn(process.execPath, [MAIN], { env, stdio: ['ignore', 'ignore', 'pipe'] });
      let log = '';
      child.stderr!.on('data', (chunk: Buffer) => {
        log = (log + chunk.toString()).slice(-65_536);
        if (process.env.TIDEGATE_TEST_LOG_LEVEL) process.stderr.write(chunk);
      });
      await waitFor(() => log.includes('"enriching"'), { what: 'the enricher process to run' });
      return child;
    },
    enriched: async (nodes, timeoutMs = 30_000) => {
      await waitFor(
        async () => {
          for (const node of nodes) {
            const message = await manager.streams.getMessage(`KV_${BUCKETS.enrichers.name}`, {
              last_by_subj: `${bucketPrefix(BUCKETS.enrichers.name)}cursor.${nodeKey(node)}`,
            });
            const { streamSequence } = message?.json<{ streamSequence: number }>() ?? { streamSequence: -1 };
            if (streamSequence < (await lastOnRaw(node))) return false;
          }
          return true;
        },
        { timeoutMs, what: `${nodes.join(', ')} to be enriched` },
      );
    },
    audit: async () => auditOf(await read(STREAMS.events.name)),
    [Symbol.asyncDispose]: () => host[Symbol.asyncDispose](),
  };
}

export function auditOf(messages: readonly StreamMessage[]): Audit {
  const audit: Audit = new Map();
  const lastOnSubject = new Map<string, number>();
  for (const { subject, data } of messages) {
    const batch: EventBatch = decodeBatch(data);
    let node = audit.get(batch.node);
    if (!node) audit.set(batch.node, (node = { sequences: [], duplicates: [], gaps: [], unordered: [], losses: [] }));
    for (const event of batch.events) {
      if (event.kind === Kind.KIND_LOSS && event.loss) {
        const { reason, count, firstSequence, lastSequence } = event.loss;
        node.losses.push({ reason: reason ?? 0, count: count ?? 0, first: firstSequence ?? 0, last: lastSequence ?? 0 });
      }
      const sequence = event.sequence ?? 0;
      if (sequence === 0) continue;
      const key = `${subject} of ${batch.node}`;
      if (sequence <= (lastOnSubject.get(key) ?? 0)) node.unordered.push(key);
      lastOnSubject.set(key, sequence);
      node.sequences.push(sequence);
    }
  }
  for (const node of audit.values()) {
    const sorted = node.sequences.toSorted((a, b) => a - b);
    node.duplicates = sorted.filter((sequence, i) => sequence === sorted[i - 1]);
    const covered = (sequence: number) => node.losses.some(({ first, last }) => first <= sequence && sequence <= last);
    const stored = new Set(sorted);
    for (let sequence = sorted[0] ?? 0; sequence < (sorted.at(-1) ?? 0); sequence++) {
      if (!stored.has(sequence) && !covered(sequence)) node.gaps.push(sequence);
    }
  }
  return audit;
}

/** Kind, namespace and workload of each message, for messages that tell. */
export function placesOf(messages: readonly StreamMessage[]): string[] {
  return messages.map(({ subject }) => {
    const place = parseEventSubject(subject);
    return place ? `${place.kind} ${place.namespace}/${place.workload}` : subject.replace(`${RAW_PREFIX}.`, '');
  });
}
