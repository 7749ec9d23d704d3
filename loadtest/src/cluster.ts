/**
 * Many nodes on an ordinary day: simulated nodes of 100 events/s each, whose pods come and go, against real enrichers, nats-servers and API on this machine, with one client that
 * follows live. What costs is messages, not events: so it is run with several lingers of the sensors. For each, the most nodes are looked for that two cores carry, beside the load
 * itself, whose processor time is told apart.
 */
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { STREAMS } from '@tidegate/contracts';
import { WebSocket } from 'ws';
import { setNodesStage, type NodesStage } from './nodes/stage.ts';
import { namespaceName } from './nodes/pods.ts';
import type { BenchOptions } from './options.ts';
import { costSince, processCost } from './process-cost.ts';
import type { Report } from './report.ts';
import { percentile } from './samples.ts';

const NODES = Number(process.env.TIDEGATE_BENCH_NODES ?? 1_000);
const EVENTS_PER_SECOND = 100;
const CASES = [
  { servers: 1, where: 'one server', lingersMs: [100, 1_000, 10_000] },
  { servers: 3, where: 'three replicas', lingersMs: [100, 10_000] },
] as const;
/** With how many the search begins; a longer linger carries no fewer than the one before. */
const FEW_NODES = Math.min(100, NODES);
const TRY_SECONDS = 8;
const HOLD_SECONDS = Number(process.env.TIDEGATE_BENCH_SECONDS ?? 30);
/** Of the cores, what is used at most; of the nodes, how many times more are tried next, and how many less when they did not hold. */
const BUSY = 0.9;
const MORE = 2.5;
const LESS = 0.85;
const WARM_UP_SECONDS = 4;
/** The sensors' default. */
const LINGER_MS = 100;
const ADAPTS_MS = 45_000;
/** Nodes that adapt, of those that the longest linger carries. */
const OF_MOST = 0.6;
const SAMPLE_MS = 500;
/** EVENTS may be behind RAW by so much; at the second there is no use in going on. */
const MAX_LAG_SECONDS = 2;
const HOPELESS_LAG_SECONDS = 5;
const KEPT_PACE = 0.9;
const SETTLE_TIMEOUT_MS = 180_000;
const GOAL_CORES = 2;
const GIB = 1024 ** 3;
const MB = 1e6;

interface Measurement {
  nodes: number;
  lingerMs: number;
  seconds: number;
  events: number;
  rawMessages: number;
  rawBytes: number;
  eventsMessages: number;
  eventsBytes: number;
  /** Shares of a core. */
  cores: Record<string, number>;
  fleetCores: number;
  /** What has nothing to do with it, on a machine that is not ours alone. */
  otherCores: number;
  /** Seconds of events that were sent and not yet in EVENTS, the most of all samples. */
  maxLagSeconds: number;
  latenciesMs: number[];
  /** Proportional set size of each process of a service. */
  pssBytes: Record<string, number>;
  statusMs: number;
  problems: readonly string[];
}

export async function run(report: Report, { seed }: BenchOptions): Promise<void> {
  for (const { servers, where, lingersMs } of CASES) {
    await using stage = await setNodesStage({ servers, nodes: NODES, eventsPerSecond: EVENTS_PER_SECOND, seed });
    const rest = await measure(stage, { nodes: 0, lingerMs: 0, seconds: TRY_SECONDS });
    report.add({
      name: `${where}, ${NODES} nodes that are quiet: CPU`,
      value: sum(Object.values(rest.cores)),
      unit: 'cores',
      note: eachOf(rest.cores),
    });
    let slowest: Held | undefined;
    let fewest = FEW_NODES;
    for (const lingerMs of lingersMs) {
      const held = await mostNodes(stage, lingerMs, rest, fewest);
      slowest ??= held;
      fewest = held.nodes;
      const name = `${where}, linger ${lingerMs} ms`;
      report.check(`${name}: EVENTS at most ${MAX_LAG_SECONDS} s behind`, held.maxLagSeconds <= MAX_LAG_SECONDS);
      const { problems } = held;
      report.check(
        `${name}: status finds all in order${problems.length > 0 ? `: ${problems.slice(0, 3).join('; ')}` : ''}`,
        problems.length === 0,
      );
      reportHeld(report, name, held, slowest);
    }
    const adaptive = await adaptiveNodes(stage, Math.round(fewest * OF_MOST), rest);
    reportHeld(report, `${where}, linger as enrichers ask for`, adaptive, slowest!);
    await judge(report, stage, where);
  }
}

