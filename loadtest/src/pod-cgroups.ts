/** Real cgroups that look like those of pods, with their pods in KV: so that a storm has as many workloads as it wants. */
import { mkdirSync, readFileSync, rmdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { BUCKETS, bytesCodec, podKey } from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import { createBuckets, createLogger } from '@tidegate/runtime';
import { containerId, encodedPod, podUid } from './synthetic-batch.ts';

export interface PodCgroups {
  cgroupIds: number[];
  /** Where they are mounted. */
  folders: string[];
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
  const folders = Array.from({ length: count }, (_, i) => {
    const pod = `${PARENT}/pod${podUid(i)}`;
    const container = `${pod}/${containerId(i)}`;
    make(pod);
    make(container);
    return join(root, container);
  });
  return {
    cgroupIds: folders.map(folder => statSync(folder).ino),
    folders,
    remove() {
      for (const path of made.reverse()) rmdirSync(path);
      rmdirSync(dirname(join(root, PARENT)));
      rmdirSync(dirname(dirname(join(root, PARENT))));
    },
  };
}

/** One Deployment a pod. */
export async function putPods(nc: NatsConnection, node: string, count: number): Promise<void> {
  const buckets = await createBuckets({ nc, logger: createLogger({ name: 'pods', level: 'silent' }) });
  const pods = buckets.open(BUCKETS.pods, bytesCodec);
  for (let i = 0; i < count; i++) await pods.put(podKey(node, podUid(i)), encodedPod(i));
  buckets.close();
}

function cgroup2Root(): string {
  const mount = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map(line => line.split(' '))
    .find(([, , type]) => type === 'cgroup2');
  if (mount?.[1] === undefined) throw new Error('no cgroup v2 is mounted');
  return mount[1];
}
