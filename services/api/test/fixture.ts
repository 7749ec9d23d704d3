/** A real nats-server with Tidegate's streams, events in them, and the API in front. */
import { setTimeout as delay } from 'node:timers/promises';
import { jetstream, type JetStreamClient } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { BUCKETS, Kind, STREAMS, encodeBatch, eventSubject, HOST_NAMESPACE, kindNumber, type EventBatchInput } from '@tidegate/contracts';
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

export const NODE = 'worker-1';
/** Wall time of ktime 0; a multiple of 4, so that its nanoseconds are exact as a number. */
export const BOOT_TIME_MS = Math.floor(Date.now() / 4) * 4 - 3_600_000;

export function ktimeNow(): number {
  return (Date.now() - BOOT_TIME_MS) * 1e6;
}

export function execId(pid: number, ktimeNs: number, node = NODE): string {
  return Buffer.from(`${node}:${ktimeNs}:${pid}`).toString('base64');
}

export interface TestEvent {
  sequence: number;
  ktimeNs?: number;
  binary?: string;
  pid?: number;
}

/** A batch of events of one kind, each by a process of its own. */
export function batchOf(kind: string, events: readonly TestEvent[], more: EventBatchInput = {}): Uint8Array {
  const number = kindNumber(kind)!;
  return encodeBatch({
    node: NODE,
    boot: 'boot-1',
    batch: events[0]?.sequence ?? 1,
    wallOffsetNs: BOOT_TIME_MS * 1e6,
    processes: events.map(({ sequence, ktimeNs = 0, binary = '/usr/bin/true', pid = 1000 + sequence }, i) => ({
      id: i + 2,
      parent: 1,
      execId: execId(pid, ktimeNs),
      pid,
      binary,
      arguments: [binary, `--sequence=${sequence}`],
      startKtimeNs: ktimeNs,
    })),
    events: events.map(({ sequence, ktimeNs = ktimeNow() }, i) => ({
      kind: number,
      process: i + 2,
      sequence,
      ktimeNs,
      ...(number === Kind.KIND_EXEC ? { exec: { rawPath: './x' } } : {}),
      ...(number === Kind.KIND_EXIT ? { exit: { code: 1 } } : {}),
      ...(number === Kind.KIND_CONNECT ? { connect: { destinationIp: '10.0.0.1', destinationPort: 443 } } : {}),
    })),
    ...more,
  });
}

/** Publishes; resolves to the stream sequence. */
export async function publish(
  js: JetStreamClient,
  kind: string,
  payload: Uint8Array,
  namespace = HOST_NAMESPACE,
  workload = NODE,
): Promise<number> {
  const ack = await js.publish(eventSubject(kindNumber(kind)!, namespace, workload), payload);
  return ack.seq;
}

/** Keeps on trying while the server is away. */
export async function publishInsistently(js: JetStreamClient, kind: string, payload: Uint8Array, messageId: string): Promise<void> {
  for (;;) {
    try {
      await js.publish(eventSubject(kindNumber(kind)!, HOST_NAMESPACE, NODE), payload, { msgID: messageId, timeout: 1000 });
      return;
    } catch {
      await delay(20);
    }
  }
}

/** One batch of `processes` processes that start and end in turn, as the enricher stores it: a message for each kind and workload. */
export function interleavedBatch(batch: number, firstSequence: number, processes: number, workloads: readonly string[]) {
  const events = Array.from({ length: processes * 2 }, (_, i) => ({ kind: i % 2 === 0 ? 'exec' : 'exit', sequence: firstSequence + i }));
  return workloads.flatMap((workload, w) =>
    ['exec', 'exit'].map(kind => {
      const part = events.filter(event => event.kind === kind && Math.floor((event.sequence - firstSequence) / 2) % workloads.length === w);
      return {
        kind,
        workload,
        sequences: part.map(event => event.sequence),
        payload: (node: string) => batchOf(kind, part, { node, batch }),
      };
    }),
  );
}

/**
 * Stores batches 1 to `batches` of each node, all nodes' messages between each other's, the same every time. Each node's events are numbered from 1;
 * returns how many each has.
 */
export async function publishInterleaved({ js }: Fixture, nodes: readonly string[], batches: number): Promise<number> {
  const eventsOf = (batch: number) => 2 * (10 + (batch % 7));
  let count = 0;
  const queues = nodes.map(() => [] as { node: string; kind: string; workload: string; payload: Uint8Array }[]);
  for (let batch = 1; batch <= batches; batch++) {
    for (const [i, node] of nodes.entries())
      for (const { kind, workload, payload } of interleavedBatch(batch, count + 1, eventsOf(batch) / 2, ['web', 'db', 'cache']))
        queues[i]!.push({ node, kind, workload, payload: payload(node) });
    count += eventsOf(batch);
  }
  const stored: Promise<number>[] = [];
  for (let turn = 0; queues.some(queue => queue.length > 0); turn++) {
    const queue = queues[(turn * turn + (turn >> 2)) % queues.length]!;
    for (const { kind, workload, payload } of queue.splice(0, 1 + (turn % 4))) stored.push(publish(js, kind, payload, 'shop', workload));
  }
  await Promise.all(stored);
  return count;
}
