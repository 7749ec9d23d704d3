import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { createHost } from '@tidegate/testkit';
import { createCapture, openCapture, type CaptureEntry } from '../src/capture-file.ts';
import { captureEntry, sampleBatch } from './sample-batches.ts';

const HEADER = { recordedAt: '2026-01-31T12:00:00.000Z', tidegate: '0.1.0' };

function entries(count: number): CaptureEntry[] {
  return Array.from({ length: count }, (_, i) => captureEntry(sampleBatch('a', 'x', i + 1, i * 10 + 1, 10), new Date(1_000_000 + i)));
}

async function written(file: string, list: readonly CaptureEntry[]): Promise<void> {
  const capture = await createCapture(file, HEADER);
  for (const entry of list) await capture.write(entry, 10);
  await capture.close();
}

async function readAll(file: string): Promise<CaptureEntry[]> {
  const list: CaptureEntry[] = [];
  for await (const entry of (await openCapture(file)).entries) list.push(entry);
  return list;
}

test('what is written is read back, byte for byte', async () => {
  await using host = createHost();
  const file = join(host.folder(), 'a.tgcap');
  const list = [
    ...entries(50),
    { ...entries(1)[0]!, payload: Buffer.alloc(3_000_000, 7) },
    { ...entries(1)[0]!, payload: Buffer.alloc(0) },
  ];
  await written(file, list);
  assert.deepEqual((await openCapture(file)).header, HEADER);
  assert.deepEqual(await readAll(file), list);
  assert.ok(readFileSync(file).subarray(0, 19).equals(Buffer.from('tidegate-capture 1\n')));
});

test('an existing file is not overwritten', async () => {
  await using host = createHost();
  const file = join(host.folder(), 'a.tgcap');
  writeFileSync(file, 'precious');
  await assert.rejects(createCapture(file, HEADER), /EEXIST/);
  assert.equal(readFileSync(file, 'utf8'), 'precious');
});

test('a file cut off anywhere is refused, unless nothing of it is missing', async () => {
  await using host = createHost();
  const folder = host.folder();
  const whole = join(folder, 'whole.tgcap');
  const list = entries(20);
  await written(whole, list);
  const bytes = readFileSync(whole);
  const cut = join(folder, 'cut.tgcap');
  for (let length = 0; length < bytes.length; length += 7) {
    writeFileSync(cut, bytes.subarray(0, length));
    const read = await readAll(cut).catch((error: unknown) => error as { code?: string });
    // Without its last bytes the compressed data may still hold the end entry.
    if (Array.isArray(read)) assert.deepEqual(read, list);
    else assert.equal(read.code, 'CAPTURE_CORRUPT', `${length} of ${bytes.length} bytes`);
    assert.ok(!Array.isArray(read) || length > bytes.length - 40, `${length} of ${bytes.length} bytes`);
  }
});

test('a file with any changed byte is refused or reads the same, and never crashes', async () => {
  await using host = createHost();
  const folder = host.folder();
  const whole = join(folder, 'whole.tgcap');
  const list = entries(5);
  await written(whole, list);
  const bytes = readFileSync(whole);
  const changed = join(folder, 'changed.tgcap');
  let seed = 7;
  for (let round = 0; round < 300; round++) {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    const copy = Buffer.from(bytes);
    copy[seed % copy.length]! ^= 1 << (seed >>> 29);
    writeFileSync(changed, copy);
    try {
      assert.deepEqual(await readAll(changed), list);
    } catch (error) {
      assert.equal((error as { code?: string }).code, 'CAPTURE_CORRUPT', String(error));
    }
  }
});

test('a file of another kind is named as such', async () => {
  await using host = createHost();
  const file = join(host.folder(), 'a.tgcap');
  writeFileSync(file, 'PK\u0003\u0004 something else altogether');
  await assert.rejects(openCapture(file), /first line.*tidegate-capture 1/s);
});
