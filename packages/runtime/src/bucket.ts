/**
 * Key-value buckets, as all of Tidegate reads and writes them; laid out as every NATS client expects them (ADR-8), so `nats kv` shows them too.
 *
 * Whoever may write to a bucket may write anything. An entry that is not what its codec expects is logged and counted, once for each revision, and
 * from then on it is as if it were not there: nobody's request fails because of it, and the next to write the key puts it right.
 */
import type { BucketCodec, BucketDecoder, BucketDefinition } from '@tidegate/contracts';
import { JetStreamApiError } from '@nats-io/jetstream';
import { headers as createHeaders, type MsgHdrs, type NatsConnection } from '@nats-io/nats-core';
import { openAckWindow } from './ack-window.ts';
import { TidegateError } from './errors.ts';
import type { Logger } from './logging.ts';
import type { Counter, Metrics } from './metrics.ts';
import { createStreamReaders, type StreamMessage, type StreamReader } from './stream-reader.ts';
import { bucketPrefix, bucketStream } from './stream-setup.ts';

export interface BucketEntry<Value> {
  key: string;
  /** undefined: there is none; it was deleted, or never there, or it is malformed. */
  value: Value | undefined;
  /** Rises with every write to the bucket. 0: the key was never written. */
  revision: number;
  /** When it was written, as the server's clock has it, milliseconds since 1970. */
  writtenAtMs: number;
}

/** An entry that is there. */
export type PresentEntry<Value> = BucketEntry<Value> & { value: Value };

export interface BucketWatch<Value> {
  /** Keys, with wildcards; default: all. */
  filter?: string;
  /** Revision after which to go on; 0, the default: first all that is there. A bucket that was made anew is read from its start. */
  after?: number;
  /** Called for every change, in order, and for delete markers too; not for what is malformed. */
  onChange: (entry: BucketEntry<Value>) => void;
  /** Called once, when watching ended by itself. Left out, it goes on over any trouble, behind the last change. */
  onTrouble?: (reason: string) => void;
  signal: AbortSignal;
}

/**
 * One kind of value in a bucket. Reads may come from any replica, so they may be a moment old; writes with a revision are exact. All methods
 * reject with STREAM_UNAVAILABLE when NATS does not answer (a write may have been stored all the same) and with INVALID_ARGUMENT for what is
 * no key; those that write with PUBLISH_DENIED or PUBLISH_REJECTED too.
 */
export interface ReadBucket<Value> {
  readonly name: string;
  get(key: string): Promise<BucketEntry<Value>>;
  /** What is there now, with delete markers, in no order. */
  entries(filter?: string): AsyncGenerator<BucketEntry<Value>, void, undefined>;
  /** The values that are there now, by key. A bucket that does not exist has none. */
  snapshot(filter?: string): Promise<Map<string, PresentEntry<Value>>>;
  /** Follows the bucket; resolves when all there was at first has been reported. */
  watch(options: BucketWatch<Value>): Promise<void>;
}

export interface Bucket<Value> extends ReadBucket<Value> {
  /** Writes whatever is there. Returns the revision. */
  put(key: string, value: Value): Promise<number>;
  /** Writes if no value is there: of any number that try, one succeeds. @throws {TidegateError} BUCKET_CONFLICT */
  create(key: string, value: Value): Promise<number>;
  /** Writes if the entry is still at `revision`, as `get` gave it (0: never written). @throws {TidegateError} BUCKET_CONFLICT */
  update(key: string, value: Value, revision: number): Promise<number>;
  /** Leaves a marker for those who watch. @param revision as in update @throws {TidegateError} BUCKET_CONFLICT */
  delete(key: string, revision?: number): Promise<number>;
  /** Removes the key with its marker; nobody is told. */
  purge(key: string): Promise<void>;
}

