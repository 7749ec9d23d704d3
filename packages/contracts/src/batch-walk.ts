/**
 * Walks an encoded EventBatch without decoding it: where each entry stands, and the few numbers that routing needs.
 * Everything here works on untrusted bytes: a fault is a thrown BatchError, never an out-of-range read.
 */

/** How a field's value is written: the lower three bits of its tag. Groups, 3 and 4, are not of proto3. */
export const WireType = { varint: 0, fixed64: 1, length: 2, fixed32: 5 } as const;
export type WireType = (typeof WireType)[keyof typeof WireType];
const WIRE_TYPE_BITS = 3;
const WIRE_TYPE_MASK = 7;

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
      case WireType.varint:
        this.varint();
        return;
      case WireType.fixed64:
        this.advance(8);
        return;
      case WireType.length:
        this.advance(this.length());
        return;
      case WireType.fixed32:
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

/** What a field of this number and wire type begins with, as a number: to be written as a varint. */
export function tagOf(field: number, wireType: WireType): number {
  return field * (1 << WIRE_TYPE_BITS) + wireType;
}

/** The field number of a tag. */
export function fieldOf(tag: number): number {
  return Math.floor(tag / (1 << WIRE_TYPE_BITS)); // A hostile tag passes 32 bits.
}

/** The wire type of a tag: perhaps none of WireType. */
export function wireTypeOf(tag: number): number {
  return tag & WIRE_TYPE_MASK;
}

/** Called for each top-level field. `start` is where its tag begins, `body` where its value does (after a length), `end` is past it. */
export type FieldVisitor = (field: number, wireType: number, start: number, body: number, end: number) => void;

/** Visits the top-level fields of an encoded message in order. */
export function walkFields(bytes: Uint8Array, visit: FieldVisitor): void {
  const cursor = new WireCursor(bytes);
  while (cursor.offset < cursor.end) {
    const start = cursor.offset;
    const tag = cursor.varint();
    const wireType = wireTypeOf(tag);
    let body = cursor.offset;
    if (wireType === WireType.length) {
      const length = cursor.length();
      body = cursor.offset;
      cursor.offset += length;
    } else cursor.skip(wireType);
    visit(fieldOf(tag), wireType, start, body, cursor.offset);
  }
}

/**
 * The varint fields that a message begins with, each at its number in `into`: Event, Process and Container begin with those that routing needs. Reads the fields below
 * `into.length`; one that is not there (its value is 0) is 0.
 */
export function leadingNumbers(cursor: WireCursor, body: number, end: number, into: Float64Array | Uint32Array): void {
  into.fill(0);
  cursor.offset = body;
  const outerEnd = cursor.end;
  cursor.end = end;
  try {
    while (cursor.offset < end) {
      const byte = cursor.bytes[cursor.offset]!;
      const field = byte >> WIRE_TYPE_BITS;
      if (wireTypeOf(byte) !== WireType.varint || byte >= 0x80 || field >= into.length) break;
      cursor.offset++;
      into[field] = cursor.varint();
    }
  } finally {
    cursor.end = outerEnd;
  }
}
