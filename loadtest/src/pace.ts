/** How fast a benchmark sets its load. */
import { setTimeout as delay } from 'node:timers/promises';

/** Tasks of a steady rate that may be under way at once; beyond it the rate is not kept, and steadily() says what it was. */
const STEADY_MAX_AT_ONCE = 512;

/** Runs tasks 0 to count - 1 as fast as they go, so many at once. */
export async function concurrently(count: number, atOnce: number, task: (index: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const work = async () => {
    while (next < count) await task(next++);
  };
  await Promise.all(Array.from({ length: Math.min(count, atOnce) }, work));
}

/**
 * Starts tasks 0 to count - 1 at a steady rate, whether those before are done or not.
 * @returns tasks per second that were started
 */
export async function steadily(count: number, ratePerSecond: number, task: (index: number) => Promise<unknown>): Promise<number> {
  const running = new Set<Promise<unknown>>();
  const failures: unknown[] = [];
  const startedAtMs = performance.now();
  for (let i = 0; i < count; i++) {
    const earlyMs = startedAtMs + (i * 1000) / ratePerSecond - performance.now();
    if (earlyMs > 1) await delay(earlyMs);
    if (running.size >= STEADY_MAX_AT_ONCE) await Promise.race(running);
    const one: Promise<unknown> = task(i)
      .catch((error: unknown) => failures.push(error))
      .finally(() => running.delete(one));
    running.add(one);
  }
  const seconds = (performance.now() - startedAtMs) / 1000;
  await Promise.all(running);
  if (failures.length > 0) throw new AggregateError(failures, `${failures.length} of ${count} tasks failed`);
  return count / seconds;
}
