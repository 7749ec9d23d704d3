/** The edge of the enricher: what came from RAW is checked here once, and trusted from then on. */
import { zstdDecompressSync } from 'node:zlib';
import { BatchError, parseSequences, quoted, RawHeader, rawSubject } from '@tidegate/contracts';
import type { MsgHdrs } from '@nats-io/nats-core';
import type { ErrorMeaning } from '@tidegate/runtime';
import type { BatchIndex } from './batch-index.ts';
import type { Splicer } from './splice.ts';

/** Why a message cannot be enriched. */
export const PoisonReason = {
  headers: 'BAD_HEADERS',
  encoding: 'UNKNOWN_ENCODING',
  compression: 'BAD_COMPRESSION',
  batch: 'BATCH_MALFORMED',
  node: 'WRONG_NODE',
  content: 'HEADERS_DIFFER',
} as const;
export type PoisonReason = (typeof PoisonReason)[keyof typeof PoisonReason];

/** What each reason means, and what to do. docs/errors.md is written from it. */
export const PoisonCatalogue: Record<PoisonReason, ErrorMeaning> = {
  BAD_HEADERS: {
    meaning: 'The headers do not say which sequence numbers the message accounts for.',
    remedy: 'Something other than a sensor published on RAW: see who has the password of a sensor.',
  },
  UNKNOWN_ENCODING: {
    meaning: 'The payload is encoded in a way that this enricher does not know.',
    remedy: 'Update enrichers before sensors.',
  },
  BAD_COMPRESSION: {
    meaning: 'The payload is not zstd, or unpacks to more than a batch can be.',
    remedy: 'As for BATCH_MALFORMED.',
  },
  BATCH_MALFORMED: {
    meaning: 'The payload is no EventBatch.',
    remedy: "Look at the dead letter's detail; from a sensor it is a fault to report, from elsewhere somebody has a sensor's password.",
  },
  WRONG_NODE: {
    meaning: 'The batch names another node than its subject.',
    remedy: "Somebody speaks for a node that is not theirs: change the sensors' passwords.",
  },
  HEADERS_DIFFER: {
    meaning: 'Headers and batch do not say the same of boot, numbers or events.',
    remedy: 'As for BATCH_MALFORMED.',
  },
};

export class PoisonError extends Error {
  readonly code: PoisonReason;
  constructor(code: PoisonReason, message: string) {
    super(message);
    this.name = 'PoisonError';
    this.code = code;
  }
}

/** Numbers first..last, both included. */
export interface SequenceRange {
  first: number;
  last: number;
}

/** It becomes part of message ids. */
const BOOT_PATTERN = /^[\x21-\x7e]{1,128}$/;

/** Twice what a sensor packs into a message of 1 MiB; what unpacks to more was made to fill memory. */
const MAX_DECODED_BYTES = 8 * 1024 * 1024;

/** The sequence numbers a message says it accounts for; undefined when the header is not readable. */
export function sequencesOf(headers: MsgHdrs | undefined): SequenceRange | undefined {
  const text = headers?.get(RawHeader.sequences);
  return text ? parseSequences(text) : undefined;
}

/** The encoded batch, not compressed. @throws {PoisonError} */
export function decodedPayload(headers: MsgHdrs | undefined, data: Uint8Array): Uint8Array {
  const encoding = headers?.get(RawHeader.encoding) ?? '';
  if (encoding === '') return data;
  if (encoding !== 'zstd') {
    throw new PoisonError(PoisonReason.encoding, `header ${RawHeader.encoding}: expected zstd or none, got ${shown(encoding)}`);
  }
  try {
    return zstdDecompressSync(data, { maxOutputLength: MAX_DECODED_BYTES });
  } catch (error) {
    throw new PoisonError(PoisonReason.compression, `payload is not zstd, or larger than ${MAX_DECODED_BYTES} bytes: ${messageOf(error)}`);
  }
}

/**
 * Reads a batch into the splicer and compares it with its headers and its subject.
 * @returns the sequence numbers it accounts for
 * @throws {PoisonError}
 */
export function readBatch(splicer: Splicer, subject: string, headers: MsgHdrs | undefined, payload: Uint8Array): SequenceRange {
  const range = sequencesOf(headers);
  if (!range) {
    const got = headers?.get(RawHeader.sequences);
    throw new PoisonError(PoisonReason.headers, `header ${RawHeader.sequences}: expected first-last, got ${got ? shown(got) : 'nothing'}`);
  }
  const { index } = splicer;
  try {
    splicer.read(payload);
  } catch (error) {
    if (error instanceof BatchError) throw new PoisonError(PoisonReason.batch, error.message);
    throw error;
  }
  if (rawSubject(index.node) !== subject) {
    throw new PoisonError(PoisonReason.node, `field node: expected the node of ${subject}, got ${shown(index.node)}`);
  }
  if (!BOOT_PATTERN.test(index.boot)) {
    throw new PoisonError(PoisonReason.content, `field boot: expected up to 128 printable characters, got ${shown(index.boot)}`);
  }
  const events = headers?.get(RawHeader.events);
  if (events !== String(index.events)) {
    throw new PoisonError(
      PoisonReason.content,
      `header ${RawHeader.events}: expected ${index.events}, got ${events ? shown(events) : 'nothing'}`,
    );
  }
  checkOrder(index, range);
  return range;
}

/** Events carry rising numbers within the range the header gives; events without a number stand anywhere. */
function checkOrder(index: BatchIndex, range: SequenceRange): void {
  let previous = range.first - 1;
  for (let event = 0; event < index.events; event++) {
    const sequence = index.eventSequence[event]!;
    if (sequence === 0) continue;
    if (sequence <= previous || sequence > range.last) {
      throw new PoisonError(
        PoisonReason.content,
        `event ${event}: expected a sequence from ${previous + 1} to ${range.last}, got ${sequence}`,
      );
    }
    previous = sequence;
  }
}

/** Untrusted text for a message: short, and nothing that whoever reads it could act on. */
function shown(text: string): string {
  return quoted(text.slice(0, 64));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