/** More nodes than the default linger carries, and fewer than the longest: the enrichers are behind, and ask for what lets them keep up. */
async function adaptiveNodes(stage: NodesStage, nodes: number, rest: Measurement): Promise<Held> {
  const held = await measure(stage, { nodes, lingerMs: LINGER_MS, seconds: HOLD_SECONDS, adaptsMs: ADAPTS_MS });
  return { ...held, scaledCores: scaled(held, rest) };
}

interface Held extends Measurement {
  /** What NODES would cost: shares of a core. */
  scaledCores: Record<string, number>;
}

/** As many nodes as hold, measured for a while. Each costs less where many keep the services busy, so what few cost tells only with how many to go on. */
async function mostNodes(stage: NodesStage, lingerMs: number, rest: Measurement, first: number): Promise<Held> {
  const tried = await measure(stage, { nodes: first, lingerMs, seconds: TRY_SECONDS });
  let nodes = first;
  for (let last = tried; holds(last, tried); last = await measure(stage, { nodes, lingerMs, seconds: TRY_SECONDS })) {
    const used = sum(Object.values(last.cores)) + last.fleetCores;
    const more = Math.min(NODES, Math.round(last.nodes * Math.min(MORE, (cpus().length * BUSY) / used)));
    nodes = Math.max(nodes, more);
    if (more < last.nodes * MORE) break;
  }
  for (;;) {
    const held = await measure(stage, { nodes, lingerMs, seconds: HOLD_SECONDS });
    if (holds(held, tried)) return { ...held, scaledCores: scaled(held, rest) };
    console.log(`        ${nodes} nodes do not hold with a linger of ${lingerMs} ms: ${describe(held)}`);
    await settle(stage);
    nodes = Math.round(nodes * LESS);
  }
}

function scaled({ nodes, cores }: Measurement, rest: Measurement): Record<string, number> {
  return Object.fromEntries(
    Object.entries(cores).map(([service, share]) => {
      const atRest = rest.cores[service] ?? 0;
      return [service, atRest + ((share - atRest) * NODES) / nodes];
    }),
  );
}

/** EVENTS is not behind, and the load is as it should be: batches that are sealed late are larger and fewer. */
function holds(held: Measurement, few: Measurement): boolean {
  const perNode = ({ rawMessages, seconds, nodes }: Measurement) => rawMessages / seconds / nodes;
  return held.maxLagSeconds <= MAX_LAG_SECONDS && perNode(held) >= perNode(few) * KEPT_PACE;
}

