/** What a component says of itself in a bucket: at least every so often, and soon after a change, so that who is silent has ended. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Bucket } from './bucket.ts';
import type { Logger } from './logging.ts';
import type { Closable } from './shutdown.ts';

export interface StateReportsOptions<About extends object, State extends object> {
  bucket: Bucket<About & State & { startedAt: string; reportedAt: string }>;
  key: string;
  intervalMs: number;
  /** How often a change is looked for. */
  checkMs: number;
  /** What does not change. */
  about: About;
  /** What does. */
  state: () => State | Promise<State>;
  /** What is reported as soon as it changes; default: all of it. */
  urgent?: (state: State) => unknown;
  /** It is written. */
  onReported?: (state: State) => void;
  logger: Logger;
}

/** `close` takes the report back: whoever has ended holds nobody up. */
export function startStateReports<About extends object, State extends object>(options: StateReportsOptions<About, State>): Closable {
  const { bucket, key, intervalMs, checkMs, about, state, urgent = same => same, onReported, logger } = options;
  const startedAt = new Date().toISOString();
  const stop = new AbortController();
  let reported: string | undefined;
  let reportedMs = -Infinity;

  const report = async () => {
    const now = await state();
    const change = JSON.stringify(urgent(now));
    if (change === reported && performance.now() - reportedMs < intervalMs - checkMs) return;
    await bucket.put(key, { ...about, startedAt, reportedAt: new Date().toISOString(), ...now });
    reported = change;
    reportedMs = performance.now();
    onReported?.(now);
  };

  const run = async () => {
    while (!stop.signal.aborted) {
      await report().catch((error: unknown) => logger.debug({ err: error }, 'cannot report its state'));
      await delay(checkMs, undefined, { signal: stop.signal }).catch(() => undefined);
    }
    if (reported !== undefined)
      await bucket.delete(key).catch((error: unknown) => logger.debug({ err: error }, 'cannot take the report back'));
  };

  const running = run();
  return {
    async close() {
      stop.abort();
      await running;
    },
  };
}
