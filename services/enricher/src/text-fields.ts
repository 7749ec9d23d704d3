/** Text fields of an encoded message, read without decoding it. */
import { fieldOf, WireCursor, WireType, wireTypeOf } from '@tidegate/contracts';

/**
 * The text fields with these numbers, '' for those that are not there.
 * @param end default: the whole of `bytes`
 * @throws {BatchError} when the bytes are no message
 */
export function textFields(bytes: Uint8Array, fields: readonly number[], offset = 0, end = bytes.length): string[] {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = fields.map(() => '');
  const cursor = new WireCursor(bytes, offset, end);
  while (cursor.offset < cursor.end) {
    const tag = cursor.varint();
    if (wireTypeOf(tag) !== WireType.length) {
      cursor.skip(wireTypeOf(tag));
      continue;
    }
    const length = cursor.length();
    const wanted = fields.indexOf(fieldOf(tag));
    if (wanted >= 0) found[wanted] = text.toString('utf8', cursor.offset, cursor.offset + length);
    cursor.offset += length;
  }
  return found;
}
