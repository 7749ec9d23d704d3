/** Turns a captured batch into one that says it is recorded, without decoding its events. */
import { zstdDecompressSync } from 'node:zlib';
import {
  RawHeader,
  decodeBatch,
  encodeBatch,
  parseSequences,
  rawMessageId,
  rawSubject,
  recordedNode,
  type Exact64,
} from '@tidegate/contracts';
import { TidegateError, type PublishMessage } from '@tidegate/runtime';
import type { CaptureEntry } from './capture-file.ts';

/** A batch is 1 MiB at most when a sensor seals it; this much is never one. */
const MAX_BATCH_BYTES = 64 * 1024 * 1024;

export interface RecordedBatch {
  /** As recorded. */
  node: string;
  wallOffsetNs: Exact64;
  storedAtMs: number;
  events: number;
  sequences: string;
  /** Not compressed. */
  payload: Buffer;
}

/**
 * @throws {TidegateError} CAPTURE_CORRUPT
 */
export function readRecordedBatch(entry: CaptureEntry): RecordedBatch {
  const fault = (field: string, expected: string, got: string, cause?: unknown) =>
    new TidegateError('CAPTURE_CORRUPT', `an entry of ${entry.time} is no batch of RAW`, { field, expected, got, cause });
  const { [RawHeader.sequences]: sequences = '', [RawHeader.events]: events = '', [RawHeader.encoding]: encoding } = entry.headers;
  if (!parseSequences(sequences)) throw fault(RawHeader.sequences, '<first>-<last>', sequences);
  if (!/^\d{1,9}$/.test(events)) throw fault(RawHeader.events, 'a number', events);
  if (encoding !== undefined && encoding !== 'zstd') throw fault(RawHeader.encoding, 'zstd', encoding);
  try {
    const payload = encoding === 'zstd' ? zstdDecompressSync(entry.payload, { maxOutputLength: MAX_BATCH_BYTES }) : entry.payload;
    const { node, wallOffsetNs } = decodeBatch(payload);
    return { node, wallOffsetNs, storedAtMs: Date.parse(entry.time), events: Number(events), sequences, payload };
  } catch (error) {
    throw fault('payload', 'an EventBatch', error instanceof Error ? error.message : String(error), error);
  }
}

/**
 * The message to publish. Of fields that stand twice in a protobuf message the last counts, so the new ones are appended.
 * @param shiftMs added to all times of the batch
 */
export function recordedMessage(
  recorded: RecordedBatch,
  { boot, batch, shiftMs }: { boot: string; batch: number; shiftMs: number },
): PublishMessage {
  const node = recordedNode(recorded.node);
  const wallOffsetNs = BigInt(recorded.wallOffsetNs) + BigInt(Math.round(shiftMs)) * 1_000_000n;
  const header = encodeBatch({ node, boot, batch, wallOffsetNs, recorded: true });
  return {
    subject: rawSubject(node),
    payload: Buffer.concat([recorded.payload, header]),
    messageId: rawMessageId(node, boot, batch),
    headers: { [RawHeader.sequences]: recorded.sequences, [RawHeader.events]: String(recorded.events) },
  };
}
