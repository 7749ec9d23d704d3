/** The compiled addon, and the shape of what it exports. */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { CompiledFilters } from './filters.ts';
import type { Counters, HookReport, NativeBatch, Pinning, ReaderOptions, SensorState, StormOptions } from './index.ts';
import { NativeError } from './native-error.ts';

export interface AddonStart extends Pinning {
  hooks: HookReport[];
}

export interface AddonReader {
  start(filters: CompiledFilters): AddonStart;
  setFilters(filters: CompiledFilters): void;
  counters(): Counters;
  flush(): void;
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
