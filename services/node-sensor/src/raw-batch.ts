import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import {
  BatchField,
  EventField,
  Kind,
  RawHeader,
  WireCursor,
  encodeBatch,
  formatSequences,
  leadingNumbers,
  rawMessageId,
  rawSubject,
  walkFields,
  type Loss,
} from '@tidegate/contracts';
import type { PublishMessage } from '@tidegate/runtime';

/** As the reader compresses. */
const COMPRESSION = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

/** A batch on its way to RAW. */
export interface RawBatch {
  boot: string;
  batch: number;
  events: number;
  /** The node's numbers it accounts for, both included. */
  firstSequence: number;
  lastSequence: number;
  encoding: 'none' | 'zstd';
  payload: Buffer;
}

/** The batch as a message of the node's subject. */
export function rawMessage(node: string, batch: RawBatch): PublishMessage {
  return {
    subject: rawSubject(node),
    payload: batch.payload,
    messageId: rawMessageId(node, batch.boot, batch.batch),
    headers: {
      [RawHeader.sequences]: formatSequences(batch.firstSequence, batch.lastSequence),
      [RawHeader.events]: String(batch.events),
      ...(batch.encoding === 'zstd' && { [RawHeader.encoding]: 'zstd' }),
    },
  };
}

/** The same batch, not compressed. */
export function plainBatch(batch: RawBatch): RawBatch {
  return batch.encoding === 'none' ? batch : { ...batch, encoding: 'none', payload: zstdDecompressSync(batch.payload) };
}

/** The batch with this in place of what it holds, compressed if it was: not compressed it may be several times as large as a message can be. */
export function repacked(batch: RawBatch, payload: Uint8Array): RawBatch {
  const plain = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
  return { ...batch, payload: batch.encoding === 'zstd' ? zstdCompressSync(plain, COMPRESSION) : plain };
}

/**
 * The batch with loss events without a number of their own added, which is to append: encoded messages that follow one another are one
 * message. Losses right before its first number widen its range.
 */
export function withLosses(batch: RawBatch, losses: readonly Loss[]): RawBatch {
  if (losses.length === 0) return batch;
  const { payload } = plainBatch(batch);
  const added = encodeBatch({ events: losses.map(loss => ({ kind: Kind.KIND_LOSS, loss })) });
  let firstSequence = batch.firstSequence;
  for (const loss of losses.toReversed()) if (loss.lastSequence === firstSequence - 1) firstSequence = loss.firstSequence ?? firstSequence;
  return { ...repacked(batch, Buffer.concat([payload, added])), firstSequence, events: batch.events + losses.length };
}

/** How many events of each kind the batch holds; throws BatchError when it is none. */
export function countKinds(batch: RawBatch): Record<number, number> {
  const { payload } = plainBatch(batch);
  const cursor = new WireCursor(payload);
  const numbers = new Float64Array(EventField.kind + 1);
  const byKind: Record<number, number> = {};
  walkFields(payload, (field, _wireType, _start, body, end) => {
    if (field !== BatchField.events) return;
    leadingNumbers(cursor, body, end, numbers);
    const kind = numbers[EventField.kind]!;
    byKind[kind] = (byKind[kind] ?? 0) + 1;
  });
  return byKind;
}
