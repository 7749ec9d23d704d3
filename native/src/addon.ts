/** The compiled addon, and the shapes of what it takes and gives. */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { CompiledFilters, Filters } from './filters.ts';
import { NativeError } from './native-error.ts';

export interface ReaderOptions {
  /** bpf/build/tidegate.bpf.o */
  objectFile: string;
  /** Name of this node, in every batch. */
  node: string;
  /** This run of the sensor, in every batch. */
  boot: string;
  /** Sequence number of the first event, unless the state file knows a higher one. */
  firstSequence: number;
  /** Small file, written through a memory map: survives SIGKILL. One reader at a time. See readState. */
  stateFile: string;
  /** Folder on a bpffs where links and maps stay while no sensor runs; null: nothing stays. */
  pinDirectory: string | null;
  /** Powers of two, a page at least. */
  lifecycleRingBytes: number;
  dataRingBytes: number;
  /** A batch is sealed before it grows over this. One event whose own ancestry is larger still goes out, alone. */
  batchMaxBytes: number;
  /** A batch is sealed this long after its first event at the latest; setLinger changes it. Loss events wait 2 ms at most. */
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
  /** Of those that root made, how many there are now. */
  containersUndescribed: number;
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
  /** Connections of which the kernel could not remember who accepted them: told when they end, in the name of the listener's owner. */
  untrackedAccepts: number;
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

export interface AddonStart extends Pinning {
  hooks: HookReport[];
}

export interface AddonReader {
  start(filters: CompiledFilters): AddonStart;
  setFilters(filters: CompiledFilters): void;
  counters(): Counters;
  flush(): void;
  setLinger(milliseconds: number): void;
  close(unpin: boolean): Promise<Counters>;
}

export interface Addon {
  NativeReader: new (options: ReaderOptions, onBatch: (batch: NativeBatch) => void) => AddonReader;
  readState(path: string): SensorState | null;
  stormPinned(options: StormOptions): Promise<void>;
  /** Why this process may not make a BPF map; empty: it may. */
  bpfError(): string;
}

/** Path of another build of the addon, such as build/asan/tidegate.node. */
const ADDON_VARIABLE = 'TIDEGATE_NATIVE_ADDON';

const require = createRequire(import.meta.url);

/** @throws {NativeError} NATIVE_ADDON_MISSING */
export function loadAddon(): Addon {
  const path = process.env[ADDON_VARIABLE] ?? fileURLToPath(new URL('../build/tidegate.node', import.meta.url));
  try {
    return require(path) as Addon;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new NativeError('NATIVE_ADDON_MISSING', `cannot load the native addon: ${reason}`, ADDON_VARIABLE, 'a built addon', path, {
      cause,
    });
  }
}
