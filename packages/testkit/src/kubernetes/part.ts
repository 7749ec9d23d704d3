import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** One running program of a cluster; its output is in `<folder>/<name>.log`. */
export interface Part {
  readonly name: string;
  readonly isRunning: () => boolean;
  /** Waits until `condition` holds; throws with the end of the log when the program ends first or the bound is reached. */
  waitUntil(condition: () => boolean | Promise<boolean>, what: string): Promise<void>;
  /** Ends it with SIGKILL, as a crash would: nothing a cluster for tests keeps is worth a clean shutdown. */
  kill(): Promise<void>;
}

const POLL_MS = 50;
const READY_TIMEOUT_MS = 90_000;
const LOG_TAIL_CHARACTERS = 2_000;

/** Starts a program that dies with this process. */
export function startPart(folder: string, name: string, command: readonly string[]): Part {
  const logPath = join(folder, `${name}.log`);
  const log = openSync(logPath, 'a');
  // setpriv asks the kernel to kill the program when its parent dies, and then becomes the program.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...command], { stdio: ['ignore', log, log] });
  closeSync(log);
  const exited = once(child, 'exit').catch(() => undefined);
  const isRunning = () => child.pid !== undefined && child.exitCode === null && child.signalCode === null;
  return {
    name,
    isRunning,
    async waitUntil(condition, what) {
      const deadlineMs = performance.now() + READY_TIMEOUT_MS;
      while (!(await condition())) {
        const isLate = performance.now() > deadlineMs;
        if (!isRunning() || isLate) {
          const tail = readFileSync(logPath, 'utf8').slice(-LOG_TAIL_CHARACTERS);
          throw new Error(`${name} ${isLate ? `was not ${what} in ${READY_TIMEOUT_MS} ms` : `ended before it was ${what}`}:\n${tail}`);
        }
        await delay(POLL_MS);
      }
    },
    async kill() {
      if (isRunning()) child.kill('SIGKILL');
      await exited;
    },
  };
}
