/**
 * Identity under churn: each second 100 pods made through a real API server, followed by a real gateway, and at once, which is sooner than any kubelet could be,
 * the first exec of each container on RAW, enriched by a real enricher. A second later the pod is deleted, and its exit comes after that.
 */
import { loadavg } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { jetstream } from '@nats-io/jetstream';
import { headers } from '@nats-io/nats-core';
import {
  BUCKETS,
  encodeBatch,
  decodeBatch,
  eventsToJson,
  eventSubject,
  formatSequences,
  Kind,
  nodeKey,
  ProcessOrigin,
  RawHeader,
  rawMessageId,
  rawSubject,
  STREAMS,
  type EventJson,
} from '@tidegate/contracts';
import { bucketPrefix } from '@tidegate/runtime';
import { waitFor } from '@tidegate/testkit';
import { nowMs } from './api-server.ts';
import { setClusterStage, type ClusterStage } from './cluster-stage.ts';
import { steadily } from './pace.ts';
import type { Report } from './report.ts';
import { percentile } from './samples.ts';
import { CONTAINER_NAME, createPodFactory, IMAGE, SERVICE_ACCOUNT, WORKLOAD_KIND, type SimulatedPod } from './simulated-pods.ts';

const NODES = 50;
const PODS_PER_SECOND = 100;
const SECONDS = Number(process.env.TIDEGATE_BENCH_SECONDS ?? 30);
/** From the API's answer to the first exec; a kubelet takes some 500 ms to a container's first process. */
const KUBELET_MS = [0, 250];
const LIFE_MS = 1_000;
/** From the pod's deletion to its last event. */
const LATE_MS = 500;
const STORED_TIMEOUT_MS = 60_000;
const BOOT = 'bench-boot';
const WALL_OFFSET_NS = 1_700_000_000_000_000_000;

export async function run(report: Report): Promise<void> {
  await using stage = await setClusterStage();
  const factory = await createPodFactory(stage.api, stage.etcdUrl, NODES);
  const sensors = await createSensors(stage, factory.nodes);
  await stage.startGateway();
  const enricher = await stage.startEnricher();
  const events = followEvents(stage);
  // A gateway that has written no pod at all counts as none.
  const steady = await Promise.all(factory.nodes.map(async (_, i) => (await factory.create(i)).pod));
  await waitFor(async () => (await enricher.metric('cached_pods')) === steady.length, { what: 'the first pods in the cache' });

  let firstIndex = NODES;
  for (const kubeletMs of KUBELET_MS) {
    const count = PODS_PER_SECOND * SECONDS;
    const before = { waits: await enricher.metric('pod_waits_total'), unresolved: await enricher.metric('unresolved_pods_total') };
    const expected: Expected[] = [];
    const known: Expected[] = [];
    const rate = await steadily(count, PODS_PER_SECOND, async i => {
      // Of another node: on its own it would wait behind the new pod.
      known.push(await sensors.exec(steady[(i + NODES / 2) % NODES]!));
      const { pod } = await factory.create(firstIndex + i);
      if (kubeletMs > 0) await delay(kubeletMs);
      expected.push(await sensors.exec(pod));
      await delay(LIFE_MS);
      await factory.remove(pod);
      await delay(LATE_MS);
      expected.push(await sensors.exit(pod));
    });
    firstIndex += count;
    const sent = [...expected, ...known];
    await waitFor(() => sent.every(({ key }) => events.has(key)), { what: 'all events on EVENTS', timeoutMs: STORED_TIMEOUT_MS }).catch(
      (error: unknown) => console.error(String(error)),
    );
    const when = kubeletMs === 0 ? 'at once' : `${kubeletMs} ms after creation`;
    report.check(
      `first exec ${when}: all ${sent.length} events stored`,
      sent.every(({ key }) => events.has(key)),
    );
    report.add({ name: `churn, first exec ${when}`, value: rate, unit: 'pods/s' });
    for (const kind of ['exec', 'exit'] as const) {
      const ofKind = expected.filter(each => each.kind === kind);
      const whole = ofKind.filter(each => isWhole(events.get(each.key), each)).length;
      report.add({
        name: kind === 'exec' ? `first execs with full identity, ${when}` : `exits after the pod's deletion with full identity`,
        value: (whole * 100) / ofKind.length,
        unit: '%',
        goal: { value: 100, is: 'at least' },
        note: `${whole} of ${ofKind.length}`,
      });
    }
    const execs = expected.filter(({ kind }) => kind === 'exec');
    const time = ({ key, sentAtMs }: Expected) => (events.get(key)?.storedAtMs ?? Infinity) - sentAtMs;
    for (const percent of [50, 99, 100]) {
      report.add({
        name: `first exec ${when}: sent to RAW to stored on EVENTS, ${percent === 100 ? 'most' : `p${percent}`}`,
        value: percentile(execs.map(time), percent),
        unit: 'ms',
        baseline: { name: 'pod long known', value: percentile(known.map(time), percent) },
      });
    }
    report.add({
      name: `first execs that waited for their pod, ${when}`,
      value: (((await enricher.metric('pod_waits_total')) - before.waits) * 100) / execs.length,
      unit: '%',
      note: `${(await enricher.metric('unresolved_pods_total')) - before.unresolved} waited in vain`,
    });
  }
  const asking = new Set(stage.requests().map(({ account }) => account));
  report.check(`nobody but the gateway asked the API server: ${[...asking].join(', ')}`, asking.size === 1 && asking.has('gateway'));
  report.add({ name: 'load average of the machine', value: loadavg()[0]!, unit: '' });
}

