/** The process behind createFleet(): simulated nodes, each with a connection and a publisher of its own, and what the gateway tells of their pods. */
import { setTimeout as delay } from 'node:timers/promises';
import {
  BUCKETS,
  addressKey,
  bytesCodec,
  nodeKey,
  podKey,
  sensorStatusCodec,
  SENSOR_STATUS_INTERVAL_MS,
  STREAMS,
  type SensorStatus,
} from '@tidegate/contracts';
import { followPace, rawMessage, type Pace } from '@tidegate/node-sensor';
import {
  connectNats,
  createBuckets,
  createLogger,
  createPublisher,
  NatsRole,
  roleInboxPrefix,
  type Bucket,
  type Publisher,
} from '@tidegate/runtime';
import type { NatsConnection } from '@nats-io/nats-core';
import { seededRandom } from '../chaos/faults.ts';
import { concurrently } from '../pace.ts';
import type { FleetCall, FleetCalls, FleetCounts, FleetOptions } from './fleet.ts';
import { createPodMaker, destinationValue, podValue, PODS_PER_NODE, type SimulatedPod } from './pods.ts';
import { createSimulatedNode, type SimulatedNode } from './simulated-node.ts';

const CONNECT_AT_ONCE = 32;
const PUT_AT_ONCE = 256;
const TICK_MS = 2;
const DRAIN_TIMEOUT_MS = 60_000;
/** The gateway keeps what is deleted for events that come late. */
const GATEWAY_LINGER_MS = 300_000;
/** The nodes are opened one after the other, and their reports stay as far apart. */
const REPORTS_SPREAD_MS = 100;
/** Pods that are replaced by another of the same workload, for each node and hour. */
const REPLACED_PODS_PER_NODE_HOUR = 36;

const logger = createLogger({ name: 'fleet', level: 'error' });

interface Member {
  node: SimulatedNode;
  nc: NatsConnection;
  publisher: Publisher;
  /** Set while it does what leases ask for. */
  pace: Pace | undefined;
  lingerMs: number;
  /** Millisecond of this process in which its batch is sealed; 0: it does not work. */
  dueMs: number;
}

const calls: { [Name in keyof FleetCalls]: (argument: FleetCalls[Name]['argument']) => Promise<FleetCalls[Name]['result']> } = {
  open,
  run,
  stop,
  counts: async () => ({ ...counts, pendingMessages: members.reduce((sum, { publisher }) => sum + publisher.stats.pendingMessages, 0) }),
};

