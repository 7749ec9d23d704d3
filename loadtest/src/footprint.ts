/** Resident memory of each process at rest and under a steady load. Baseline: a Node.js process that does nothing. */
import { spawn } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import type { Report } from './report.ts';
import { residentBytes, startStack, type Stack } from './stack.ts';
import { runStorm } from './storm.ts';

const REST_MS = 15_000;
const RATE = 100_000;
const SECONDS = 20;
const MB = 1e6;
const GOALS: Record<string, { rest: number; load: number }> = { 'node-sensor': { rest: 90, load: 150 } };

export async function run(report: Report): Promise<void> {
  const idle = await idleNodeBytes();
  const stack = await startStack();
  try {
    await delay(REST_MS);
    const rest = measure(stack);
    const peak = { ...rest };
    const storm = runStorm({ stack, events: RATE * SECONDS, cgroupIds: [], rate: RATE });
    let isRunning = true;
    const end = () => (isRunning = false);
    // What it failed with is thrown below, where it is awaited.
    storm.then(end, end);
    while (isRunning) {
      await delay(250);
      for (const [service, bytes] of Object.entries(measure(stack))) peak[service] = Math.max(peak[service] ?? 0, bytes);
    }
    await storm;
    const baseline = { name: 'idle Node.js', value: idle / MB };
    for (const service of Object.keys(rest)) {
      const goal = GOALS[service];
      report.add({
        name: `${service} at rest`,
        value: rest[service]! / MB,
        unit: 'MB',
        baseline,
        goal: goal && { value: goal.rest, is: 'at most' },
      });
      report.add({
        name: `${service} at ${RATE.toLocaleString('en-US')} events/s, peak`,
        value: (peak[service] ?? 0) / MB,
        unit: 'MB',
        baseline,
        goal: goal && { value: goal.load, is: 'at most' },
      });
    }
    const lost = await stack.metric('sensor', 'tidegate_node_sensor_ring_lost_events_total');
    report.check('nothing lost', lost === 0);
  } finally {
    await stack.stop();
  }
}

function measure(stack: Stack): Record<string, number> {
  return Object.fromEntries(Object.entries(stack.pids()).map(([service, pid]) => [service, residentBytes(pid)]));
}

async function idleNodeBytes(): Promise<number> {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
  try {
    await delay(1_000);
    return residentBytes(child.pid ?? 0);
  } finally {
    child.kill();
  }
}