interface Expected {
  kind: 'exec' | 'exit';
  pod: SimulatedPod;
  /** Names the event in its cluster: keyOf. */
  key: string;
  sentAtMs: number;
}

interface StoredEvent {
  event: EventJson;
  subject: string;
  /** Milliseconds since 1970. */
  storedAtMs: number;
}

/** Whatever a node could know beside the container's own name and image, which its sensor reads from the runtime, comes from the gateway. */
function isWhole(stored: StoredEvent | undefined, { kind, pod }: Expected): boolean {
  if (!stored) return false;
  const { event, subject } = stored;
  const number = kind === 'exec' ? Kind.KIND_EXEC : Kind.KIND_EXIT;
  return (
    subject === eventSubject(number, pod.namespace, pod.workload) &&
    event.pod?.uid === pod.uid &&
    event.pod.unresolved === undefined &&
    event.pod.namespace === pod.namespace &&
    event.pod.name === pod.name &&
    event.pod.workload === pod.workload &&
    event.pod.workload_kind === WORKLOAD_KIND &&
    event.pod.service_account === SERVICE_ACCOUNT &&
    Object.entries(pod.labels).every(([name, value]) => event.pod?.labels?.[name] === value) &&
    event.container?.name === CONTAINER_NAME &&
    event.container.image === IMAGE
  );
}

function keyOf({ node, sequence }: { node: string; sequence: number }): string {
  return `${node}:${sequence}`;
}

/** Everything that EVENTS stores, by keyOf. */
function followEvents({ readers }: ClusterStage): ReadonlyMap<string, StoredEvent> {
  const events = new Map<string, StoredEvent>();
  const reader = readers.open({ stream: STREAMS.events.name, start: { streamSequence: 1 } });
  const follow = async () => {
    for await (const { subject, data, timeNs } of reader.read({ follow: true })) {
      for (const event of eventsToJson(decodeBatch(data))) {
        events.set(keyOf(event), { event, subject, storedAtMs: timeNs / 1e6 });
      }
    }
  };
  void follow();
  return events;
}

interface Sensors {
  /** The first process of the pod's container; stored on RAW when it resolves. */
  exec(pod: SimulatedPod): Promise<Expected>;
  /** The end of that process. */
  exit(pod: SimulatedPod): Promise<Expected>;
}

/** What sensors would send: one batch for each event, as on a quiet node. */
async function createSensors({ nc }: ClusterStage, nodes: readonly string[]): Promise<Sensors> {
  const client = jetstream(nc);
  const sequences = new Map<string, number>();
  for (const node of nodes) await client.publish(bucketPrefix(BUCKETS.sensors.name) + nodeKey(node), '{}');
  const send = async (pod: SimulatedPod, kind: 'exec' | 'exit'): Promise<Expected> => {
    const { node } = pod;
    const sequence = (sequences.get(node) ?? 0) + 1;
    sequences.set(node, sequence);
    const header = headers();
    header.set(RawHeader.sequences, formatSequences(sequence, sequence));
    header.set(RawHeader.events, '1');
    const payload = encodeBatch(batchOf(pod, kind, sequence));
    const sentAtMs = nowMs();
    await client.publish(rawSubject(node), payload, { msgID: rawMessageId(node, BOOT, sequence), headers: header });
    return { kind, pod, key: keyOf({ node, sequence }), sentAtMs };
  };
  return { exec: pod => send(pod, 'exec'), exit: pod => send(pod, 'exit') };
}

/** Batch and sequence number are the same: each batch has one event. */
function batchOf(pod: SimulatedPod, kind: 'exec' | 'exit', sequence: number) {
  const containerId = pod.uid.replaceAll('-', '').padEnd(64, '0');
  const startKtimeNs = 123_456_789_000_000 + sequence;
  const path = `/kubepods/besteffort/pod${pod.uid}/${containerId}`;
  const common = { process: 2, sequence, ktimeNs: startKtimeNs, tid: 1000 };
  return {
    node: pod.node,
    boot: BOOT,
    batch: sequence,
    wallOffsetNs: WALL_OFFSET_NS,
    containers: [{ id: 1, containerId, podUid: pod.uid, runtime: 'containerd', cgroupPath: path, name: CONTAINER_NAME, image: IMAGE }],
    processes: [
      { id: 1, execId: 'YmVuY2gtbm9kZToxOjE=', pid: 1, binary: '/sbin/init', arguments: ['/sbin/init'], cwd: '/' },
      {
        id: 2,
        parent: 1,
        container: 1,
        execId: Buffer.from(`${pod.node}:${startKtimeNs}:1000`).toString('base64'),
        pid: 1000,
        binary: '/usr/bin/server',
        arguments: ['server', '--listen', '0.0.0.0:8080'],
        cwd: '/srv',
        startKtimeNs,
        origin: ProcessOrigin.PROCESS_ORIGIN_EXEC,
      },
    ],
    events: [
      kind === 'exec'
        ? { kind: Kind.KIND_EXEC, ...common, exec: { rawPath: '/usr/bin/server', comm: 'server' } }
        : { kind: Kind.KIND_EXIT, ...common, exit: { code: 0, durationNs: 1_000_000_000 } },
    ],
  };
}