export interface Buckets {
  open<Value>(definition: BucketDefinition, codec: BucketCodec<Value>): Bucket<Value>;
  open<Value>(definition: BucketDefinition, decoder: BucketDecoder<Value>): ReadBucket<Value>;
  /** Watches and reads end, writes that are on their way reject; the connection stays open. */
  close(): void;
}

export interface BucketsOptions {
  nc: NatsConnection;
  logger: Logger;
  /** Of the component, from malformedEntries(). */
  malformed?: MalformedEntries;
}

export type MalformedEntries = Counter<'bucket'>;

const REQUEST_TIMEOUT_MS = 2_000;
const NO_MESSAGE = 404;
/** JetStream error code. */
const STREAM_NOT_FOUND = 10059;
const OPERATION_HEADER = 'KV-Operation';
const DELETE_OPERATION = 'DEL';
const REVISION_HEADER = 'Nats-Expected-Last-Subject-Sequence';
const ALL_KEYS = '>';
const KEY = /^[\w=/-]+(\.[\w=/-]+)*$/;
/** Malformed entries that are remembered, so that a report that is asked for every second logs each once. */
const MAX_REMEMBERED_FAULTS = 1_000;

/** The metric of createBuckets(); once for each component. */
export function malformedEntries(metrics: Metrics): MalformedEntries {
  return metrics.counter('malformed_entries', 'Entries of KV buckets that could not be read and were skipped', ['bucket']);
}

