/** The file in the data folder that says which supervisor runs from it, so that there is one at most. */
import { closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { TidegateError } from '@tidegate/runtime';
import { processStat } from '../process-stat.ts';

const RUN_FILE = 'up.json';

/** What runs, for a second `up` and for people. */
export interface RunInfo {
  pid: number;
  /** Start time of the process as the kernel counts it: a pid alone may be another's by now. Empty where there is no /proc. */
  processStart: string;
  startedAt: string;
  page: string;
  nats: string;
}

export interface RunFile {
  /** The supervisor before this one did not end in order. */
  readonly replacedDead: boolean;
  release(): void;
}

/** @throws {TidegateError} ALREADY_RUNNING, saying what runs */
export function takeRunFile(folder: string, addresses: Pick<RunInfo, 'page' | 'nats'>): RunFile {
  const file = join(folder, RUN_FILE);
  const info: RunInfo = { pid: process.pid, processStart: startTimeOf(process.pid), startedAt: new Date().toISOString(), ...addresses };
  let replacedDead = false;
  for (;;) {
    try {
      const descriptor = openSync(file, 'wx', 0o644);
      writeSync(descriptor, `${JSON.stringify(info)}\n`);
      closeSync(descriptor);
      return { replacedDead, release: () => rmSync(file, { force: true }) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const other = readRunFile(file);
    if (other && isAlive(other)) {
      throw new TidegateError(
        'ALREADY_RUNNING',
        `Tidegate runs from ${folder} already: pid ${other.pid}, since ${other.startedAt}, page ${other.page}, NATS ${other.nats}`,
      );
    }
    rmSync(file, { force: true });
    replacedDead = true;
  }
}

function readRunFile(file: string): RunInfo | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as RunInfo;
  } catch {
    return undefined;
  }
}

function isAlive({ pid, processStart: start }: RunInfo): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  return start === startTimeOf(pid);
}

function startTimeOf(pid: number): string {
  return processStat(pid)?.startTime ?? '';
}
