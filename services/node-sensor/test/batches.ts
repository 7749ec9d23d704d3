import { Kind, encodeBatch } from '@tidegate/contracts';
import type { RawBatch } from '../src/raw-batch.ts';

export const NODE = 'n1';
export const BOOT = 'boot';

/** Batches of `size` events each, numbered from `first` on: one exec, then connections, as many bytes as `padding` more in each. */
export function* makeBatches(count: number, { first = 1, size = 10, padding = 0, batch = 1 } = {}): Generator<RawBatch> {
  for (let i = 0; i < count; i++) {
    const firstSequence = first + i * size;
    const events = Array.from({ length: size }, (_, n) => ({
      kind: n === 0 ? Kind.KIND_EXEC : Kind.KIND_CONNECT,
      process: 1,
      sequence: firstSequence + n,
      ktimeNs: 1_000 + firstSequence + n,
      ...(n === 0 ? { exec: { rawPath: '/bin/true' } } : { connect: { sourceIp: 'x'.repeat(padding) } }),
    }));
    const payload = Buffer.from(
      encodeBatch({ node: NODE, boot: BOOT, batch: batch + i, processes: [{ id: 1, binary: '/bin/true' }], events }),
    );
    yield { boot: BOOT, batch: batch + i, events: size, firstSequence, lastSequence: firstSequence + size - 1, encoding: 'none', payload };
  }
}
