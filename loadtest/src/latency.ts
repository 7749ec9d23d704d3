/** Kernel to WebSocket client at a steady rate. Baseline: one message through JetStream and back to the same process. */
import { setTimeout as delay } from 'node:timers/promises';
import { jetstreamManager, jetstream } from '@nats-io/jetstream';
import { WebSocket } from 'ws';
import type { Report } from './report.ts';
import { percentile } from './samples.ts';
import { startStack } from './stack.ts';
import { runStorm } from './storm.ts';

const RATE = 10_000;
const SECONDS = 10;
const GOAL_P50_MS = 5;
const GOAL_P99_MS = 20;
const ROUND_TRIPS = 500;

export async function run(report: Report): Promise<void> {
  const stack = await startStack();
  const nc = await stack.connect();
  try {
    const manager = await jetstreamManager(nc);
    await manager.streams.add({ name: 'BENCH', subjects: ['bench.latency'] });
    const trips: number[] = [];
    const js = jetstream(nc);
    const subscription = nc.subscribe('bench.latency');
    const messages = subscription[Symbol.asyncIterator]();
    for (let i = 0; i < ROUND_TRIPS; i++) {
      const start = performance.now();
      await Promise.all([js.publish('bench.latency', 'x'), messages.next()]);
      trips.push(performance.now() - start);
    }
    subscription.unsubscribe();
    await manager.streams.delete('BENCH');

    const samplesMs: number[] = [];
    let losses = 0;
    const socket = new WebSocket(`${stack.apiUrl.replace('http', 'ws')}/api/v1/events/live?kind=close,loss&batch=true&pace=live`);
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
    socket.on('message', (data: Buffer) => {
      const nowMs = performance.timeOrigin + performance.now();
      for (const line of data.toString().split('\n')) {
        if (line === '') continue;
        const event = JSON.parse(line) as { kind: string; time: string };
        if (event.kind === 'loss') losses++;
        else if (event.kind === 'close') samplesMs.push(nowMs - microseconds(event.time) / 1000);
      }
    });
    await runStorm({ stack, events: RATE * SECONDS, cgroupIds: [], rate: RATE });
    const untilMs = performance.now() + 10_000;
    while (samplesMs.length < RATE * SECONDS && performance.now() < untilMs) await delay(50);
    socket.close();
    report.check(`all ${RATE * SECONDS} events arrived, no loss`, samplesMs.length >= RATE * SECONDS && losses === 0);
    for (const [percent, goal] of [
      [50, GOAL_P50_MS],
      [99, GOAL_P99_MS],
    ] as const) {
      report.add({
        name: `kernel to WebSocket at ${RATE.toLocaleString('en-US')} events/s, p${percent}`,
        value: percentile(samplesMs, percent),
        unit: 'ms',
        baseline: { name: 'JetStream round trip', value: percentile(trips, percent) },
        goal: { value: goal, is: 'at most' },
      });
    }
  } finally {
    await nc.close();
    await stack.stop();
  }
}

/** Date gives milliseconds only. */
function microseconds(time: string): number {
  return Date.parse(`${time.slice(0, 19)}Z`) * 1000 + Number(time.slice(20, 26));
}
