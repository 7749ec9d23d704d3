/**
 * The gateway on a real API server: pods of many nodes created, relabelled and deleted. Its memory, its processor time, how long a pod takes to KV,
 * and what it costs the API server. Baseline: agents on the nodes that each watch their node's pods.
 */
import { loadavg } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { Pod, podKey } from '@tidegate/contracts';
import { waitFor } from '@tidegate/testkit';
import { nowMs, watchNode, type ApiServer, type NodeWatch } from './api-server.ts';
import { cpuSeconds, setClusterStage, type ClusterStage, type PodMirror } from './cluster-stage.ts';
import { concurrently, steadily } from './pace.ts';
import type { Report } from './report.ts';
import { percentile } from './samples.ts';
import type { ServiceProcess } from './service-process.ts';
import { createPodFactory, WORKLOAD_KIND, type PodFactory, type SimulatedPod } from './simulated-pods.ts';
import { residentBytes } from './stack.ts';

const PODS = Number(process.env.TIDEGATE_BENCH_PODS ?? 10_000);
/** So many are created, relabelled and deleted through the API; of a larger run the rest is put into the API server's store. */
const API_PODS = PODS > 10_000 ? 3_000 : PODS;
const NODES = 500;
/** Pods of this number of nodes are also watched as node agents would; what they cost is scaled to all nodes. */
const AGENTS = 20;
const CHURN_PER_SECOND = 100;
const CHURN_SECONDS = 30;
const REST_SECONDS = 10;
const AT_ONCE = 32;
/** Deleted while the gateway is down. */
const UNSEEN_DELETIONS = 100;
const SAMPLE_MS = 500;
/** The gateway takes away 256 entries a second, then as many markers. */
const SETTLE_TIMEOUT_MS = 60_000 + PODS * 12;
const GOAL_PODS = 100_000;
const GOAL_MB = 300;
const MB = 1e6;

export async function run(report: Report): Promise<void> {
  await using stage = await setClusterStage();
  const { api } = stage;
  const factory = await createPodFactory(api, stage.etcdUrl, NODES);
  const mirror = stage.mirrorPods();
  let gateway = await stage.startGateway();
  const alive = new Map<number, SimulatedPod>();
  addLoad(report, 'at the start');

  const fillSeconds = await secondsOf(() =>
    concurrently(API_PODS, AT_ONCE, async i => {
      alive.set(i, (await factory.create(i)).pod);
      await factory.run(i);
    }),
  );
  const behindSeconds = await secondsOf(() => settle(gateway, mirror, API_PODS));
  if (PODS > API_PODS) {
    const stored = await factory.store(alive.get(API_PODS - 1)!, API_PODS, PODS - API_PODS);
    stored.forEach((pod, i) => alive.set(API_PODS + i, pod));
    await settle(gateway, mirror, PODS);
  }
  report.check(`${PODS} pods on ${NODES} nodes created: KV equals the API`, await isEqual(stage, mirror));
  const name = `${PODS.toLocaleString('en-US')} pods`;
  report.add({
    name: `${API_PODS.toLocaleString('en-US')} pods created, with status: API server`,
    value: API_PODS / fillSeconds,
    unit: 'pods/s',
  });
  report.add({
    name: `${API_PODS.toLocaleString('en-US')} pods created: gateway done after the last answer`,
    value: behindSeconds * 1000,
    unit: 'ms',
  });

  await gateway.stop();
  await concurrently(UNSEEN_DELETIONS, AT_ONCE, i => forget(factory, alive, i));
  const stopped = await readApiServer(api);
  const startSeconds = await secondsOf(async () => (gateway = await stage.startGateway()));
  const started = await readApiServer(api);
  await settle(gateway, mirror, alive.size);
  report.check(`${UNSEEN_DELETIONS} pods deleted while the gateway was down: KV equals the API`, await isEqual(stage, mirror));
  report.add({ name: `gateway started with ${name}: leads after`, value: startSeconds * 1000, unit: 'ms' });

  const beforeRest = await readApiServer(api);
  const rest = await observe(gateway, () => delay(REST_SECONDS * 1000));
  const idle = (await readApiServer(api)).cpuSeconds - beforeRest.cpuSeconds;
  addMemory(report, `gateway memory at rest, ${name}`, rest.peakBytes);
  report.add({ name: `gateway processor at rest, ${name}`, value: rest.cpuPercent, unit: '% of a core' });
  // What the API server does anyway is not the gateway's.
  const anywaySeconds = (idle * (started.atSeconds - stopped.atSeconds)) / REST_SECONDS;
  const gatewayCpuSeconds = Math.max(0, started.cpuSeconds - stopped.cpuSeconds - anywaySeconds);
  const agents = await measureAgents(report, stage, factory, gatewayCpuSeconds);
  await churn(report, { stage, factory, mirror, gateway, alive, agents });
  for (const watch of agents.watches) watch.close();

  const pods = [...alive.values()].slice(0, API_PODS);
  const relabelSeconds = await secondsOf(async () => {
    await concurrently(pods.length, AT_ONCE, async i => {
      const pod = pods[i]!;
      await api.call('PATCH', podPath(pod), { metadata: { labels: { round: '2' } } });
    });
    await settle(gateway, mirror, alive.size, pods.length);
  });
  report.check(`${pods.length} pods relabelled: KV equals the API`, await isEqual(stage, mirror));
  report.add({
    name: `${pods.length.toLocaleString('en-US')} pods relabelled, to the last KV entry`,
    value: pods.length / relabelSeconds,
    unit: 'pods/s',
  });

  await concurrently(pods.length, AT_ONCE, i => factory.remove(pods[i]!));
  const deletedSeconds = await secondsOf(() => settle(gateway, mirror, alive.size - pods.length));
  report.check(`${pods.length} pods deleted: KV equals the API, nothing stale`, await isEqual(stage, mirror));
  report.add({
    name: `${pods.length.toLocaleString('en-US')} pods deleted: last entry gone after the last answer`,
    value: deletedSeconds,
    unit: 's',
    note: 'lingers 5 s here',
  });

  addRequests(report, stage, agents.requestsEach);
  addLoad(report, 'at the end');
}

