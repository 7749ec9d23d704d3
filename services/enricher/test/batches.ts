/** Batches as a sensor makes them, for tests. */
import { encodeBatch, formatSequences, Kind, RawHeader, rawMessageId, type EventBatchInput } from '@tidegate/contracts';
import { headers, type MsgHdrs } from '@nats-io/nats-core';

export interface BatchOptions {
  node?: string;
  boot?: string;
  batch: number;
  /** Sequence of the first event. */
  first: number;
  events: number;
  /** Pod uid of each container; '': outside Kubernetes. */
  pods?: readonly string[];
  kinds?: readonly number[];
}

export interface RawBatch {
  id: string;
  payload: Uint8Array;
  headers: MsgHdrs;
  first: number;
  last: number;
}

/** Numbers that look random and are the same in every run. */
export function seededRandom(seed: number): (below: number) => number {
  let state = seed;
  return below => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/**
 * Init, a shell on the host, and in each container a process and its child; events of the given kinds are spread over all processes, and every
 * tenth is of a socket nobody owns.
 */
export function batchInput({
  node = 'node-1',
  boot = 'boot-1',
  batch,
  first,
  events,
  pods = [],
  kinds = [Kind.KIND_EXEC, Kind.KIND_EXIT, Kind.KIND_CONNECT, Kind.KIND_CLOSE],
}: BatchOptions): EventBatchInput {
  const random = seededRandom(first + batch);
  const processes = [
    { id: 1, execId: 'aW5pdA==', pid: 1, binary: '/sbin/init', arguments: ['/sbin/init'] },
    { id: 2, parent: 1, execId: 'c2hlbGw=', pid: 200, binary: '/bin/sh', arguments: ['sh', '-c', 'true\nfalse'] },
  ];
  const containers = pods.map((podUid, i) => ({
    id: i + 1,
    containerId: (i + 1).toString(16).padStart(64, 'c'),
    podUid,
    cgroupPath: `/kubepods/pod${podUid}`,
    name: podUid === '' ? `plain-${i}` : '',
  }));
  containers.forEach((container, i) => {
    const id = 10 + 2 * i;
    const common = { container: container.id, binary: '/usr/bin/server', arguments: ['server'] };
    processes.push({ ...common, id, parent: 1, execId: `cGFyZW50${i}`, pid: 1000 + id });
    processes.push({ ...common, id: id + 1, parent: id, execId: `Y2hpbGQ${i}`, pid: 1000 + id + 1 });
  });
  return {
    node,
    boot,
    batch,
    wallOffsetNs: 1_700_000_000_000_000_000,
    containers,
    processes,
    events: Array.from({ length: events }, (_, i) => {
      const kind = kinds[random(kinds.length)]!;
      const connection = { sourceIp: '10.0.0.9', sourcePort: 40_000, destinationIp: `10.1.0.${random(4)}`, destinationPort: 443 };
      return {
        kind,
        process: i % 10 === 9 && kind !== Kind.KIND_EXEC ? 0 : processes[random(processes.length)]!.id,
        sequence: first + i,
        ktimeNs: 5_000_000_000 + i,
        tid: 77,
        ...(kind === Kind.KIND_EXEC && { exec: { rawPath: 'server', comm: 'server' } }),
        ...(kind === Kind.KIND_EXIT && { exit: { code: 3, durationNs: 1_000 } }),
        ...(kind === Kind.KIND_CONNECT && { connect: connection }),
        ...(kind === Kind.KIND_CLOSE && { close: connection }),
      };
    }),
  };
}

export function rawBatch(options: BatchOptions): RawBatch {
  const { node = 'node-1', boot = 'boot-1', batch, first, events } = options;
  const last = first + events - 1;
  return {
    id: rawMessageId(node, boot, batch),
    payload: encodeBatch(batchInput(options)),
    headers: rawHeaders(first, last, events),
    first,
    last,
  };
}

export function rawHeaders(first: number, last: number, events: number): MsgHdrs {
  const result = headers();
  result.set(RawHeader.sequences, formatSequences(first, last));
  result.set(RawHeader.events, String(events));
  return result;
}
