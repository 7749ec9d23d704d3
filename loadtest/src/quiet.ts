/**
 * What a quiet machine pays: small programs started at a steady rate, everything else filtered out in the kernel. A share of a core swings with the
 * machine, so the figures are ratios to the CPU time that the programs themselves took in the same seconds.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import { STREAMS } from '@tidegate/contracts';
import { WebSocket } from 'ws';
import { costSince, processCost, type ProcessCost } from './process-cost.ts';
import type { Report } from './report.ts';
import { percentile } from './samples.ts';
import { startStack, type Stack } from './stack.ts';

const SOURCE = join(import.meta.dirname, '..', 'programs', 'paced_execs.c');
/** Nobody else's: events of all other users are filtered out. */
const UID = 64_321;
const RATES = [20, 100, 500, 1_000];
const REFERENCE_RATE = 100;
const SECONDS = Number(process.env.TIDEGATE_BENCH_SECONDS ?? 30);
/** Until what a start leaves to do is done: garbage collections, the last of them half a minute later. */
const SETTLE_MS = 40_000;
const STACK = ['node-sensor', 'enricher', 'api', 'nats-server'];
const GOALS = { sensor: 0.14, stack: 0.42, idle: 0.1, sensorIdlePercent: 0.02, latencyMs: 150, followedMs: 20 };

interface Costs {
  seconds: number;
  services: Record<string, ProcessCost>;
  batches: number;
  messages: number;
}

interface Paced extends Costs {
  workloadNs: number;
}

export async function run(report: Report): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'tidegate-bench-quiet-'));
  const program = join(folder, 'paced_execs');
  execFileSync('cc', ['-O2', '-o', program, SOURCE]);
  execFileSync('chmod', ['755', folder]);
  const stack = await startStack({ TIDEGATE_ALLOW_UIDS: String(UID) });
  const nc = await stack.connect();
  try {
    const manager = await jetstreamManager(nc);
    await delay(SETTLE_MS);
    const idle = await measure(stack, manager, () => delay(SECONDS * 1000));
    const paced = new Map<number, Paced>();
    for (const rate of RATES) {
      let workloadNs = 0;
      const costs = await measure(stack, manager, async () => {
        workloadNs = await pacedExecs(program, rate);
      });
      paced.set(rate, { ...costs, workloadNs });
    }
    const reference = paced.get(REFERENCE_RATE)!;
    report.add({
      name: 'stack, idle, to the CPU of 100 execs/s',
      value: cpuNs(idle, STACK) / idle.seconds / (reference.workloadNs / reference.seconds),
      unit: 'times',
      goal: { value: GOALS.idle, is: 'at most' },
      note: shares(idle),
    });
    report.add({
      name: 'sensor, idle',
      value: percentOfCore(idle, ['node-sensor']),
      unit: '% of a core',
      goal: { value: GOALS.sensorIdlePercent, is: 'at most' },
    });
    for (const [rate, costs] of paced) {
      const isReference = rate === REFERENCE_RATE;
      for (const [name, services, goal] of [
        ['sensor', ['node-sensor'], GOALS.sensor],
        ['stack', STACK, GOALS.stack],
      ] as const) {
        report.add({
          name: `${name}, ${rate} execs/s, to their CPU`,
          value: cpuNs(costs, services) / costs.workloadNs,
          unit: 'times',
          baseline: { name: 'execs, ms/s', value: costs.workloadNs / 1e6 / costs.seconds },
          goal: isReference ? { value: goal, is: 'at most' } : undefined,
          note: name === 'stack' ? shares(costs) : undefined,
        });
      }
    }
    for (const follow of [false, true]) {
      const samplesMs = await latencies(stack, program, follow);
      report.add({
        name: `kernel to WebSocket, ${follow ? 'followed' : 'nobody asks for less'}, p99`,
        value: percentile(samplesMs, 99),
        unit: 'ms',
        baseline: { name: 'p50', value: percentile(samplesMs, 50) },
        goal: { value: follow ? GOALS.followedMs : GOALS.latencyMs, is: 'at most' },
      });
    }
    const audit = await stack.command('audit', '--nats', stack.natsUrl);
    report.check('audit clean', audit.code === 0);
    if (audit.code !== 0) console.log(audit.output);
  } finally {
    await nc.close();
    await stack.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function measure(stack: Stack, manager: JetStreamManager, work: () => Promise<unknown>): Promise<Costs> {
  const counts = async () => ({
    batches: await stack.metric('sensor', 'tidegate_node_sensor_batches_published_total'),
    messages: (await manager.streams.info(STREAMS.events.name)).state.last_seq,
  });
  const pids = Object.entries(stack.pids());
  const countsBefore = await counts();
  const before = new Map(pids.map(([service, pid]) => [service, processCost(pid)]));
  const startMs = performance.now();
  await work();
  const seconds = (performance.now() - startMs) / 1000;
  const services = Object.fromEntries(pids.map(([service, pid]) => [service, costSince(pid, before.get(service)!)]));
  const after = await counts();
  return {
    seconds,
    services,
    batches: after.batches - countsBefore.batches,
    messages: after.messages - countsBefore.messages,
  };
}

/** Resolves to the CPU time it took, nanoseconds. */
function pacedExecs(program: string, rate: number, seconds = SECONDS): Promise<number> {
  const child = spawn(program, [String(UID), String(rate), String(seconds)], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', code => (code === 0 ? resolve(Number(output.split(' ')[0])) : reject(new Error(`paced_execs ended with ${code}`))));
  });
}

/** Milliseconds from each exec in the kernel to its arrival at a WebSocket client. */
async function latencies(stack: Stack, program: string, follow: boolean): Promise<number[]> {
  const samplesMs: number[] = [];
  const socket = new WebSocket(`${stack.apiUrl.replace('http', 'ws')}/api/v1/events/live?kind=exec${follow ? '&pace=live' : ''}`);
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  await delay(2_000);
  socket.on('message', (data: Buffer) => {
    const nowMs = performance.timeOrigin + performance.now();
    const { time } = JSON.parse(data.toString()) as { time: string };
    samplesMs.push(nowMs - Date.parse(`${time.slice(0, 19)}Z`) - Number(time.slice(20, 26)) / 1000);
  });
  await pacedExecs(program, REFERENCE_RATE, 10);
  await delay(1_000);
  socket.close();
  return samplesMs;
}

function cpuNs({ services }: Costs, names: readonly string[]): number {
  return names.reduce((sum, name) => sum + (services[name]?.cpuNs ?? 0), 0);
}

function percentOfCore(costs: Costs, names: readonly string[]): number {
  return cpuNs(costs, names) / (costs.seconds * 1e7);
}

function shares(costs: Costs): string {
  const each = [...STACK, 'supervisor'].map(name => `${name} ${percentOfCore(costs, [name]).toFixed(2)} %`);
  const switches = Object.values(costs.services).reduce((sum, cost) => sum + cost.switches, 0);
  const perSecond = [
    `${Math.round(switches / costs.seconds)} switches/s`,
    `${(costs.batches / costs.seconds).toFixed(1)} batches/s`,
    `${(costs.messages / costs.seconds).toFixed(1)} messages/s`,
  ];
  return [...each, ...perSecond].join(', ');
}