interface Churn {
  stage: ClusterStage;
  factory: PodFactory;
  mirror: PodMirror;
  gateway: ServiceProcess;
  alive: Map<number, SimulatedPod>;
  agents: Agents;
}

/** As many pods created as deleted each second, with all the others there. */
async function churn(report: Report, { stage, factory, mirror, gateway, alive, agents }: Churn): Promise<void> {
  const created: { key: string; uid: string; askedAtMs: number; answeredAtMs: number }[] = [];
  const count = CHURN_PER_SECOND * CHURN_SECONDS;
  const oldest = [...alive.keys()].slice(0, count);
  let rate = 0;
  const load = await observe(gateway, async () => {
    rate = await steadily(count, CHURN_PER_SECOND, async i => {
      const index = PODS + i;
      const askedAtMs = nowMs();
      const { pod, answeredAtMs } = await factory.create(index);
      alive.set(index, pod);
      created.push({ key: podKey(pod.node, pod.uid), uid: pod.uid, askedAtMs, answeredAtMs });
      if (oldest[i] !== undefined) await forget(factory, alive, oldest[i]);
    });
  });
  await settle(gateway, mirror, alive.size);
  report.check(`churn of ${count} pods: KV equals the API`, await isEqual(stage, mirror));
  report.check(
    `every new pod came to KV`,
    created.every(({ key }) => mirror.firstStoredMs.has(key)),
  );
  report.add({ name: 'churn: pods created, and as many deleted', value: rate, unit: 'pods/s' });
  const stored = created.map(({ key, askedAtMs, answeredAtMs }) => {
    const storedAtMs = mirror.firstStoredMs.get(key) ?? Infinity;
    // An entry is often there before the API server has answered: then nothing was waited for.
    return { toKvMs: Math.max(0, storedAtMs - answeredAtMs), wholeMs: storedAtMs - askedAtMs };
  });
  const seen = created.filter(({ uid }) => agents.seenAtMs.has(uid));
  const agentMs = seen.map(({ uid, askedAtMs }) => agents.seenAtMs.get(uid)! - askedAtMs);
  const early = stored.filter(({ toKvMs }) => toKvMs === 0).length;
  for (const percent of [50, 99]) {
    report.add({
      name: `pod creation (API's answer) to KV, p${percent}`,
      value: percentile(
        stored.map(({ toKvMs }) => toKvMs),
        percent,
      ),
      unit: 'ms',
      note: `${created.length} pods, ${early} in KV before the answer`,
    });
    report.add({
      name: `pod creation (request sent) to KV, p${percent}`,
      value: percentile(
        stored.map(({ wholeMs }) => wholeMs),
        percent,
      ),
      unit: 'ms',
      baseline: { name: "to a node agent's own watch", value: percentile(agentMs, percent) },
      note: `baseline: ${agentMs.length} pods`,
    });
  }
  addMemory(report, 'gateway memory under churn, most', load.peakBytes);
  report.add({ name: 'gateway processor under churn', value: load.cpuPercent, unit: '% of a core' });
}

