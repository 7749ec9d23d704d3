/** Messages of EVENTS as an enricher stores them, for tests of what reads them. */
import { setTimeout as delay } from 'node:timers/promises';
import type { JetStreamClient } from '@nats-io/jetstream';
import { headers as createHeaders, type MsgHdrs } from '@nats-io/nats-core';
import {
  decodeBatch,
  encodeBatch,
  eventSubject,
  formatEventHeaders,
  HOST_NAMESPACE,
  kindNumber,
  SCHEMA_VERSION,
  type EventBatchInput,
} from '@tidegate/contracts';

export const CLUSTER = 'c1';
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
    cluster: CLUSTER,
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
      ...(kind === 'exec' ? { exec: { rawPath: './x' } } : {}),
      ...(kind === 'exit' ? { exit: { code: 1 } } : {}),
      ...(kind === 'connect' ? { connect: { destinationIp: '10.0.0.1', destinationPort: 443 } } : {}),
    })),
    ...more,
  });
}

/** Which part of its batch a message is. */
export interface MessagePart {
  part: number;
  parts: number;
}

const WHOLE: MessagePart = { part: 1, parts: 1 };

/** The headers of a message as the enricher writes them. */
export function enricherHeaders(payload: Uint8Array, part: MessagePart): Record<string, string> {
  const { node, boot, batch, cluster, events } = decodeBatch(payload);
  const numbers = events.map(({ sequence = 0 }) => Number(sequence)).filter(sequence => sequence > 0);
  const range = numbers.length > 0 ? { first: Math.min(...numbers), last: Math.max(...numbers) } : { first: 0, last: 0 };
  return formatEventHeaders({
    schema: SCHEMA_VERSION,
    cluster,
    node,
    boot,
    batch,
    ...part,
    firstSequence: range.first,
    lastSequence: range.last,
    events: events.length,
  });
}

function headersOf(payload: Uint8Array, part: MessagePart): MsgHdrs {
  const headers = createHeaders();
  for (const [name, value] of Object.entries(enricherHeaders(payload, part))) headers.set(name, value);
  return headers;
}

/** Publishes; resolves to the stream sequence. */
export async function publish(
  js: JetStreamClient,
  kind: string,
  payload: Uint8Array,
  namespace = HOST_NAMESPACE,
  workload = NODE,
  part: MessagePart = WHOLE,
): Promise<number> {
  const ack = await js.publish(eventSubject(kindNumber(kind)!, namespace, workload), payload, { headers: headersOf(payload, part) });
  return ack.seq;
}

/** Keeps on trying while the server is away. */
export async function publishInsistently(js: JetStreamClient, kind: string, payload: Uint8Array, messageId: string): Promise<void> {
  for (;;) {
    try {
      await js.publish(eventSubject(kindNumber(kind)!, HOST_NAMESPACE, NODE), payload, {
        headers: headersOf(payload, WHOLE),
        msgID: messageId,
        timeout: 1000,
      });
      return;
    } catch {
      await delay(20);
    }
  }
}

/** One batch of `processes` processes that start and end in turn, as the enricher stores it: a message for each kind and workload. */
export function interleavedBatch(batch: number, firstSequence: number, processes: number, workloads: readonly string[]) {
  const events = Array.from({ length: processes * 2 }, (_, i) => ({ kind: i % 2 === 0 ? 'exec' : 'exit', sequence: firstSequence + i }));
  const parts = workloads.length * 2;
  return workloads.flatMap((workload, w) =>
    ['exec', 'exit'].map((kind, k) => {
      const own = events.filter(event => event.kind === kind && Math.floor((event.sequence - firstSequence) / 2) % workloads.length === w);
      return {
        kind,
        workload,
        part: { part: w * 2 + k + 1, parts },
        sequences: own.map(event => event.sequence),
        payload: (node: string, cluster = CLUSTER) => batchOf(kind, own, { cluster, node, batch, boot: `${cluster}-${node}` }),
      };
    }),
  );
}

/**
 * Stores `batches` batches of each node of each cluster, all nodes' messages between each other's, the same every time. Each node's events are numbered from
 * `firstSequence`; returns how many each has.
 */
export async function publishInterleaved(
  js: JetStreamClient,
  nodes: readonly string[],
  batches: number,
  { firstBatch = 1, firstSequence = 1, clusters = [CLUSTER] } = {},
): Promise<number> {
  const eventsOf = (batch: number) => 2 * (10 + (batch % 7));
  let count = 0;
  const sources = clusters.flatMap(cluster => nodes.map(node => ({ cluster, node })));
  const queues = sources.map(() => [] as { kind: string; workload: string; part: MessagePart; payload: Uint8Array }[]);
  for (let batch = firstBatch; batch < firstBatch + batches; batch++) {
    for (const [i, { cluster, node }] of sources.entries())
      for (const { kind, workload, part, payload } of interleavedBatch(batch, firstSequence + count, eventsOf(batch) / 2, [
        'web',
        'db',
        'cache',
      ]))
        queues[i]!.push({ kind, workload, part, payload: payload(node, cluster) });
    count += eventsOf(batch);
  }
  const stored: Promise<number>[] = [];
  for (let turn = 0; queues.some(queue => queue.length > 0); turn++) {
    const queue = queues[(turn * turn + (turn >> 2)) % queues.length]!;
    for (const { kind, workload, part, payload } of queue.splice(0, 1 + (turn % 4)))
      stored.push(publish(js, kind, payload, 'shop', workload, part));
  }
  await Promise.all(stored);
  return count;
}
