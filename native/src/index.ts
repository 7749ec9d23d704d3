/**
 * Tidegate's native core: loads the BPF programs, reads their rings, keeps the process table, and hands out encoded batches
 * (packages/contracts/proto/tidegate/v1/events.proto). Everything is checked here; the addon takes plain data as it comes.
 */
import {
  loadAddon,
  type AddonReader,
  type AddonStart,
  type Counters,
  type HookReport,
  type NativeBatch,
  type Pinning,
  type ReaderOptions,
  type SensorState,
  type StormOptions,
} from './addon.ts';
import { compileFilters, type Filters } from './filters.ts';
import { NativeError, Faults } from './native-error.ts';

export type { Counters, HookReport, NativeBatch, Pinning, ReaderOptions, SensorState, StormOptions } from './addon.ts';
export { NativeError, NativeErrorCatalogue, type NativeErrorCode } from './native-error.ts';
export type { FilterSets, Filters } from './filters.ts';
export { probe, type ProbeFault, type ProbeReport } from './probe.ts';

/** Limits of ReaderOptions; both included. */
export const ReaderLimits = {
  ringBytes: { min: 4_096, max: 1 << 30 },
  batchMaxBytes: { min: 4_096, max: 1 << 20 },
  lingerMs: { min: 0, max: 60_000 },
  queueMaxBatches: { min: 1, max: 65_536 },
  nodeMaxBytes: 253,
  bootMaxBytes: 63,
} as const;

const State = { new: 'new', started: 'started', closed: 'closed' } as const;
type State = (typeof State)[keyof typeof State];

/**
 * Reads the kernel's events and hands out batches.
 *
 * `onBatch` is called on JavaScript's thread, in order. What it throws is an uncaught exception. A reader that runs keeps the process alive
 * until it is closed; where a worker thread ends without closing it, it stops at once, and a pinned one goes on recording in the kernel.
 */
export class Reader {
  readonly #reader: AddonReader;
  #state: State = State.new;
  #pinning: Pinning = { pinned: false, resumed: false, note: '' };
  #closing: Promise<void> | undefined;
  #lastCounters: Counters | undefined;
  readonly #filters: Filters;

  /** @throws {NativeError} listing every option that is wrong; when the addon cannot be loaded. */
  constructor(options: ReaderOptions, onBatch: (batch: NativeBatch) => void) {
    checkOptions(options);
    this.#filters = options.filters;
    const { cgroupV1Root = null, hostRoot = '/', compression = 'none' } = options;
    this.#reader = new (loadAddon().NativeReader)({ ...options, cgroupV1Root, hostRoot, compression }, onBatch);
  }