interface Agents {
  watches: readonly NodeWatch[];
  /** When a pod first came over the watch of its node's agent, by UID, milliseconds since 1970. */
  seenAtMs: ReadonlyMap<string, number>;
  requestsEach: number;
}

/** What other designs do: a process on each node that lists and watches its pods. */
async function measureAgents(report: Report, stage: ClusterStage, factory: PodFactory, gatewayCpuSeconds: number): Promise<Agents> {
  const access = await stage.createAccount('node-agent', [{ apiGroups: [''], resources: ['pods'], verbs: ['list', 'watch'] }]);
  const seenAtMs = new Map<string, number>();
  const before = await readApiServer(stage.api);
  const watches: NodeWatch[] = [];
  for (let i = 0; i < AGENTS; i++)
    watches.push(await watchNode(access, 'tidegate-bench-agent', factory.nodes[i]!, uid => seenAtMs.set(uid, nowMs())));
  const after = await readApiServer(stage.api);
  const requestsEach = stage.requests().filter(({ account }) => account === 'node-agent').length / AGENTS;
  const baseline = (cost: number) => ({ name: `${NODES} node agents`, value: (cost * NODES) / AGENTS });
  const note = `baseline: ${AGENTS} real watches by field selector, scaled to ${NODES} nodes`;
  report.add({
    name: "API server's processor for a start of the gateway",
    value: gatewayCpuSeconds,
    unit: 's',
    baseline: baseline(after.cpuSeconds - before.cpuSeconds),
    note,
  });
  return { watches, seenAtMs, requestsEach };
}

async function readApiServer(api: ApiServer): Promise<{ cpuSeconds: number; atSeconds: number }> {
  return { cpuSeconds: await api.metric('process_cpu_seconds_total'), atSeconds: performance.now() / 1000 };
}

function addRequests(report: Report, stage: ClusterStage, agentRequestsEach: number): void {
  const requests = stage.requests();
  const accounts = new Map<string, number>();
  for (const { account } of requests) accounts.set(account, (accounts.get(account) ?? 0) + 1);
  accounts.delete('node-agent');
  report.check(
    `nobody but the gateway asked the API server: ${[...accounts.keys()].join(', ')}`,
    accounts.size === 1 && accounts.has('gateway'),
  );
  const ofGateway = requests.filter(({ account, resource }) => account === 'gateway' && resource !== 'leases').length;
  report.add({
    name: 'API server requests of each node',
    value: [...accounts].reduce((sum, [account, count]) => sum + (account === 'gateway' ? 0 : count), 0) / NODES,
    unit: '',
    baseline: { name: 'a node agent, to start', value: agentRequestsEach },
    goal: { value: 0, is: 'at most' },
    note: "everybody but the gateway, from the API server's audit log; sensors have no credentials",
  });
  report.add({
    name: 'API server requests of the gateway, two starts, without its lease',
    value: ofGateway,
    unit: '',
    baseline: { name: `${NODES} node agents, one start`, value: agentRequestsEach * NODES },
    note: 'does not depend on the number of nodes',
  });
}

