/** Follows the keys of a key-value bucket: first all there are, then every change. */
import type { BUCKETS } from '@tidegate/contracts';
import { bucketPrefix, bucketStream, type StreamMessage, type StreamReaders } from '@tidegate/runtime';

export interface BucketWatchOptions {
  readers: StreamReaders;
  bucket: (typeof BUCKETS)[keyof typeof BUCKETS]['name'];
  /** Keys, with wildcards. */
  filter: string;
  /** Revision after which to go on; 0: from the present keys on. */
  after?: number;
  /** Values are not needed. */
  keysOnly?: boolean;
  onPut: (key: string, value: Uint8Array, revision: number) => void;
  onDelete: (key: string, revision: number) => void;
  /** Called once, when watching ended by itself. */
  onTrouble: (reason: string) => void;
  signal: AbortSignal;
}

const OPERATION_HEADER = 'KV-Operation';

/**
 * Resolves when all keys there were at the start have been reported.
 * @throws {TidegateError} STREAM_UNAVAILABLE
 */
export async function watchBucket(options: BucketWatchOptions): Promise<void> {
  const { readers, bucket, filter, after = 0, keysOnly = false, onPut, onDelete, onTrouble, signal } = options;
  const prefix = bucketPrefix(bucket);
  const stream = bucketStream(bucket);
  // A bucket that was made anew counts from 1 again.
  const isContinued = after > 0 && (await readers.bounds(stream)).last >= after;
  const reader = readers.open({
    stream,
    start: isContinued ? { streamSequence: after + 1 } : 'last-per-subject',
    subjects: [prefix + filter],
    headersOnly: keysOnly,
    maxAttempts: 1,
  });
  if (signal.aborted) reader.close();
  else signal.addEventListener('abort', () => reader.close(), { once: true });
  const report = async (messages: AsyncIterable<StreamMessage>) => {
    for await (const { subject, headers, data, streamSequence } of messages) {
      const key = subject.slice(prefix.length);
      const operation = headers?.get(OPERATION_HEADER) ?? '';
      if (operation === 'DEL' || operation === 'PURGE') onDelete(key, streamSequence);
      else onPut(key, data, streamSequence);
    }
  };
  await report(reader.read({ follow: false }));
  report(reader.read({ follow: true })).catch((error: unknown) => {
    reader.close();
    onTrouble(`reading bucket ${bucket}: ${error instanceof Error ? error.message : String(error)}`);
  });
}
