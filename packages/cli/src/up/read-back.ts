/** Whether events arrive: a program that this process starts is read back from EVENTS. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { followEvents } from '../event-feed.ts';

const TIMEOUT_MS = 10_000;
/** Started again and again: the first may come before the hooks are attached. */
const INTERVAL_MS = 1_000;
/** Settings of the sensor that may keep the program's event back. */
const FILTER_SETTING = /^TIDEGATE_(KINDS|ALLOW_|DENY_)/;
const run = promisify(execFile);

/** Whether the sensor's settings filter events in the kernel. */
export function hasFilters(env: NodeJS.ProcessEnv): boolean {
  return Object.entries(env).some(([name, value]) => FILTER_SETTING.test(name) && value);
}

/** False: no event of it came within 10 s, or the signal was aborted. */
export async function isReadBack(apiUrl: string, signal: AbortSignal): Promise<boolean> {
  const marker = `tidegate-ready-${randomUUID()}`;
  const seen = new AbortController();
  const until = AbortSignal.any([signal, seen.signal, AbortSignal.timeout(TIMEOUT_MS)]);
  const start = async () => {
    while (!until.aborted) {
      await run(process.execPath, ['--version', marker]).catch(() => undefined);
      await delay(INTERVAL_MS, undefined, { signal: until }).catch(() => undefined);
    }
  };
  const starting = start();
  await followEvents({
    apiUrl,
    query: { kind: 'exec', text: marker, from: new Date().toISOString() },
    signal: until,
    onEvent: () => Promise.resolve(seen.abort()),
    onConnection: () => undefined,
  });
  await starting;
  return seen.signal.aborted;
}