/** Opens buckets on one connection. */
export async function createBuckets({ nc, logger, malformed }: BucketsOptions): Promise<Buckets> {
  const readers = await createStreamReaders(nc);
  const acks = openAckWindow(nc);
  const faultyRevisions = new Map<string, number>();

  const reportFault = (bucket: string, key: string, revision: number, error: unknown) => {
    const name = `${bucket}/${key}`;
    if (faultyRevisions.get(name) === revision) return;
    faultyRevisions.delete(name);
    faultyRevisions.set(name, revision);
    if (faultyRevisions.size > MAX_REMEMBERED_FAULTS) faultyRevisions.delete(faultyRevisions.keys().next().value!);
    malformed?.inc({ bucket });
    logger.warn({ bucket, key, revision, reason: error instanceof Error ? error.message : String(error) }, 'malformed entry, skipped');
  };

  return {
    open<Value>({ name }: BucketDefinition, codec: BucketDecoder<Value> & Partial<BucketCodec<Value>>): Bucket<Value> {
      const stream = bucketStream(name);
      const prefix = bucketPrefix(name);
      // Without one the bucket is handed out as one to read.
      const encode = (value: Value) => codec.encode!(value);

      /** undefined: malformed. */
      const entryOf = (key: string, revision: number, writtenAtMs: number, header: MsgHdrs | undefined, data: Uint8Array) => {
        if ((header?.get(OPERATION_HEADER) ?? '') !== '') return { key, value: undefined, revision, writtenAtMs };
        try {
          return { key, value: codec.decode(data), revision, writtenAtMs };
        } catch (error) {
          reportFault(name, key, revision, error);
          return undefined;
        }
      };
      const entryOfMessage = ({ subject, headers, data, streamSequence, timeNs }: StreamMessage) =>
        entryOf(subject.slice(prefix.length), streamSequence, timeNs / 1e6, headers, data);

      const openReader = (filter: string, after: number, maxAttempts?: number): StreamReader =>
        readers.open({
          stream,
          start: after > 0 ? { streamSequence: after + 1 } : 'last-per-subject',
          subjects: [prefix + filter],
          headersOnly: codec.keysOnly === true,
          ...(maxAttempts !== undefined && { maxAttempts }),
        });

      const write = async (key: string, payload: Uint8Array | string, expectedRevision?: number, operation?: string): Promise<number> => {
        const header = createHeaders();
        if (operation !== undefined) header.set(OPERATION_HEADER, operation);
        if (expectedRevision !== undefined) header.set(REVISION_HEADER, String(expectedRevision));
        return acks.publish(subjectOf(prefix, key), payload, header);
      };

      const bucket: Bucket<Value> = {
        name,
        async get(key) {
          const subject = subjectOf(prefix, key);
          // The form of a direct get that permissions by subject can tell from others.
          const reply = await nc
            .request(`$JS.API.DIRECT.GET.${stream}.${subject}`, undefined, { timeout: REQUEST_TIMEOUT_MS })
            .catch((error: unknown) => {
              throw unavailable(name, error);
            });
          const { headers } = reply;
          const missing = { key, value: undefined, revision: 0, writtenAtMs: 0 };
          if (headers?.code === NO_MESSAGE) return missing;
          const revision = Number(headers?.get('Nats-Sequence'));
          if (!(revision > 0)) throw unavailable(name, headers?.description);
          const writtenAtMs = Date.parse(headers!.get('Nats-Time-Stamp'));
          return entryOf(key, revision, writtenAtMs, headers, reply.data) ?? { ...missing, revision, writtenAtMs };
        },
        put: (key, value) => write(key, encode(value)),
        async create(key, value) {
          const { value: present, revision } = await bucket.get(key);
          if (present !== undefined) throw new TidegateError('BUCKET_CONFLICT', 'the entry is there already', { field: `${name}/${key}` });
          return write(key, encode(value), revision);
        },
        update: (key, value, revision) => write(key, encode(value), revision),
        delete: (key, revision) => write(key, '', revision, DELETE_OPERATION),
        async purge(key) {
          await readers.manager.streams.purge(stream, { filter: subjectOf(prefix, key) }).catch((error: unknown) => {
            throw unavailable(name, error);
          });
        },
        async *entries(filter = ALL_KEYS) {
          const reader = openReader(filter, 0);
          try {
            for await (const message of reader.read({ follow: false })) {
              const entry = entryOfMessage(message);
              if (entry) yield entry;
            }
          } finally {
            reader.close();
          }
        },
        async snapshot(filter) {
          const present = new Map<string, PresentEntry<Value>>();
          try {
            for await (const { value, ...entry } of bucket.entries(filter)) {
              // A key that changed while it was read comes twice.
              if (value === undefined) present.delete(entry.key);
              else present.set(entry.key, { ...entry, value });
            }
          } catch (error) {
            if (!isMissing(error as Error)) throw error;
          }
          return present;
        },
        async watch({ filter = ALL_KEYS, after = 0, onChange, onTrouble, signal }) {
          const isContinued = after > 0 && (await readers.bounds(stream)).last >= after;
          const reader = openReader(filter, isContinued ? after : 0, onTrouble ? 1 : Infinity);
          if (signal.aborted) reader.close();
          else signal.addEventListener('abort', () => reader.close(), { once: true });
          const report = async (follow: boolean) => {
            for await (const message of reader.read({ follow })) {
              const entry = entryOfMessage(message);
              if (entry) onChange(entry);
            }
          };
          await report(false);
          report(true).catch((error: unknown) => {
            reader.close();
            if (!onTrouble) throw error;
            onTrouble(`reading bucket ${name}: ${error instanceof Error ? error.message : String(error)}`);
          });
        },
      };
      return bucket;
    },
    close() {
      readers.close();
      acks.close();
    },
  };
}

function subjectOf(prefix: string, key: string): string {
  if (!KEY.test(key)) {
    throw new TidegateError('INVALID_ARGUMENT', 'this cannot be a key', { field: 'key', expected: 'tokens with dots between', got: key });
  }
  return prefix + key;
}

function unavailable(bucket: string, cause: unknown): TidegateError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new TidegateError('STREAM_UNAVAILABLE', `bucket ${bucket}: ${reason}`, { field: 'bucket', got: bucket, cause });
}

function isMissing({ cause }: Partial<Error> = {}): boolean {
  return cause instanceof JetStreamApiError && cause.code === STREAM_NOT_FOUND;
}
