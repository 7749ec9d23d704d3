/**
 * One batch as the spool keeps it: magic, CRC-32, length of the head, length of the payload (each u32, little-endian), the head as JSON,
 * the payload. The checksum covers all that follows it.
 */
import { crc32 } from 'node:zlib';
import type { RawBatch } from './raw-batch.ts';

const MAGIC = 0x50534754; // "TGSP"
export const PREFIX_BYTES = 16;
/** A head is some 120 bytes; a payload 1 MiB and one event at most. */
const MAX_HEAD_BYTES = 4_096;
const MAX_PAYLOAD_BYTES = 16 * 1024 * 1024;

/** All of a batch but its payload. */
export type BatchHead = Omit<RawBatch, 'payload'>;

export interface EntryPrefix {
  crc: number;
  headBytes: number;
  payloadBytes: number;
  /** Of the whole entry. */
  bytes: number;
}

export function encodeEntry({ payload, ...head }: RawBatch): Buffer {
  const headText = Buffer.from(JSON.stringify(head));
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix.writeUInt32LE(MAGIC, 0);
  prefix.writeUInt32LE(headText.length, 8);
  prefix.writeUInt32LE(payload.length, 12);
  prefix.writeUInt32LE(crc32(payload, crc32(headText, crc32(prefix.subarray(8)))), 4);
  return Buffer.concat([prefix, headText, payload]);
}

/** undefined: not the beginning of an entry. */
export function decodePrefix(bytes: Buffer): EntryPrefix | undefined {
  if (bytes.length < PREFIX_BYTES || bytes.readUInt32LE(0) !== MAGIC) return undefined;
  const headBytes = bytes.readUInt32LE(8);
  const payloadBytes = bytes.readUInt32LE(12);
  if (headBytes > MAX_HEAD_BYTES || payloadBytes > MAX_PAYLOAD_BYTES) return undefined;
  return { crc: bytes.readUInt32LE(4), headBytes, payloadBytes, bytes: PREFIX_BYTES + headBytes + payloadBytes };
}

/** undefined: not what a sensor writes. */
export function decodeHead(text: Buffer): BatchHead | undefined {
  try {
    const head = JSON.parse(text.toString()) as BatchHead;
    return Number.isSafeInteger(head.firstSequence) && Number.isSafeInteger(head.lastSequence) ? head : undefined;
  } catch {
    return undefined;
  }
}

/** The batch of a whole entry; undefined when its checksum is wrong. */
export function decodeEntry(bytes: Buffer, { crc, headBytes }: EntryPrefix): RawBatch | undefined {
  if (crc32(bytes.subarray(8)) !== crc) return undefined;
  const head = decodeHead(bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + headBytes));
  return head && { ...head, payload: bytes.subarray(PREFIX_BYTES + headBytes) };
}