async function measure(
  { fleet, manager, api, pids, stored }: NodesStage,
  { nodes, lingerMs, seconds, adaptsMs = 0 }: { nodes: number; lingerMs: number; seconds: number; adaptsMs?: number },
): Promise<Measurement> {
  if (nodes > 0) await fleet.run({ nodes, lingerMs, followsPace: adaptsMs > 0 });
  await delay(WARM_UP_SECONDS * 1000 + lingerMs + adaptsMs);
  const socket = new WebSocket(`${api.url.replace('http', 'ws')}/api/v1/events/live?kind=exec&namespace=${namespaceName(0)}`);
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  const latenciesMs: number[] = [];
  socket.on('message', (data: Buffer) => {
    const nowMs = performance.timeOrigin + performance.now();
    const { time } = JSON.parse(data.toString()) as { time: string };
    latenciesMs.push(nowMs - Date.parse(`${time.slice(0, 19)}Z`) - Number(time.slice(20, 26)) / 1000);
  });
  const services = { ...pids, fleet: [fleet.pid] };
  const streams = async () => {
    const [raw, events] = await Promise.all(
      [STREAMS.raw, STREAMS.events].map(async ({ name }) => (await manager.streams.info(name)).state),
    );
    return { raw: raw!, events: events!, counts: await fleet.counts() };
  };
  const costs = () => new Map(Object.values(services).flatMap(all => all.map(pid => [pid, processCost(pid)] as const)));
  const [before, costsBefore, machineBefore, startMs] = [await streams(), costs(), busyMs(), performance.now()];
  let maxLagSeconds = 0;
  while (performance.now() - startMs < seconds * 1000 && maxLagSeconds < HOPELESS_LAG_SECONDS) {
    await delay(SAMPLE_MS);
    const [{ sentEvents }, storedEvents] = await Promise.all([fleet.counts(), stored()]);
    if (nodes > 0) maxLagSeconds = Math.max(maxLagSeconds, (sentEvents - storedEvents) / (nodes * EVENTS_PER_SECOND));
  }
  const elapsed = (performance.now() - startMs) / 1000;
  const machineCores = (busyMs() - machineBefore) / 1000 / elapsed;
  const cores = Object.fromEntries(
    Object.entries(services).map(([service, all]) => [
      service,
      sum(all.map(pid => costSince(pid, costsBefore.get(pid)!).cpuNs)) / elapsed / 1e9,
    ]),
  );
  const after = await streams();
  const pssBytes = Object.fromEntries(Object.entries(pids).map(([service, all]) => [service, Math.max(...all.map(proportionalBytes))]));
  const askedAtMs = performance.now();
  const { problems } = (await (await fetch(`${api.url}/api/v1/status`)).json()) as { problems: string[] };
  const statusMs = performance.now() - askedAtMs;
  socket.close();
  await fleet.stop();
  const { fleet: fleetCores = 0, ...ours } = cores;
  return {
    nodes,
    lingerMs,
    seconds: elapsed,
    events: after.counts.sentEvents - before.counts.sentEvents,
    rawMessages: after.raw.last_seq - before.raw.last_seq,
    rawBytes: after.raw.bytes - before.raw.bytes,
    eventsMessages: after.events.last_seq - before.events.last_seq,
    eventsBytes: after.events.bytes - before.events.bytes,
    cores: ours,
    fleetCores,
    otherCores: Math.max(0, machineCores - sum(Object.values(cores))),
    maxLagSeconds,
    latenciesMs,
    pssBytes,
    statusMs,
    problems,
  };
}

