/**
 * Tidegate's native core: loads the BPF programs, reads their rings, keeps the process table, and hands out encoded batches
 * (packages/contracts/proto/tidegate/v1/events.proto). Everything is checked here; the addon takes plain data as it comes.
 */
import { loadAddon, type AddonReader, type AddonStart } from './addon.ts';
import { compileFilters, type Filters } from './filters.ts';
import { NativeError, Faults } from './native-error.ts';

export { NativeError } from './native-error.ts';
export type { FilterSets, Filters } from './filters.ts';
export { probe, type ProbeFault, type ProbeReport } from './probe.ts';

/** Limits of ReaderOptions; both included. */
export const ReaderLimits = {
  ringBytes: { min: 4_096, max: 1 << 30 },
  batchMaxBytes: { min: 4_096, max: 1 << 20 },
  lingerMs: { min: 0, max: 10_000 },
  queueMaxBatches: { min: 1, max: 65_536 },
  nodeMaxBytes: 253,
  bootMaxBytes: 63,
} as const;

/** Where containerd keeps its state: alone, and as part of k3s and RKE2, of k0s, and of MicroK8s. */
export const CONTAINERD_STATES: readonly string[] = [
  '/run/containerd',
  '/run/k3s/containerd',
  '/run/k0s/containerd',
  '/var/snap/microk8s/common/run/containerd',
];

/** Events the sensor knows to be lost before the reader starts: they become the first events of its first batch. */
export interface InitialLoss {
  /** Number of LossReason in the schema. */
  reason: number;
  /** 0: not known. */
  count: number;
  /** Both included; 0 and 0: no numbers were given out. */
  firstSequence: number;
  lastSequence: number;
  /** The interval in which it happened, CLOCK_BOOTTIME; 0: not known. */
  fromKtimeNs: bigint;
  toKtimeNs: bigint;
}

export interface ReaderOptions {
  /** bpf/build/tidegate.bpf.o */
  objectFile: string;
  /** Name of this node, in every batch. */
  node: string;
  /** This run of the sensor, in every batch. */
  boot: string;
  /** Sequence number of the first event, unless the state file knows a higher one. */
  firstSequence: number;
  losses: InitialLoss[];
  /** Small file, written through a memory map: survives SIGKILL. One reader at a time. See readState. */
  stateFile: string;
  /** Folder on a bpffs where links and maps stay while no sensor runs; null: nothing stays. */
  pinDirectory: string | null;
  /** Powers of two, a page at least. */
  lifecycleRingBytes: number;
  dataRingBytes: number;
  /** A batch is sealed before it grows over this. One event whose own ancestry is larger still goes out, alone. */
  batchMaxBytes: number;
  /** A batch is sealed this long after its first event at the latest. */
  lingerMs: number;
  /** Batches that may wait for JavaScript. Beyond it the rings are not read: the kernel counts what does not fit. */
  queueMaxBatches: number;
  /** `/proc` of the host. */
  procRoot: string;
  /** Where the cgroup2 hierarchy is mounted. */
  cgroupRoot: string;
  /** Where the cgroup v1 hierarchy with the pids controller is mounted, for processes that are in the root of cgroup2; null: nowhere. Default: null. */
  cgroupV1Root?: string | null;
  /** The host's root folder, to read the container runtime's files in. Default: `/`. */
  hostRoot?: string;
  /** State folders of containerd, in the host. Default: CONTAINERD_STATES. */
  containerdStates?: readonly string[];
  filters: Filters;
  /** zstd at level 1, where it saves a tenth at least. Default: none. */
  compression?: 'none' | 'zstd';
}

export interface NativeBatch {
  /** An encoded EventBatch. */
  payload: Buffer;
  /** From 1, within this reader's life. */
  batch: number;
  events: number;
  /** Every number from first to last is in the batch, as an event or inside a loss. */
  firstSequence: number;
  lastSequence: number;
  encoding: 'none' | 'zstd';
}

export interface HookReport {
  /** As in bpf/programs: `sched_process_exec`. */
  hook: string;
  program: string;
  attached: boolean;
  error?: string;
}