/**
 * Resolves when the gateway has nothing left to write and KV has so many pods.
 * @param relabelled how many of them have to bear the label's second value
 */
async function settle(gateway: ServiceProcess, mirror: PodMirror, pods: number, relabelled = 0): Promise<void> {
  const isSettled = async () =>
    mirror.entries.size === pods &&
    (await gateway.metric('pending_entries')) === 0 &&
    (relabelled === 0 || [...mirror.entries.values()].filter(value => Pod.decode(value).labels.round === '2').length === relabelled);
  // What is left of it shows in the comparison that follows.
  await waitFor(isSettled, { what: `${pods} entries in KV`, timeoutMs: SETTLE_TIMEOUT_MS }).catch((error: unknown) => {
    console.error(`${String(error)}: ${mirror.entries.size} entries`);
  });
}

interface ApiPod {
  metadata: { uid: string; name: string; namespace: string; labels: Record<string, string> };
  spec: { nodeName: string };
  status: { podIP?: string };
}

/** Whether KV has exactly the pods that the API has, each with its names, workload, labels and address. */
async function isEqual({ api }: ClusterStage, { entries }: PodMirror): Promise<boolean> {
  let pods = 0;
  let wrong = 0;
  for await (const { metadata, spec, status } of api.list<ApiPod>('/api/v1/pods')) {
    pods++;
    const value = entries.get(podKey(spec.nodeName, metadata.uid));
    const entry = value && Pod.decode(value);
    const isRight =
      entry?.uid === metadata.uid &&
      entry.namespace === metadata.namespace &&
      entry.name === metadata.name &&
      entry.workloadKind === WORKLOAD_KIND &&
      metadata.name.startsWith(`${entry.workload}-`) &&
      (entry.ips[0] ?? '') === (status.podIP ?? '') &&
      textOf(entry.labels) === textOf(metadata.labels);
    if (!isRight) wrong++;
  }
  if (wrong > 0 || pods !== entries.size) console.error(`${pods} pods in the API, ${entries.size} in KV, ${wrong} missing or wrong`);
  return wrong === 0 && pods === entries.size;
}

function textOf(labels: Record<string, string>): string {
  return JSON.stringify(Object.entries(labels).sort());
}

async function forget(factory: PodFactory, alive: Map<number, SimulatedPod>, index: number): Promise<void> {
  await factory.remove(alive.get(index)!);
  alive.delete(index);
}

function podPath({ namespace, name }: SimulatedPod): string {
  return `/api/v1/namespaces/${namespace}/pods/${name}`;
}

/** Memory and processor of the gateway while something happens. */
async function observe({ pid }: ServiceProcess, happens: () => Promise<unknown>): Promise<{ peakBytes: number; cpuPercent: number }> {
  let peakBytes = residentBytes(pid);
  const sampler = setInterval(() => (peakBytes = Math.max(peakBytes, residentBytes(pid))), SAMPLE_MS);
  const cpuBefore = cpuSeconds(pid);
  const seconds = await secondsOf(happens).finally(() => clearInterval(sampler));
  return { peakBytes, cpuPercent: ((cpuSeconds(pid) - cpuBefore) * 100) / seconds };
}

async function secondsOf(happens: () => Promise<unknown>): Promise<number> {
  const startedAtMs = performance.now();
  await happens();
  return (performance.now() - startedAtMs) / 1000;
}

function addMemory(report: Report, name: string, bytes: number): void {
  const isGoalsSize = PODS >= GOAL_PODS;
  report.add({
    name,
    value: bytes / MB,
    unit: 'MB',
    goal: isGoalsSize ? { value: GOAL_MB, is: 'at most' } : undefined,
    note: isGoalsSize ? undefined : `the goal of ${GOAL_MB} MB is for ${GOAL_PODS.toLocaleString('en-US')} pods`,
  });
}

/** Figures of times mean little without what else the machine did. */
function addLoad(report: Report, when: string): void {
  report.add({ name: `load average of the machine ${when}`, value: loadavg()[0]!, unit: '' });
}
