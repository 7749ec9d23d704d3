/**
 * How protobufjs gives 64-bit integers. Must be imported before the generated messages: their prototypes fix it when they load.
 *
 * Counts (sequence and batch numbers, bytes) are numbers, exact to 2^53, which they never reach. Fields marked [jstype = JS_STRING] in the schema are exact whatever they
 * hold: a number to 2^53, a bigint above. Long objects, or a bigint for each, would cost an allocation where nearly all values are small.
 */
import protobuf from 'protobufjs/minimal.js';

/** A 64-bit integer: a number up to 2^53 - 1, a bigint above. */
export type Exact64 = number | bigint;

/** With what `generate.js` has the exact fields read and written. */
interface ExactReader extends protobuf.Reader {
  uint64Exact(): Exact64;
  int64Exact(): Exact64;
}

interface ExactWriter extends protobuf.Writer {
  uint64Exact(value: Exact64): protobuf.Writer;
  int64Exact(value: Exact64): protobuf.Writer;
}

(protobuf.util as { Long: unknown }).Long = null;
protobuf.configure();

const reader = protobuf.Reader.prototype as ExactReader;
reader.uint64Exact = function () {
  const start = this.pos;
  const value = this.uint64() as unknown as number;
  return value <= Number.MAX_SAFE_INTEGER ? value : BigInt.asUintN(64, varintAt(this.buf, start));
};
reader.int64Exact = function () {
  const start = this.pos;
  const value = this.int64() as unknown as number;
  return Number.isSafeInteger(value) ? value : BigInt.asIntN(64, varintAt(this.buf, start));
};

const writer = protobuf.Writer.prototype as ExactWriter;
writer.uint64Exact = function (value) {
  return this.uint64(wideOf(value));
};
writer.int64Exact = function (value) {
  return this.int64(wideOf(value));
};

/** A varint that was read before, and is so large that it has eight bytes or more. */
function varintAt(bytes: Uint8Array, start: number): bigint {
  let low = 0;
  for (let i = 0; i < 4; i++) low += (bytes[start + i]! & 0x7f) * 128 ** i;
  let high = 0;
  for (let i = 4; i < 10; i++) {
    const byte = bytes[start + i]!;
    high += (byte & 0x7f) * 128 ** (i - 4);
    if (byte < 0x80) break;
  }
  return (BigInt(high) << 28n) | BigInt(low);
}

/** As the writer takes it: halves, where a number would not be exact. */
function wideOf(value: Exact64): number | protobuf.Long {
  if (typeof value === 'number') return value;
  const unsigned = BigInt.asUintN(64, value);
  return { low: Number(unsigned & 0xffff_ffffn), high: Number(unsigned >> 32n), unsigned: true };
}
