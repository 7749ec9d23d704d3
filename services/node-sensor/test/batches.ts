import { zstdCompressSync } from 'node:zlib';
import { Kind, encodeBatch } from '@tidegate/contracts';
import type { RawBatch } from '../src/raw-batch.ts';

export const NODE = 'n1';
export const BOOT = 'boot';

export interface MadeBatches {
  /** Number of the first event. */
  first?: number;
  /** Events in each. */
  size?: number;
  /** Bytes more in each connection. */
  padding?: number;
  /** Number of the first batch. */
  batch?: number;
  encoding?: RawBatch['encoding'];
}

/** Batches that follow one another, each of one exec, then connections. */
export function* makeBatches(count: number, options: MadeBatches = {}): Generator<RawBatch> {
  const { first = 1, size = 10, padding = 0, batch = 1, encoding = 'none' } = options;
  for (let i = 0; i < count; i++) {
    const firstSequence = first + i * size;
    const events = Array.from({ length: size }, (_, n) => ({
      kind: n === 0 ? Kind.KIND_EXEC : Kind.KIND_CONNECT,
      process: 1,
      sequence: firstSequence + n,
      ktimeNs: 1_000 + firstSequence + n,
      ...(n === 0 ? { exec: { rawPath: '/bin/true' } } : { connect: { sourceIp: 'x'.repeat(padding) } }),
    }));
    const plain = Buffer.from(
      encodeBatch({ node: NODE, boot: BOOT, batch: batch + i, processes: [{ id: 1, binary: '/bin/true' }], events }),
    );
    const payload = encoding === 'zstd' ? zstdCompressSync(plain) : plain;
    yield { boot: BOOT, batch: batch + i, events: size, firstSequence, lastSequence: firstSequence + size - 1, encoding, payload };
  }
}
