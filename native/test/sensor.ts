/** A reader in a folder of its own that gathers what it hands out; for tests. */
import { decodeBatch, type Container, type Event, type Process } from '@tidegate/contracts';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { zstdDecompressSync } from 'node:zlib';
import { probe, Reader, type HookReport, type NativeBatch, type ReaderOptions } from '../src/index.ts';

export const OBJECT_FILE = fileURLToPath(new URL('../../bpf/build/tidegate.bpf.o', import.meta.url));
export const STORM_FILE = fileURLToPath(new URL('../../bpf/build/bench_storm.bpf.o', import.meta.url));
export const WAIT_MAX_MS = 20_000;
const POLL_MS = 50;

/** Why the kernel's events cannot be had here; false: they can. As node:test's `skip` wants it. */
export function skipReason(): string | false {
  const report = probe();
  if (!report.ok) return report.missing.map(fault => fault.message).join(' ');
  return existsSync(OBJECT_FILE) ? false : `${OBJECT_FILE} is not built`;
}

/** Where the cgroup2 hierarchy is mounted. */
export function cgroupRoot(): string {
  const mount = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .find(line => line.split(' ')[2] === 'cgroup2');
  return mount?.split(' ')[1] ?? '/sys/fs/cgroup';
}

/** An event with its process, that one's ancestors from the parent up, and its container. */
export interface SeenEvent {
  event: Event;
  process: Process | undefined;
  ancestors: Process[];
  container: Container | undefined;
}

export interface TestSensor {
  reader: Reader;
  hooks: HookReport[];
  folder: string;
  options: ReaderOptions;
  batches: NativeBatch[];
  events: SeenEvent[];
  /** Waits until `condition` holds; looks after every batch, and often between them: counters change without one. */
  until(what: string, condition: () => boolean): Promise<void>;
  /** Closes the reader, leaving nothing behind. */
  close(): Promise<void>;
}

export function readerOptions(folder: string, overrides: Partial<ReaderOptions> = {}): ReaderOptions {
  return {
    objectFile: OBJECT_FILE,
    node: 'test-node',
    boot: 'test-boot',
    firstSequence: 1,
    stateFile: join(folder, 'state'),
    pinDirectory: null,
    lifecycleRingBytes: 1 << 22,
    dataRingBytes: 1 << 22,
    batchMaxBytes: 1 << 18,
    lingerMs: 2,
    queueMaxBatches: 64,
    procRoot: '/proc',
    cgroupRoot: cgroupRoot(),
    filters: {},
    ...overrides,
  };
}

export function openBatch(batch: NativeBatch): SeenEvent[] {
  const decoded = decodeBatch(batch.encoding === 'zstd' ? zstdDecompressSync(batch.payload) : batch.payload);
  const processes = new Map(decoded.processes.map(process => [process.id, process]));
  const containers = new Map(decoded.containers.map(container => [container.id, container]));
  return decoded.events.map(event => {
    const process = processes.get(event.process ?? 0);
    const ancestors: Process[] = [];
    for (let next = processes.get(process?.parent ?? 0); next; next = processes.get(next.parent ?? 0)) ancestors.push(next);
    return { event, process, ancestors, container: containers.get(process?.container ?? 0) };
  });
}

export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'tidegate-native-'));
  chmodSync(folder, 0o755); // tests run programs as other users in it
  return folder;
}

export function startSensor(overrides: Partial<ReaderOptions> = {}, folder: string = temporaryFolder()): TestSensor {
  const batches: NativeBatch[] = [];
  const events: SeenEvent[] = [];
  const watchers = new Set<() => void>();
  const options = readerOptions(folder, overrides);
  const reader = new Reader(options, batch => {
    batches.push(batch);
    events.push(...openBatch(batch));
    for (const watcher of watchers) watcher();
  });
  const hooks = reader.start();
  return {
    reader,
    hooks,
    folder,
    options,
    batches,
    events,
    until(what, condition) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const timer = setTimeout(() => {
        reject(new Error(`waited ${WAIT_MAX_MS} ms for ${what}`));
      }, WAIT_MAX_MS);
      const watcher = (): void => {
        if (condition()) resolve();
      };
      watchers.add(watcher);
      const poll = setInterval(watcher, POLL_MS);
      watcher();
      return promise.finally(() => {
        clearTimeout(timer);
        clearInterval(poll);
        watchers.delete(watcher);
      });
    },
    async close() {
      await reader.close({ unpin: true });
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The exec event whose arguments include `marker`. */
export function findExec(sensor: TestSensor, marker: string): SeenEvent | undefined {
  return sensor.events.find(({ event, process }) => event.exec && process?.arguments?.includes(marker));
}

/** Compiles test/programs/<name>.c into the folder. */
export function compileProgram(folder: string, name: string): string {
  const source = fileURLToPath(new URL(`./programs/${name}.c`, import.meta.url));
  const program = join(folder, name);
  execFileSync('cc', ['-O1', '-pthread', '-o', program, source]);
  return program;
}

/** Sequence numbers are complete: every batch goes on where the last one ended. */
export function sequencesAreWhole(batches: NativeBatch[]): boolean {
  return batches.every((batch, index) => index === 0 || batch.firstSequence === batches[index - 1]!.lastSequence + 1);
}