export interface Pinning {
  /** Programs go on recording while the sensor is not running. */
  pinned: boolean;
  /** An earlier sensor's rings were taken up. */
  resumed: boolean;
  /** Why it is not pinned, where it should have been. */
  note: string;
}

export interface Counters {
  /** Given out in batches, loss events included. */
  events: number;
  batches: number;
  /** Of payloads, as handed out and before compression. */
  bytes: number;
  plainBytes: number;
  lastSequence: number;
  /** Records of the kernel that were not what they should be. */
  malformedRecords: number;
  /** Processes an event named whose start had not been seen. */
  unknownProcesses: number;
  /** Times the process table was read anew. */
  synchronisations: number;
  processes: number;
  processesRunning: number;
  /** Forgotten before their time, because the table was full. */
  processesEvicted: number;
  cgroups: number;
  cgroupsEvicted: number;
  /** Containers the runtime's files told nothing of. */
  containersNotDescribed: number;
  /** Times a batch found the queue to JavaScript full. */
  queueFull: number;
  /** CPU time of the reader's thread. */
  cpuNs: number;
  /** Records the kernel wrote, since the maps were made. */
  lifecycleRecords: number;
  dataRecords: number;
  /** Records the kernel had no room for, since the maps were made. */
  lostForks: number;
  lostCgroups: number;
  /** By number of Kind. */
  lostByKind: Record<number, number>;
  filteredByKind: Record<number, number>;
}

/** What a state file remembers of its sensor. */
export interface SensorState {
  /** All numbers below were given out. */
  nextSequence: number;
  /** The last batch of the run `boot`. */
  lastBatch: number;
  /** When it was sealed, CLOCK_BOOTTIME. */
  lastKtimeNs: bigint;
  boot: string;
  /** The kernel's boot id. */
  kernelBoot: string;
}

/** A synthetic storm, for benchmarks. */
export interface StormOptions {
  /** bpf/build/bench_storm.bpf.o */
  objectFile: string;
  /** Of the sensor that is to be stormed, in this process or another. */
  pinDirectory: string;
  events: number;
  /** Of the process the events belong to; with cgroups, of the first: each cgroup has a process of its own, pids counting up. */
  pid: number;
  startKtimeNs: bigint;
  execGeneration: bigint;
  /** Gone through in turn. */
  cgroupIds: number[];
}

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
    const { cgroupV1Root = null, hostRoot = '/', containerdStates = CONTAINERD_STATES, compression = 'none' } = options;
    this.#reader = new (loadAddon().NativeReader)({ ...options, cgroupV1Root, hostRoot, containerdStates, compression }, onBatch);
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

function checkOptions(options: ReaderOptions): void {
  const faults = new Faults();
  for (const field of ['objectFile', 'stateFile', 'procRoot', 'cgroupRoot'] as const) {
    faults.check(options[field].startsWith('/'), field, 'an absolute path', options[field]);
  }
  faults.check(options.cgroupV1Root?.startsWith('/') ?? true, 'cgroupV1Root', 'an absolute path or null', options.cgroupV1Root);
  faults.check(options.hostRoot?.startsWith('/') ?? true, 'hostRoot', 'an absolute path', options.hostRoot);
  options.containerdStates?.forEach((folder, index) => {
    faults.check(folder.startsWith('/'), `containerdStates[${index}]`, 'an absolute path', folder);
  });
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
  const { min, max } = ReaderLimits.lingerMs;
  faults.check(options.lingerMs >= min && options.lingerMs <= max, 'lingerMs', `a number from ${min} to ${max}`, options.lingerMs);
  options.losses.forEach((loss, index) => {
    const { firstSequence: first, lastSequence: last } = loss;
    const good = Number.isSafeInteger(first) && Number.isSafeInteger(last) && first >= 0 && last >= first && (first > 0 || last === 0);
    faults.check(good, `losses[${index}]`, 'firstSequence <= lastSequence, or both 0', `${first}..${last}`);
    faults.check(Number.isSafeInteger(loss.count) && loss.count >= 0, `losses[${index}].count`, 'an integer from 0', loss.count);
  });
  const compression: string = options.compression ?? 'none';
  faults.check(compression === 'none' || compression === 'zstd', 'compression', 'none or zstd', compression);
  faults.raise('NATIVE_OPTIONS_INVALID');
}
