/** Real cgroups that look like those of pods, with their pods in KV: so that a storm has as many workloads as it wants. */
import { mkdirSync, readFileSync, rmdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { BUCKETS, Pod, podKey } from '@tidegate/contracts';
import { Kvm } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/nats-core';
import { podUid } from './synthetic-batch.ts';

export interface PodCgroups {
  cgroupIds: number[];
  remove(): void;
}

/** A kubepods of the bench's own, so that a kubelet's is not touched. */
const PARENT = 'tidegate-bench/kubepods/besteffort';

export function makePodCgroups(count: number): PodCgroups {
  const root = cgroup2Root();
  const made: string[] = [];
  const make = (path: string) => {
    mkdirSync(join(root, path), { recursive: true });
    made.push(join(root, path));
  };
  make(PARENT);
  const cgroupIds = Array.from({ length: count }, (_, i) => {
    const pod = `${PARENT}/pod${podUid(i)}`;
    const container = `${pod}/${containerId(i)}`;
    make(pod);
    make(container);
    return statSync(join(root, container)).ino;
  });
  return {
    cgroupIds,
    remove() {
      for (const path of made.reverse()) rmdirSync(path);
      rmdirSync(dirname(join(root, PARENT)));
      rmdirSync(dirname(dirname(join(root, PARENT))));
    },
  };
}

/** One Deployment a pod. */
export async function putPods(nc: NatsConnection, node: string, count: number): Promise<void> {
  const bucket = await new Kvm(nc).open(BUCKETS.pods.name);
  for (let i = 0; i < count; i++) {
    const pod = Pod.encode({
      uid: podUid(i),
      namespace: 'bench',
      name: `web-${i}-7d9c5b5c4d-x2x7p`,
      workload: `web-${i}`,
      workloadKind: 'Deployment',
      labels: { app: `web-${i}`, 'pod-template-hash': '7d9c5b5c4d' },
      serviceAccount: 'default',
      containers: [{ name: 'web', containerId: containerId(i), image: 'registry.example/web:1.2.3' }],
    }).finish();
    await bucket.put(podKey(node, podUid(i)), pod);
  }
}

function containerId(index: number): string {
  return index.toString(16).padStart(64, 'a');
}

function cgroup2Root(): string {
  const mount = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map(line => line.split(' '))
    .find(([, , type]) => type === 'cgroup2');
  if (mount?.[1] === undefined) throw new Error('no cgroup v2 is mounted');
  return mount[1];
}
