/**
 * Makes a key-value bucket hold what it should, from level not edge: a touched key is looked up when its turn comes, so that any number of changes
 * in between cost one write, and a failed write is simply tried again. What is gone lingers in the bucket for a while, then gets a delete
 * marker for those who follow the bucket, and the marker goes too, since otherwise every pod that ever lived would leave one.
 */
import type { Bucket, Logger } from '@tidegate/runtime';

/** What a bucket should hold. */
export interface BucketContents {
  get(key: string): Uint8Array | undefined;
  keys(): Iterable<string>;
}

export interface BucketWriterOptions {
  bucket: Bucket<Uint8Array>;
  contents: BucketContents;
  /** Keys of the bucket that are the contents' own; default: all. */
  filter?: string;
  /** How long what is gone stays, and then its delete marker. */
  lingerMs: number;
  /** What has to be done before an entry goes; it stays until that has worked. */
  beforeDelete?: (key: string) => Promise<unknown>;
  logger: Logger;
}

export interface BucketWriter {
  /** This key may have changed. Nothing happens before start(). */
  touch(key: string): void;
  /** Compares the whole bucket with what it should hold, and keeps it so from then on. Called again, it compares anew. */
  start(): void;
  /** Writes nothing any more, until start(). */
  stop(): void;
  readonly stats: Readonly<BucketWriterStats>;
}

export interface BucketWriterStats {
  /** Compared with the contents since start(). */
  isReconciled: boolean;
  /** Keys to be written or being written. */
  pending: number;
  lingering: number;
  written: number;
  deleted: number;
  failed: number;
  reconciled: number;
}

const WRITES_AT_ONCE = 128;
const RETRY_MS = 500;
const SWEEP_MS = 500;
/** Above it the oldest go at once: 100 deleted pods a second for half an hour. */
const LINGERING_MAX = 200_000;

export function createBucketWriter({ bucket, contents, filter, lingerMs, beforeDelete, logger }: BucketWriterOptions): BucketWriter {
  const stats = { isReconciled: false, written: 0, deleted: 0, failed: 0, reconciled: 0 };
  /** What the bucket holds, as far as known. */
  const held = new Set<string>();
  const dirty = new Set<string>();
  const inFlight = new Set<string>();
  /** Gone keys, and delete markers, each with the time at which it goes; in that order. */
  const lingering = new Map<string, number>();
  const markers = new Map<string, number>();
  /** Counts starts and stops: work of an earlier run writes nothing. */
  let run = 0;
  let isRunning = false;
  let isPaused = false;
  let sweeper: NodeJS.Timeout | undefined;

  /** What a write has failed with; everything pauses before it is tried again. */
  const onFailure = (error: unknown) => {
    stats.failed++;
    if (isPaused || !isRunning) return;
    isPaused = true;
    logger.warn({ bucket: bucket.name, err: error }, 'bucket could not be written, trying again');
    setTimeout(() => {
      isPaused = false;
      pump();
    }, RETRY_MS).unref();
  };

  const settle = async (key: string, work: Promise<unknown>, onDone: () => void, onRefused: () => void): Promise<void> => {
    const ownRun = run;
    inFlight.add(key);
    try {
      await work;
      if (ownRun === run) onDone();
    } catch (error) {
      if (ownRun === run) {
        onRefused();
        onFailure(error);
      }
    }
    inFlight.delete(key);
    pump();
  };

  const write = (key: string) => {
    const value = contents.get(key);
    if (value !== undefined) {
      lingering.delete(key);
      markers.delete(key);
      const onStored = () => {
        held.add(key);
        stats.written++;
      };
      void settle(key, bucket.put(key, value), onStored, () => dirty.add(key));
    } else if (held.has(key) && !lingering.has(key)) {
      lingering.set(key, performance.now() + lingerMs);
      // The next sweep takes the oldest.
      if (lingering.size > LINGERING_MAX) lingering.set(lingering.keys().next().value!, 0);
    }
  };

  const removeEntry = (key: string, dueMs: number) => {
    lingering.delete(key);
    const onDeleted = () => {
      held.delete(key);
      markers.set(key, performance.now() + lingerMs);
      stats.deleted++;
    };
    const remove = async () => {
      await beforeDelete?.(key);
      await bucket.delete(key);
    };
    void settle(key, remove(), onDeleted, () => lingering.set(key, dueMs));
  };

  const removeMarker = (key: string, dueMs: number) => {
    markers.delete(key);
    void settle(
      key,
      bucket.purge(key),
      () => undefined,
      () => markers.set(key, dueMs),
    );
  };

  const pump = () => {
    if (!isRunning || !stats.isReconciled || isPaused || inFlight.size >= WRITES_AT_ONCE) return;
    for (const key of dirty) {
      if (inFlight.has(key)) continue;
      dirty.delete(key);
      write(key);
      if (inFlight.size >= WRITES_AT_ONCE) return;
    }
  };

  const sweep = () => {
    const nowMs = performance.now();
    for (const [due, remove] of [
      [lingering, removeEntry],
      [markers, removeMarker],
    ] as const) {
      for (const [key, dueMs] of due) {
        if (!stats.isReconciled || isPaused || dueMs > nowMs || inFlight.size >= WRITES_AT_ONCE) break;
        if (!inFlight.has(key) && !dirty.has(key)) remove(key, dueMs);
      }
    }
  };

  const reconcile = async (ownRun: number): Promise<void> => {
    const found = new Set<string>();
    const dueMs = performance.now() + lingerMs;
    for await (const { key, value } of bucket.entries(filter)) {
      if (ownRun !== run) return;
      if (value === undefined) markers.set(key, dueMs);
      else {
        found.add(key);
        const wanted = contents.get(key);
        if (wanted === undefined || Buffer.compare(wanted, value) !== 0) dirty.add(key);
      }
    }
    if (ownRun !== run) return;
    held.clear();
    for (const key of found) held.add(key);
    for (const key of contents.keys()) if (!found.has(key)) dirty.add(key);
    stats.isReconciled = true;
    stats.reconciled++;
    logger.info({ bucket: bucket.name, keys: found.size, differing: dirty.size }, 'bucket compared with the cluster');
    pump();
  };

  const begin = async (ownRun: number): Promise<void> => {
    try {
      await reconcile(ownRun);
    } catch (error) {
      if (ownRun !== run) return;
      stats.failed++;
      logger.warn({ bucket: bucket.name, err: error }, 'bucket could not be read, trying again');
      setTimeout(() => {
        if (ownRun === run) void begin(ownRun);
      }, RETRY_MS).unref();
    }
  };

  const stop = () => {
    run++;
    isRunning = false;
    stats.isReconciled = false;
    clearInterval(sweeper);
    for (const keys of [dirty, lingering, markers, held]) keys.clear();
  };

  return {
    touch(key) {
      if (!isRunning) return;
      dirty.add(key);
      pump();
    },
    start() {
      stop();
      isRunning = true;
      sweeper = setInterval(sweep, SWEEP_MS).unref();
      void begin(run);
    },
    stop,
    stats: {
      get isReconciled() {
        return stats.isReconciled;
      },
      get pending() {
        return dirty.size + inFlight.size;
      },
      get lingering() {
        return lingering.size;
      },
      get written() {
        return stats.written;
      },
      get deleted() {
        return stats.deleted;
      },
      get failed() {
        return stats.failed;
      },
      get reconciled() {
        return stats.reconciled;
      },
    },
  };
}
