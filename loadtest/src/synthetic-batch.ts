/** Batches as the sensor makes them under a storm of connections, for benchmarks that need no kernel. */
import { Kind, Pod, type EventBatchInput } from '@tidegate/contracts';

export interface SyntheticBatch {
  events: number;
  /** Each a container with a pod and a process of its own. 0: everything on the host. */
  pods: number;
}

export const SYNTHETIC_NODE = 'bench-node';

export function podUid(index: number): string {
  return `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`;
}

export function containerId(index: number): string {
  return index.toString(16).padStart(64, 'a');
}

/** The pod with this number, encoded as in KV: one Deployment each. */
export function encodedPod(index: number): Uint8Array {
  return Pod.encode({
    uid: podUid(index),
    namespace: 'bench',
    name: `web-${index}-7d9c5b5c4d-x2x7p`,
    workload: `web-${index}`,
    workloadKind: 'Deployment',
    labels: { app: `web-${index}`, 'pod-template-hash': '7d9c5b5c4d' },
    serviceAccount: 'default',
    containers: [{ name: 'web', containerId: containerId(index), image: 'registry.example/web:1.2.3' }],
  }).finish();
}

/** Close events, gone through the pods in turn. */
export function syntheticBatch({ events, pods }: SyntheticBatch): EventBatchInput {
  const init = { id: 1, execId: 'YmVuY2gtbm9kZToxOjE=', pid: 1, binary: '/sbin/init', arguments: ['/sbin/init'], cwd: '/' };
  const containers = Array.from({ length: pods }, (_, i) => ({
    id: i + 1,
    containerId: containerId(i),
    podUid: podUid(i),
    runtime: 'containerd',
    cgroupPath: `/kubepods/besteffort/pod${podUid(i)}/${containerId(i)}`,
  }));
  const servers = Array.from({ length: Math.max(pods, 1) }, (_, i) => ({
    id: i + 2,
    parent: 1,
    container: pods === 0 ? 0 : i + 1,
    execId: Buffer.from(`${SYNTHETIC_NODE}:${123_456_789_000_000 + i}:${1000 + i}`).toString('base64'),
    pid: 1000 + i,
    uid: 1000,
    binary: '/usr/bin/server',
    arguments: ['server', '--listen', '0.0.0.0:8080'],
    cwd: '/srv',
    startKtimeNs: 123_456_789_000_000 + i,
  }));
  return {
    node: SYNTHETIC_NODE,
    boot: 'bench',
    batch: 1,
    wallOffsetNs: 1_700_000_000_000_000_000,
    containers,
    processes: [init, ...servers],
    events: Array.from({ length: events }, (_, i) => ({
      kind: Kind.KIND_CLOSE,
      process: servers[i % servers.length]!.id,
      sequence: 1_000_000 + i,
      ktimeNs: 223_456_789_000_000 + i * 2000,
      tid: 4000,
      close: {
        sourceIp: '10.0.0.1',
        sourcePort: 1024 + (i % 30_000),
        destinationIp: `10.1.${(i >> 8) & 255}.${i & 255}`,
        destinationPort: 443,
        socket: i + 1,
        bytesSent: 1000 + i,
        bytesReceived: 100_000 + i,
        durationNs: 1_000_000,
      },
    })),
  };
}
