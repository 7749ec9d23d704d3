import { MAX_CONSUMERS, type BucketDefinition, type StreamDefinition } from '@tidegate/contracts';
import {
  DiscardPolicy,
  JetStreamApiError,
  RetentionPolicy,
  StorageType,
  StoreCompression,
  jetstreamManager,
  type JetStreamManager,
  type StreamConfig,
} from '@nats-io/jetstream';
import { errors, nanos, type NatsConnection } from '@nats-io/nats-core';
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { TidegateError } from './errors.ts';
import { serverAtLeast } from './nats.ts';

export interface SetupOptions {
  /** Copies kept in a NATS cluster. */
  replicas?: number;
}

/** A settings object of ours: every field of it is compared with what the server keeps. */
type WantedConfig = Partial<StreamConfig> & { name: string };

/** JetStream error codes: "stream not found", "stream name already in use with a different configuration". */
const STREAM_NOT_FOUND = 10059;
const STREAM_NAME_IN_USE = 10058;

/** A cluster that starts elects its leaders first, some 10 s at most, and answers nothing until then. */
const PATIENCE_MS = 60_000;
const RETRY_MS = 500;
/** JetStream error codes of a cluster that is not whole yet: no suitable peers, temporarily unavailable, insufficient resources, stream offline. */
const NOT_READY: ReadonlySet<number> = new Set([10005, 10008, 10023, 10118]);

/** Oldest server that compresses a stream's store; 2.9 drops the option in silence. */
const COMPRESSION_SINCE = '2.10.0';

/** Creates the streams, or updates those that differ, as soon as the server, or the cluster of servers, is able to. Throws STREAM_MISMATCH when the server keeps something else than was asked. */
export async function ensureStreams(
  nc: NatsConnection,
  definitions: readonly StreamDefinition[],
  { replicas = 1 }: SetupOptions = {},
): Promise<void> {
  const manager = await jetstreamManager(nc, { checkAPI: false });
  for (const definition of definitions) {
    await ensure(manager, {
      name: definition.name,
      subjects: [...definition.subjects],
      description: definition.description,
      retention: RetentionPolicy.Limits,
      storage: StorageType.File,
      discard: DiscardPolicy.Old,
      max_bytes: definition.maxBytes,
      max_age: nanos(definition.maxAgeMs),
      duplicate_window: nanos(definition.duplicateWindowMs),
      allow_direct: definition.allowDirect,
      num_replicas: replicas,
      max_consumers: MAX_CONSUMERS,
      ...(serverAtLeast(nc, COMPRESSION_SINCE) && { compression: definition.compress ? StoreCompression.S2 : StoreCompression.None }),
    });
  }
}

/** The same for key-value buckets, laid out as every NATS client expects them (ADR-8). */
export async function ensureBuckets(
  nc: NatsConnection,
  definitions: readonly BucketDefinition[],
  { replicas = 1 }: SetupOptions = {},
): Promise<void> {
  const manager = await jetstreamManager(nc, { checkAPI: false });
  for (const definition of definitions) {
    await ensure(manager, {
      name: bucketStream(definition.name),
      subjects: [`${bucketPrefix(definition.name)}>`],
      description: definition.description,
      retention: RetentionPolicy.Limits,
      storage: definition.storage === 'file' ? StorageType.File : StorageType.Memory,
      discard: DiscardPolicy.New,
      max_msgs_per_subject: 1,
      max_age: nanos(definition.ttlMs),
      allow_rollup_hdrs: true,
      deny_delete: true,
      allow_direct: true,
      num_replicas: replicas,
      max_consumers: MAX_CONSUMERS,
    });
  }
}

/** Stream behind a bucket. */
export function bucketStream(bucket: string): string {
  return `KV_${bucket}`;
}

/** What precedes a key in the subject of its messages; ends in a dot. */
export function bucketPrefix(bucket: string): string {
  return `$KV.${bucket}.`;
}

async function ensure(manager: JetStreamManager, wanted: WantedConfig): Promise<void> {
  const untilMs = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await ensureNow(manager, wanted);
    } catch (error) {
      if (!willPass(error) || performance.now() > untilMs) throw error;
    }
    await delay(RETRY_MS);
  }
}

/** Whether the servers are only not ready yet. */
function willPass(error: unknown): boolean {
  const reason = error instanceof TidegateError ? error.cause : error;
  if (reason instanceof JetStreamApiError) return NOT_READY.has(reason.code);
  return reason instanceof errors.TimeoutError;
}

async function ensureNow(manager: JetStreamManager, wanted: WantedConfig): Promise<void> {
  let kept = await currentConfig(manager, wanted.name);
  if (kept === undefined) {
    try {
      kept = (await manager.streams.add(wanted)).config;
    } catch (error) {
      // Someone else made it in between.
      if (!(error instanceof JetStreamApiError) || error.code !== STREAM_NAME_IN_USE) throw setupError(wanted, error);
      kept = await currentConfig(manager, wanted.name);
    }
  }
  if (kept === undefined || differences(wanted, kept).length > 0) {
    try {
      kept = (await manager.streams.update(wanted.name, wanted)).config;
    } catch (error) {
      throw setupError(wanted, error);
    }
  }
  const faults = differences(wanted, kept);
  if (faults.length > 0)
    throw new TidegateError('STREAM_MISMATCH', `the server keeps stream ${wanted.name} otherwise than asked: ${faults.join('; ')}`);
}

async function currentConfig(manager: JetStreamManager, name: string): Promise<StreamConfig | undefined> {
  try {
    return (await manager.streams.info(name)).config;
  } catch (error) {
    if (error instanceof JetStreamApiError && error.code === STREAM_NOT_FOUND) return undefined;
    throw error;
  }
}

function differences(wanted: WantedConfig, kept: StreamConfig): string[] {
  return Object.entries(wanted)
    .filter(([field, value]) => !isDeepStrictEqual(value, serverValue(kept, field)))
    .map(([field, value]) => `${field}: expected ${JSON.stringify(value)}, got ${JSON.stringify(serverValue(kept, field))}`);
}

/** Servers leave out of their answer what is false or empty. */
function serverValue(kept: StreamConfig, field: string): unknown {
  const value = kept[field as keyof StreamConfig];
  if (value !== undefined) return value;
  return { compression: StoreCompression.None, max_age: 0, allow_direct: false, description: '' }[field];
}

function setupError(wanted: WantedConfig, cause: unknown): TidegateError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new TidegateError('STREAM_MISMATCH', `cannot create or update stream ${wanted.name}: ${reason}`, { field: wanted.name, cause });
}
