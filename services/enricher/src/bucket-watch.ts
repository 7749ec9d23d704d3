/** Follows the keys of a key-value bucket: first all there are, then every change. */
import type { BUCKETS } from '@tidegate/contracts';
import { bucketPrefix, bucketStream } from '@tidegate/runtime';
import type { JetStreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { openStreamReader, type StreamReader } from './stream-reader.ts';

export interface BucketWatchOptions {
  nc: NatsConnection;
  manager: JetStreamManager;
  bucket: (typeof BUCKETS)[keyof typeof BUCKETS]['name'];
  /** Keys, with wildcards. */
  filter: string;
  /** Revision after which to go on; 0: from the present keys on. */
  after?: number;
  /** Values are not needed. */
  keysOnly?: boolean;
  onPut: (key: string, value: Uint8Array, revision: number) => void;
  onDelete: (key: string, revision: number) => void;
  onTrouble: (reason: string) => void;
}

const OPERATION_HEADER = 'KV-Operation';
const WINDOW_BYTES = 4 * 1024 * 1024;

/** Resolves when all keys there were at the start have been reported. */
export async function watchBucket(options: BucketWatchOptions): Promise<StreamReader> {
  const { nc, manager, bucket, filter, after = 0, keysOnly = false, onPut, onDelete, onTrouble } = options;
  const prefix = bucketPrefix(bucket);
  const stream = bucketStream(bucket);
  // A bucket that was made anew counts from 1 again.
  const isContinued = after > 0 && (await manager.streams.info(stream)).state.last_seq >= after;
  const caughtUp = Promise.withResolvers<void>();
  let left = Infinity;
  let received = 0;
  const reader = await openStreamReader({
    nc,
    manager,
    stream,
    filter: prefix + filter,
    from: isContinued ? after + 1 : 'last-per-subject',
    windowBytes: () => WINDOW_BYTES,
    headersOnly: keysOnly,
    onMessage: message => {
      const key = message.subject.slice(prefix.length);
      const operation = message.headers?.get(OPERATION_HEADER) ?? '';
      if (operation === 'DEL' || operation === 'PURGE') onDelete(key, message.streamSequence);
      else onPut(key, message.data, message.streamSequence);
      if (++received >= left || message.pending === 0) caughtUp.resolve();
    },
    onTrouble: reason => {
      caughtUp.reject(new Error(`reading bucket ${bucket}: ${reason}`));
      onTrouble(reason);
    },
  });
  left = reader.pendingAtStart;
  if (received >= left) caughtUp.resolve();
  await caughtUp.promise;
  return reader;
}
