/**
 * Makes a key-value bucket hold what it should, from level not edge: a touched key is looked up when its turn comes, so that any number of changes
 * in between cost one write, and a failed write is simply tried again. What is gone lingers in the bucket for a while, then gets a delete
 * marker for those who follow the bucket, and the marker goes too, since otherwise every pod that ever lived would leave one.
 */
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { headers, nanos, nuid, type MsgHdrs, type NatsConnection } from '@nats-io/nats-core';
import { bucketPrefix, bucketStream, type Logger } from '@tidegate/runtime';
import { openAckWindow } from './ack-window.ts';

/** What a bucket should hold. */
export interface BucketContents {
  get(key: string): Uint8Array | undefined;
  keys(): Iterable<string>;
}

export interface BucketWriterOptions {
  nc: NatsConnection;
  bucket: string;
  contents: BucketContents;
  /** How long what is gone stays, and then its delete marker. */
  lingerMs: number;
  logger: Logger;
}

export interface BucketWriter {
  readonly bucket: string;
  /** This key may have changed. Nothing happens before start(). */
  touch(key: string): void;
  /** Compares the whole bucket with what it should hold, and keeps it so from then on. Called again, it compares anew. */
  start(): void;
  /** Writes nothing any more, until start(). */
  stop(): void;
  close(): void;
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
const READ_MESSAGES = 1_000;
const READ_TIMEOUT_MS = 5_000;
const READER_THRESHOLD_MS = 30_000;
const OPERATION_HEADER = 'KV-Operation';

export function createBucketWriter({ nc, bucket, contents, lingerMs, logger }: BucketWriterOptions): BucketWriter {
  const js = jetstream(nc);
  const acks = openAckWindow(nc);
  const managing = jetstreamManager(nc, { checkAPI: false });
  const stream = bucketStream(bucket);
  const prefix = bucketPrefix(bucket);
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
    logger.warn({ bucket, err: error }, 'bucket could not be written, trying again');
    setTimeout(() => {
      isPaused = false;
      pump();
    }, RETRY_MS).unref();
  };

  const send = (key: string, value: Uint8Array, header: MsgHdrs | undefined, onStored: () => void, onRefused: () => void) => {
    const ownRun = run;
    inFlight.add(key);
    acks.publish(prefix + key, value, header, error => {
      inFlight.delete(key);
      if (ownRun !== run) return pump();
      if (error) {
        onRefused();
        onFailure(error);
      } else onStored();
      pump();
    });
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
      send(key, value, undefined, onStored, () => dirty.add(key));
    } else if (held.has(key) && !lingering.has(key)) {
      lingering.set(key, performance.now() + lingerMs);
      // The next sweep takes the oldest.
      if (lingering.size > LINGERING_MAX) lingering.set(lingering.keys().next().value!, 0);
    }
  };

  const removeEntry = (key: string, dueMs: number) => {
    lingering.delete(key);
    const marker = headers();
    marker.set(OPERATION_HEADER, 'DEL');
    const onStored = () => {
      held.delete(key);
      markers.set(key, performance.now() + lingerMs);
      stats.deleted++;
    };
    send(key, new Uint8Array(), marker, onStored, () => lingering.set(key, dueMs));
  };

  const removeMarker = async (key: string, dueMs: number): Promise<void> => {
    const ownRun = run;
    markers.delete(key);
    inFlight.add(key);
    try {
      await (await managing).streams.purge(stream, { filter: prefix + key });
    } catch (error) {
      if (ownRun === run) markers.set(key, dueMs);
      onFailure(error);
    } finally {
      inFlight.delete(key);
      pump();
    }
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
        if (!inFlight.has(key) && !dirty.has(key)) void remove(key, dueMs);
      }
    }
  };

  const reconcile = async (ownRun: number): Promise<void> => {
    const manager = await managing;
    const name = `tidegate-gateway-${nuid.next()}`;
    const info = await manager.consumers.add(stream, {
      name,
      filter_subject: `${prefix}>`,
      ack_policy: AckPolicy.None,
      deliver_policy: DeliverPolicy.LastPerSubject,
      inactive_threshold: nanos(READER_THRESHOLD_MS),
      mem_storage: true,
      num_replicas: 1,
    });
    const consumer = await js.consumers.get(stream, name);
    const found = new Set<string>();
    const dueMs = performance.now() + lingerMs;
    try {
      for (let left = info.num_pending; left > 0;) {
        const messages = await consumer.fetch({ max_messages: Math.min(left, READ_MESSAGES), expires: READ_TIMEOUT_MS });
        let received = 0;
        for await (const message of messages) {
          received++;
          if (ownRun !== run) return;
          const key = message.subject.slice(prefix.length);
          if (message.headers?.has(OPERATION_HEADER) === true) markers.set(key, dueMs);
          else {
            found.add(key);
            const wanted = contents.get(key);
            if (wanted === undefined || Buffer.compare(wanted, message.data) !== 0) dirty.add(key);
          }
        }
        if (received === 0) throw new Error(`reading bucket ${bucket} stopped ${left} keys before its end`);
        left -= received;
      }
    } finally {
      await manager.consumers.delete(stream, name).catch(() => undefined);
    }
    if (ownRun !== run) return;
    held.clear();
    for (const key of found) held.add(key);
    for (const key of contents.keys()) if (!found.has(key)) dirty.add(key);
    stats.isReconciled = true;
    stats.reconciled++;
    logger.info({ bucket, keys: found.size, differing: dirty.size }, 'bucket compared with the cluster');
    pump();
  };

  const begin = async (ownRun: number): Promise<void> => {
    try {
      await reconcile(ownRun);
    } catch (error) {
      if (ownRun !== run) return;
      stats.failed++;
      logger.warn({ bucket, err: error }, 'bucket could not be read, trying again');
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
    bucket,
    touch(key) {
      if (!isRunning) return;
      dirty.add(key);
      pump();
    },
    close() {
      stop();
      acks.close();
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
