/** Drives the bench-only BPF program on a running sensor's maps, at a rate or as fast as the sensor reads. */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { stormPinned } from '@tidegate/native';
import type { Stack } from './stack.ts';

const OBJECT_FILE = join(import.meta.dirname, '..', '..', 'bpf', 'build', 'bench_storm.bpf.o');
/** One push. */
const CHUNK_EVENTS = 20_000;
/** Events in the ring at most: fits the default data ring of 16 MiB at 144 bytes a record. */
const MAX_BEHIND_EVENTS = 80_000;
const TICK_MS = 2;

export interface Storm {
  stack: Stack;
  events: number;
  cgroupIds: number[];
  /** Events per second; without it as fast as the sensor reads. */
  rate?: number;
}

/** Resolves when all events were pushed. Returns how long that took, milliseconds. */
export async function runStorm({ stack, events, cgroupIds, rate }: Storm): Promise<number> {
  const push = (count: number) =>
    stormPinned({
      objectFile: OBJECT_FILE,
      pinDirectory: stack.pinDirectory,
      events: count,
      pid: process.pid,
      startKtimeNs: 0n,
      execGeneration: 0n,
      cgroupIds,
    });
  const startMs = performance.now();
  if (rate !== undefined) {
    for (let pushed = 0; pushed < events;) {
      const due = Math.min(events, Math.floor(((performance.now() - startMs) * rate) / 1000));
      if (due > pushed) {
        await push(due - pushed);
        pushed = due;
      }
      await delay(TICK_MS);
    }
    return performance.now() - startMs;
  }
  const base = await stack.metric('sensor', 'tidegate_node_sensor_events_read_total');
  for (let pushed = 0; pushed < events;) {
    const count = Math.min(CHUNK_EVENTS, events - pushed);
    await push(count);
    pushed += count;
    while (pushed - ((await stack.metric('sensor', 'tidegate_node_sensor_events_read_total')) - base) > MAX_BEHIND_EVENTS - CHUNK_EVENTS)
      await delay(1);
  }
  return performance.now() - startMs;
}
