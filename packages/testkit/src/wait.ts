import { setTimeout as delay } from 'node:timers/promises';
import { TidegateError } from '@tidegate/runtime';

export interface WaitOptions {
  timeoutMs?: number;
  /** What is awaited, for the message when it does not come. */
  what: string;
}

/** Far beyond what anything takes on a busy machine: only what never comes waits so long. */
const DEFAULT_TIMEOUT_MS = 60_000;
const POLL_MS = 10;

/**
 * Asks `condition` again and again until it gives something other than false, null or undefined, and resolves to that. Rejects with TIMEOUT
 * after `timeoutMs`; an error that `condition` throws counts as "not yet" and is the cause of the timeout.
 */
export async function waitFor<T>(
  condition: () => T | Promise<T>,
  { timeoutMs = DEFAULT_TIMEOUT_MS, what }: WaitOptions,
): Promise<Exclude<T, false | null | undefined>> {
  const deadlineMs = performance.now() + timeoutMs;
  let cause: unknown;
  for (;;) {
    try {
      const value = await condition();
      if (value !== false && value !== null && value !== undefined) return value as Exclude<T, false | null | undefined>;
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    if (performance.now() > deadlineMs)
      throw new TidegateError('TIMEOUT', `waited in vain for ${what}`, { expected: `within ${timeoutMs} ms`, cause });
    await delay(POLL_MS);
  }
}