function reportHeld(report: Report, name: string, held: Held, slowest: Held): void {
  const {
    nodes,
    seconds,
    events,
    rawMessages,
    rawBytes,
    eventsMessages,
    eventsBytes,
    latenciesMs,
    pssBytes,
    scaledCores,
    statusMs,
    maxLagSeconds,
  } = held;
  report.add({
    name: `${name}: nodes that ${maxLagSeconds <= MAX_LAG_SECONDS ? 'hold' : 'do not hold'}`,
    value: nodes,
    unit: `nodes of ${EVENTS_PER_SECOND} events/s`,
    baseline: { name: `linger ${slowest.lingerMs} ms`, value: slowest.nodes },
    goal: { value: NODES, is: 'at least' },
    note: describe(held),
  });
  report.add({
    name: `${name}: EVENTS behind RAW at most`,
    value: maxLagSeconds,
    unit: 's',
    goal: { value: MAX_LAG_SECONDS, is: 'at most' },
  });
  report.add({ name: `${name}: status of ${NODES} nodes`, value: statusMs, unit: 'ms' });
  report.add({
    name: `${name}: CPU of the services for ${NODES} nodes`,
    value: sum(Object.values(scaledCores)),
    unit: 'cores',
    baseline: { name: `linger ${slowest.lingerMs} ms`, value: sum(Object.values(slowest.scaledCores)) },
    goal: { value: GOAL_CORES, is: 'at most' },
    note: eachOf(scaledCores),
  });
  const oneEventAMessage = { name: 'one message an event', value: events / seconds };
  report.add({ name: `${name}: messages on RAW`, value: rawMessages / seconds, unit: 'messages/s', baseline: oneEventAMessage });
  report.add({ name: `${name}: messages on EVENTS`, value: eventsMessages / seconds, unit: 'messages/s', baseline: oneEventAMessage });
  report.add({ name: `${name}: bytes per event on RAW`, value: rawBytes / events, unit: 'bytes' });
  report.add({ name: `${name}: bytes per event on EVENTS`, value: eventsBytes / events, unit: 'bytes' });
  const bytesPerHour = (eventsBytes / events) * EVENTS_PER_SECOND * NODES * 3600;
  report.add({ name: `${name}: history of ${NODES} nodes per GiB of EVENTS`, value: GIB / bytesPerHour, unit: 'hours' });
  report.add({
    name: `${name}: kernel to WebSocket, p99`,
    value: percentile(latenciesMs, 99),
    unit: 'ms',
    baseline: { name: 'p50', value: percentile(latenciesMs, 50) },
  });
  for (const [service, bytes] of Object.entries(pssBytes))
    report.add({ name: `${name}: memory of each ${service}`, value: bytes / MB, unit: 'MB' });
}

function describe({ cores, fleetCores, otherCores, rawMessages, eventsMessages, events, maxLagSeconds, seconds }: Measurement): string {
  return [
    eachOf(cores),
    `the load itself ${fleetCores.toFixed(2)}`,
    `other work on this machine ${otherCores.toFixed(2)}`,
    `${(events / rawMessages).toFixed(1)} events a message on RAW, ${(events / eventsMessages).toFixed(1)} on EVENTS`,
    `${Math.round(events / seconds).toLocaleString('en-US')} events/s`,
    `at most ${maxLagSeconds.toFixed(2)} s behind`,
  ].join(', ');
}

function eachOf(cores: Record<string, number>): string {
  return Object.entries(cores)
    .map(([service, share]) => `${service} ${share.toFixed(2)}`)
    .join(', ');
}

async function judge(report: Report, stage: NodesStage, where: string): Promise<void> {
  const sentEvents = await settle(stage);
  const { bytes } = (await stage.manager.streams.info(STREAMS.events.name)).state;
  report.add({
    name: `${where}: disk per event of EVENTS, each copy`,
    value: stage.diskBytes(STREAMS.events.name) / sentEvents,
    unit: 'bytes',
    baseline: { name: 'as the stream counts', value: bytes / sentEvents },
  });
  const { isClean, events } = await stage.audit();
  report.check(`${where}: all ${sentEvents.toLocaleString('en-US')} events stored, nothing lost`, events === sentEvents);
  report.check(`${where}: audit clean`, isClean);
}

/** Waits until the enrichers are done with all that was sent. Returns how many events that is. */
async function settle({ fleet, enriched }: NodesStage): Promise<number> {
  const { sentEvents } = await fleet.counts();
  const untilMs = performance.now() + SETTLE_TIMEOUT_MS;
  while ((await enriched()) < sentEvents && performance.now() < untilMs) await delay(SAMPLE_MS);
  return sentEvents;
}

/** Memory of a process, what it shares with others divided among them: proc_pid_smaps(5). */
function proportionalBytes(pid: number): number {
  return Number(/^Pss:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0) * 1024;
}

/** CPU time of all cores since the machine started, without what is idle: proc_stat(5). */
function busyMs(): number {
  return sum(cpus().map(({ times: { user, nice, sys, irq } }) => user + nice + sys + irq));
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