process.on('message', ({ id, name, argument }: FleetCall) => {
  const work = calls[name] as (argument: unknown) => Promise<unknown>;
  work(argument).then(
    result => process.send!({ id, result }),
    (error: unknown) => process.send!({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  );
});

const counts: Omit<FleetCounts, 'pendingMessages'> = { sentEvents: 0, sentMessages: 0, sentBytes: 0, ackedEvents: 0, replacedPods: 0 };
let members: Member[] = [];
let replaceOne: () => Promise<void>;
/** Members whose batch is to be sealed in a millisecond since the process began; how far that has been done. */
const due = new Map<number, Member[]>();
let doneMs = 0;
let active = 0;
let ticking: NodeJS.Timeout | undefined;
let replacing: NodeJS.Timeout | undefined;

async function open({ natsUrl, nodes, eventsPerSecond, seed }: FleetOptions): Promise<void> {
  const random = seededRandom(seed);
  const connect = (role: NatsRole, name: string) =>
    connectNats({ url: natsUrl, name, user: role, password: role, inboxPrefix: roleInboxPrefix(role), logger });
  const gateway = await connect(NatsRole.gateway, 'simulated gateway');
  const buckets = await createBuckets({ nc: gateway, logger });
  const kvPods = buckets.open(BUCKETS.pods, bytesCodec);
  const kvDestinations = buckets.open(BUCKETS.destinations, bytesCodec);
  const makePod = createPodMaker(random);
  const nodeName = (i: number) => `node-${String(i).padStart(4, '0')}`;
  const pods = Array.from({ length: nodes }, (_, i) => Array.from({ length: PODS_PER_NODE }, (__, place) => makePod(i, place)));
  const put = async (node: number, pod: SimulatedPod) => {
    await kvPods.put(podKey(nodeName(node), pod.uid), podValue(pod));
    await kvDestinations.put(addressKey(pod.ip), destinationValue(pod, nodeName(node)));
  };
  await concurrently(nodes * PODS_PER_NODE, PUT_AT_ONCE, i => {
    const node = Math.floor(i / PODS_PER_NODE);
    return put(node, pods[node]![i % PODS_PER_NODE]!);
  });
  const anyIndex = (length: number) => Math.floor(random() * length);
  const anyAddress = () => pods[anyIndex(nodes)]![anyIndex(PODS_PER_NODE)]!.ip;
  members = [];
  await concurrently(nodes, CONNECT_AT_ONCE, async i => {
    const name = nodeName(i);
    const node = createSimulatedNode({ name, pods: pods[i]!, eventsPerSecond, anyAddress, random });
    members[i] = await openMember(node, await connect(NatsRole.sensor, `tidegate-node-sensor ${name}`));
  });
  replaceOne = async () => {
    const [i, place] = [anyIndex(active), anyIndex(PODS_PER_NODE)];
    const before = pods[i]![place]!;
    const pod = (pods[i]![place] = makePod(i, place));
    await put(i, pod);
    members[i]!.node.replacePod(place, pod);
    counts.replacedPods++;
    await delay(GATEWAY_LINGER_MS);
    await kvPods.purge(podKey(nodeName(i), before.uid));
    await kvDestinations.purge(addressKey(before.ip));
  };
}

async function openMember(node: SimulatedNode, nc: NatsConnection): Promise<Member> {
  const publisher = createPublisher(nc, { stream: STREAMS.raw.name, logger });
  const buckets = await createBuckets({ nc, logger });
  const statuses = buckets.open(BUCKETS.sensors, sensorStatusCodec);
  await statuses.put(nodeKey(node.name), statusOf(node));
  const member: Member = { node, nc, publisher, pace: undefined, lingerMs: 0, dueMs: 0 };
  // Not all at once.
  await delay(Math.random() * REPORTS_SPREAD_MS);
  setInterval(() => void report(statuses, node), SENSOR_STATUS_INTERVAL_MS);
  return member;
}

async function report(statuses: Bucket<SensorStatus>, node: SimulatedNode): Promise<void> {
  await statuses.put(nodeKey(node.name), statusOf(node)).catch((error: unknown) => logger.error({ err: error }, 'cannot report'));
}

async function run({ nodes, lingerMs, followsPace }: FleetCalls['run']['argument']): Promise<void> {
  active = nodes;
  const nowMs = performance.now();
  doneMs = Math.floor(nowMs);
  for (const member of members.slice(0, active)) {
    member.node.start(performance.timeOrigin + nowMs);
    member.lingerMs = lingerMs;
    if (followsPace) member.pace = paceOf(member);
    // Nodes do not wait in step.
    schedule(member, Math.random());
  }
  tick();
  clearInterval(replacing);
  replacing = setInterval(
    () => {
      replaceOne().catch((error: unknown) => logger.error({ err: error }, 'cannot replace a pod'));
    },
    3_600_000 / (REPLACED_PODS_PER_NODE_HOUR * active),
  );
}

/** Seals nothing more; resolves when all is stored. */
async function stop(): Promise<FleetCounts> {
  active = 0;
  clearTimeout(ticking);
  clearInterval(replacing);
  due.clear();
  for (const member of members) {
    member.dueMs = 0;
    member.pace?.close();
    member.pace = undefined;
  }
  const untilMs = performance.now() + DRAIN_TIMEOUT_MS;
  while (counts.ackedEvents < counts.sentEvents) {
    if (performance.now() > untilMs)
      throw new Error(`${counts.sentEvents - counts.ackedEvents} events have no ack after ${DRAIN_TIMEOUT_MS} ms`);
    await delay(20);
  }
  return calls.counts(undefined);
}

function paceOf(member: Member): Pace {
  const { node, nc, lingerMs } = member;
  const setLinger = (milliseconds: number) => {
    member.lingerMs = milliseconds;
    schedule(member);
  };
  return followPace(nc, { node: node.name, lingerMs, setLinger, logger });
}

/** A batch waits for more events from its first event on, as in the native reader. */
function schedule(member: Member, wait = 1): void {
  member.dueMs = Math.max(doneMs + 1, Math.ceil(member.node.nextEventMs() - performance.timeOrigin + member.lingerMs * wait));
  const others = due.get(member.dueMs);
  if (others) others.push(member);
  else due.set(member.dueMs, [member]);
}

function tick(): void {
  const nowMs = Math.floor(performance.now());
  while (doneMs < nowMs) {
    doneMs++;
    const ready = due.get(doneMs);
    if (!ready) continue;
    due.delete(doneMs);
    for (const member of ready) {
      // A lease has it sealed at another time.
      if (member.dueMs !== doneMs) continue;
      send(member);
      schedule(member);
    }
  }
  ticking = setTimeout(tick, TICK_MS);
}

function send({ node, publisher }: Member): void {
  const batch = node.seal(performance.timeOrigin + performance.now());
  counts.sentEvents += batch.events;
  counts.sentMessages++;
  counts.sentBytes += batch.payload.length;
  publisher.publish(rawMessage(node.name, batch)).then(
    () => (counts.ackedEvents += batch.events),
    (error: unknown) => logger.error({ err: error, node: node.name }, 'batch not stored'),
  );
}

function statusOf({ name, boot, events }: SimulatedNode): SensorStatus {
  const now = new Date().toISOString();
  return {
    node: name,
    boot,
    version: 'simulated',
    kernel: '6.12.0',
    startedAt: now,
    reportedAt: now,
    hooks: HOOKS.map(hook => ({ hook, program: hook, attached: true })),
    events,
    lastSequence: events,
    lost: {},
    spool: { bytes: 0, batches: 0, maxBytes: 1024 ** 3 },
    recorded: false,
    hasKubelet: false,
    undescribedContainers: 0,
  };
}

const HOOKS = [
  'sched_process_fork',
  'sched_process_exec',
  'sched_process_exit',
  'inet_sock_set_state',
  'inet_csk_accept',
  'cgroup_mkdir',
  'cgroup_rmdir',
  'cgroup_attach_task',
];
