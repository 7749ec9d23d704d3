/**
 * Walks an encoded EventBatch without decoding it: where each entry stands, and the few numbers that routing needs.
 * Everything here works on untrusted bytes: a fault is a thrown BatchError, never an out-of-range read.
 */

/** Field numbers of EventBatch, Event, Process, Container and Pod that are read without decoding. */
export const BatchField = {
  node: 1,
  boot: 2,
  batch: 3,
  wallOffsetNs: 4,
  recorded: 5,
  containers: 6,
  processes: 7,
  pods: 8,
  destinations: 9,
  events: 10,
  cluster: 11,
} as const;

const WIRE_VARINT = 0;
const WIRE_FIXED64 = 1;
const WIRE_LENGTH = 2;
const WIRE_FIXED32 = 5;

/** An encoded batch that is not one. */
export class BatchError extends Error {
  readonly code = 'BATCH_MALFORMED';
  readonly offset: number;
  constructor(message: string, offset: number) {
    super(`${message} at byte ${offset}`);
    this.name = 'BatchError';
    this.offset = offset;
  }
}

/** Reads protobuf wire format forward. One instance is used again and again: no object per field. */
export class WireCursor {
  readonly bytes: Uint8Array;
  offset: number;
  end: number;

  constructor(bytes: Uint8Array, offset = 0, end = bytes.length) {
    this.bytes = bytes;
    this.offset = offset;
    this.end = end;
  }

  /** An unsigned varint as a number; above 2^53 it is not exact. */
  varint(): number {
    const { bytes, end } = this;
    let offset = this.offset;
    if (offset >= end) throw new BatchError('message ends inside a field', offset);
    let byte = bytes[offset++]!;
    if (byte < 0x80) {
      this.offset = offset;
      return byte;
    }
    let value = byte & 0x7f;
    let scale = 128;
    for (let i = 1; i < 10; i++) {
      if (offset >= end) throw new BatchError('message ends inside a varint', offset);
      byte = bytes[offset++]!;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        this.offset = offset;
        return value;
      }
      scale *= 128;
    }
    throw new BatchError('varint longer than 10 bytes', offset);
  }

  /** Length of a length-delimited field whose tag was just read; checked against the end. */
  length(): number {
    const length = this.varint();
    if (length > this.end - this.offset)
      throw new BatchError(`field of ${length} bytes, but ${this.end - this.offset} are left`, this.offset);
    return length;
  }

  skip(wireType: number): void {
    switch (wireType) {
      case WIRE_VARINT:
        this.varint();
        return;
      case WIRE_FIXED64:
        this.advance(8);
        return;
      case WIRE_LENGTH:
        this.advance(this.length());
        return;
      case WIRE_FIXED32:
        this.advance(4);
        return;
      default:
        throw new BatchError(`unknown wire type ${wireType}`, this.offset);
    }
  }

  advance(count: number): void {
    if (count > this.end - this.offset) throw new BatchError('message ends inside a field', this.offset);
    this.offset += count;
  }
}

/** Called for each top-level field. `start` is where its tag begins, `body` where its value does (after a length), `end` is past it. */
export type FieldVisitor = (field: number, wireType: number, start: number, body: number, end: number) => void;

/** Visits the top-level fields of an encoded message in order. */
export function walkFields(bytes: Uint8Array, visit: FieldVisitor): void {
  const cursor = new WireCursor(bytes);
  while (cursor.offset < cursor.end) {
    const start = cursor.offset;
    const tag = cursor.varint();
    const wireType = tag & 7;
    let body = cursor.offset;
    if (wireType === WIRE_LENGTH) {
      const length = cursor.length();
      body = cursor.offset;
      cursor.offset += length;
    } else cursor.skip(wireType);
    visit(Math.floor(tag / 8), wireType, start, body, cursor.offset);
  }
}

/**
 * The first `into.length` fields of a message, when they are the varint fields 1, 2, 3… in order, as encoders of Event, Process and
 * Container write them; a field that is not there (its value is 0) is 0.
 */
export function leadingNumbers(cursor: WireCursor, body: number, end: number, into: Float64Array | Uint32Array): void {
  into.fill(0);
  cursor.offset = body;
  const outerEnd = cursor.end;
  cursor.end = end;
  try {
    while (cursor.offset < end) {
      const byte = cursor.bytes[cursor.offset]!;
      const field = byte >> 3;
      if ((byte & 7) !== WIRE_VARINT || byte >= 0x80 || field > into.length) break;
      cursor.offset++;
      into[field - 1] = cursor.varint();
    }
  } finally {
    cursor.end = outerEnd;
  }
}
