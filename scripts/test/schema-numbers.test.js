import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import '../../packages/contracts/dist/protobuf-numbers.js';
import { tidegate } from '../../packages/contracts/generated/events.js';
import * as generated from '../../packages/contracts/generated/numbers.js';
import { declarationsOf, headerOf, moduleOf, numbersOf } from '../../packages/contracts/generate.js';

const CONTRACTS = new URL('../../packages/contracts/', import.meta.url);
const textOf = path => readFileSync(new URL(path, CONTRACTS), 'utf8');
const LENGTH_DELIMITED = 2;
const SCHEMA = textOf('proto/tidegate/v1/events.proto');

test('what is generated is of the schema as it stands', () => {
  const numbers = numbersOf(SCHEMA);
  assert.equal(textOf('generated/numbers.js'), moduleOf(numbers));
  assert.equal(textOf('generated/numbers.d.ts'), declarationsOf(numbers));
  assert.equal(textOf('generated/numbers.h'), headerOf(numbers));
});

test('codecs read each field where its generated number says', () => {
  const messages = Object.entries(tidegate.v1).filter(([, codec]) => typeof codec === 'function');
  assert.ok(messages.length > 10);
  for (const [name, codec] of messages) {
    for (const [field, number] of Object.entries(generated[`${name}Field`])) {
      // One of the two wire types is the field's, and its value is not the default of any type.
      const asNumber = [...varint(number << 3), 1];
      const asBytes = [...varint((number << 3) | LENGTH_DELIMITED), 2, 1 << 3, 1];
      const set = [asNumber, asBytes].flatMap(bytes => changedKeys(codec, Uint8Array.from(bytes)));
      assert.deepEqual(set, [field], `${name}, field ${number}`);
    }
  }
});

test('a detail whose number is not that of its kind is refused, each with what was expected', () => {
  const moved = SCHEMA.replace('Exit exit = 12;', 'Exit exit = 40;').replace('Loss loss = 25;', 'Loss loss = 41;');
  assert.notEqual(moved, SCHEMA);
  assert.throws(() => numbersOf(moved), {
    message: /Event\.exit: expected 12 \(10 \+ its kind\), got 40\nEvent\.loss: expected 25 \(10 \+ its kind\), got 41$/,
  });
});

/** Names of the fields that the bytes set. */
function changedKeys(codec, bytes) {
  const [before, after] = [codec.decode(new Uint8Array()), codec.decode(bytes)];
  return Object.keys(after).filter(key => JSON.stringify(before[key]) !== JSON.stringify(after[key]));
}

test('fields 16 to 47 of EventBatch are for tables, whichever version takes one', () => {
  assert.deepEqual([generated.FIRST_TABLE_FIELD, generated.LAST_TABLE_FIELD], [16, 47]);
  const grown = declaration =>
    SCHEMA.replace('reserved 16 to 47;', `${declaration} = 16;\n  reserved 17 to 47;`) + 'message Hook { uint32 id = 1; string name = 2; }';
  assert.deepEqual(numbersOf(grown('repeated Hook hooks')).tables, [16, 47]);
  for (const declaration of ['Hook hooks', 'repeated Pod hooks', 'string hooks'])
    assert.throws(() => numbersOf(grown(declaration)), /EventBatch\.hooks: expected a repeated message that begins with id = 1/);
});

function varint(value) {
  const bytes = [];
  for (; value >= 0x80; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
  return [...bytes, value];
}