  /**
   * Loads, attaches, and starts to read. A hook that cannot be attached is reported, and the others work.
   * @throws {NativeError} NATIVE_LOAD_FAILED, NATIVE_STATE_FILE_LOCKED, NATIVE_SYSTEM_ERROR
   */
  start(): HookReport[] {
    if (this.#state !== State.new) throw new NativeError('NATIVE_STATE', 'start() was called before', 'state', State.new, this.#state);
    this.#state = State.closed; // where start fails, there is nothing to close
    const started: AddonStart = this.#reader.start(compileFilters(this.#filters));
    this.#state = State.started;
    this.#pinning = { pinned: started.pinned, resumed: started.resumed, note: started.note };
    return started.hooks;
  }

  /** Known after start(). */
  get pinning(): Pinning {
    return this.#pinning;
  }

  /** Replaces the filters in the kernel; from the next event on. */
  setFilters(filters: Filters): void {
    this.#assertStarted();
    this.#reader.setFilters(compileFilters(filters));
  }

  /** After close() the last ones before it. */
  counters(): Counters {
    if (this.#lastCounters) return this.#lastCounters;
    this.#assertStarted();
    return this.#reader.counters();
  }

  /** Hands out what was read so far, without waiting for the linger. */
  flush(): void {
    this.#assertStarted();
    this.#reader.flush();
  }

  /**
   * How long a batch waits for more events from now on, the open one too.
   * @throws {NativeError} NATIVE_OPTIONS_INVALID
   */
  setLinger(milliseconds: number): void {
    this.#assertStarted();
    const faults = new Faults();
    checkLinger(faults, milliseconds);
    faults.raise('NATIVE_OPTIONS_INVALID');
    this.#reader.setLinger(milliseconds);
  }

  /**
   * Reads what is in the rings, hands it out, and ends. May be called again.
   * @param options unpin: leave nothing in the kernel; else a pinned reader's programs go on recording into the rings for the next one.
   */
  close(options: { unpin: boolean } = { unpin: false }): Promise<void> {
    this.#closing ??= this.#close(options.unpin);
    return this.#closing;
  }

  async #close(unpin: boolean): Promise<void> {
    if (this.#state !== State.started) {
      this.#state = State.closed;
      return;
    }
    const closed = this.#reader.close(unpin);
    this.#lastCounters = this.#reader.counters();
    this.#state = State.closed;
    this.#lastCounters = await closed;
  }

  #assertStarted(): void {
    if (this.#state !== State.started)
      throw new NativeError('NATIVE_STATE', 'the reader does not run', 'state', State.started, this.#state);
  }
}

/**
 * What the state file of a sensor holds; null when there is none, or nothing in it. The sensor may be running.
 * @throws {NativeError} NATIVE_SYSTEM_ERROR
 */
export function readState(path: string): SensorState | null {
  return loadAddon().readState(path);
}

/**
 * For benchmarks: has the kernel push synthetic close events through the rings of a running sensor, from its pins, as fast as one CPU can. Resolves
 * when all were pushed or lost. Rejects when no sensor has its pins there, and where the kernel refuses the program.
 */
export function stormPinned(options: StormOptions): Promise<void> {
  return loadAddon().stormPinned(options);
}

function checkLinger(faults: Faults, milliseconds: number): void {
  const { min, max } = ReaderLimits.lingerMs;
  faults.check(milliseconds >= min && milliseconds <= max, 'lingerMs', `a number from ${min} to ${max}`, milliseconds);
}

function checkOptions(options: ReaderOptions): void {
  const faults = new Faults();
  for (const field of ['objectFile', 'stateFile', 'procRoot', 'cgroupRoot'] as const) {
    faults.check(options[field].startsWith('/'), field, 'an absolute path', options[field]);
  }
  faults.check(options.cgroupV1Root?.startsWith('/') ?? true, 'cgroupV1Root', 'an absolute path or null', options.cgroupV1Root);
  faults.check(options.hostRoot?.startsWith('/') ?? true, 'hostRoot', 'an absolute path', options.hostRoot);
  faults.check(
    options.pinDirectory === null || options.pinDirectory.startsWith('/'),
    'pinDirectory',
    'an absolute path or null',
    options.pinDirectory,
  );
  faults.text('node', options.node, ReaderLimits.nodeMaxBytes);
  faults.text('boot', options.boot, ReaderLimits.bootMaxBytes);
  faults.check(
    Number.isSafeInteger(options.firstSequence) && options.firstSequence >= 1,
    'firstSequence',
    'an integer from 1',
    options.firstSequence,
  );
  for (const field of ['lifecycleRingBytes', 'dataRingBytes'] as const) {
    const bytes = options[field];
    const { min, max } = ReaderLimits.ringBytes;
    const good = Number.isInteger(bytes) && bytes >= min && bytes <= max && (bytes & (bytes - 1)) === 0;
    faults.check(good, field, `a power of two from ${min} to ${max}`, bytes);
  }
  faults.integer('batchMaxBytes', options.batchMaxBytes, ReaderLimits.batchMaxBytes);
  faults.integer('queueMaxBatches', options.queueMaxBatches, ReaderLimits.queueMaxBatches);
  checkLinger(faults, options.lingerMs);
  const compression: string = options.compression ?? 'none';
  faults.check(compression === 'none' || compression === 'zstd', 'compression', 'none or zstd', compression);
  faults.raise('NATIVE_OPTIONS_INVALID');
}
