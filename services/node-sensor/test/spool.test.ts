import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, statSync, truncateSync, writeFileSync, openSync, writeSync, closeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Kind, LossReason, decodeBatch } from '@tidegate/contracts';
import { createHost, testLogger } from '@tidegate/testkit';
import { openSpool, type Spool, type SpoolOptions } from '../src/spool.ts';
import { makeBatches } from './batches.ts';

const MIB = 1024 * 1024;

interface Dropped {
  firstSequence: number;
  lastSequence: number;
  byKind: Record<number, number>;
}

function open(folder: string, options: Partial<SpoolOptions> = {}): Spool & { dropped: Dropped[] } {
  const dropped: Dropped[] = [];
  const spool = openSpool({
    folder,
    maxBytes: 64 * MIB,
    logger: testLogger(),
    onDrop: ({ firstSequence, lastSequence }, byKind) => dropped.push({ firstSequence, lastSequence, byKind }),
    ...options,
  });
  return Object.assign(spool, { dropped });
}

/** Takes and releases all. */
function drain(spool: Spool) {
  const batches = [];
  for (let taken = spool.take(); taken; taken = spool.take()) {
    batches.push(taken.batch);
    taken.release();
  }
  return batches;
}

test('batches come back in order, also after the process was killed, and leave no file', async () => {
  await using host = createHost();
  const folder = host.folder();
  const batches = [...makeBatches(500, { padding: 40 })];
  // As a killed process does, this one closes nothing.
  const first = open(folder, { maxBytes: MIB * 4 });
  for (const batch of batches) first.append(batch);
  const second = open(folder, { maxBytes: MIB * 4 });
  assert.equal(second.stats.batches, 500);
  assert.equal(second.lastSequence, 5_000);
  assert.deepEqual(drain(second), batches);
  assert.deepEqual(second.stats.bytes, 0);
  assert.deepEqual(readdirSync(folder), []);
});

test('a batch stays on disk until it is released', async () => {
  await using host = createHost();
  const folder = host.folder();
  const spool = open(folder);
  const batches = [...makeBatches(3)];
  for (const batch of batches) spool.append(batch);
  const taken = [spool.take(), spool.take(), spool.take()];
  assert.equal(spool.take(), undefined);
  assert.equal(open(folder).stats.batches, 3, 'who opens it again finds them');
  for (const { release } of taken.map(batch => batch!)) release();
  assert.equal(spool.stats.bytes, 0);
});

test('what is put back comes first', async () => {
  await using host = createHost();
  const spool = open(host.folder());
  const batches = [...makeBatches(6)];
  for (const batch of batches.slice(3)) spool.append(batch);
  spool.prepend(batches.slice(0, 3));
  spool.append([...makeBatches(1, { first: 61, batch: 7 })][0]!);
  assert.deepEqual(
    drain(spool).map(batch => batch.batch),
    [1, 2, 3, 4, 5, 6, 7],
  );
});

test('an entry cut off, flipped bits and foreign bytes cost the entries they hit and no others', async () => {
  await using host = createHost();
  const folder = host.folder();
  const batches = [...makeBatches(3)];
  for (const batch of batches) open(folder).append(batch); // each in a file of its own
  const files = readdirSync(folder).sort();
  assert.equal(files.length, 3);
  truncateSync(join(folder, files[0]!), statSync(join(folder, files[0]!)).size - 1);
  const fd = openSync(join(folder, files[1]!), 'r+');
  writeSync(fd, Buffer.from([0xff]), 0, 1, statSync(join(folder, files[1]!)).size - 5);
  closeSync(fd);
  writeFileSync(join(folder, '9999999999999999.spool'), 'not a spool');
  const spool = open(folder);
  assert.deepEqual(drain(spool), [batches[2]]);
  assert.equal(spool.stats.corruptEntries, 3);
  assert.deepEqual(readdirSync(folder), []);
});

test('a full spool gives up low priority first, oldest first, and counts it in the batch', async () => {
  await using host = createHost();
  const spool = open(host.folder(), { maxBytes: MIB });
  const batches = [...makeBatches(300, { size: 50, padding: 100 })]; // 1.8 MB, of which 1.7 are connections
  for (const batch of batches) spool.append(batch);
  assert.ok(spool.stats.bytes <= MIB);
  assert.deepEqual(spool.dropped, []);
  const kept = drain(spool);
  assert.deepEqual(
    kept.map(batch => batch.batch),
    batches.map(batch => batch.batch),
  );
  const isThin = kept.map(batch => batch.events === 2);
  assert.equal(isThin[0], true);
  assert.equal(isThin.at(-1), false);
  assert.equal(isThin.lastIndexOf(true), isThin.indexOf(false) - 1, 'the older are thinned, the newer whole');
  const [exec, loss] = decodeBatch(kept[0]!.payload).events;
  assert.equal(exec?.kind, Kind.KIND_EXEC);
  assert.equal(loss?.loss?.reason, LossReason.LOSS_REASON_SPOOL_FULL);
  assert.deepEqual({ ...loss?.loss?.byKind }, { [Kind.KIND_CONNECT]: 49 });
  assert.equal(spool.stats.thinnedEvents, isThin.filter(Boolean).length * 49);
});

test('when all is thinned, the oldest batches go whole', async () => {
  await using host = createHost();
  const spool = open(host.folder(), { maxBytes: MIB });
  const count = 12_000; // 160 bytes each when thinned
  for (const batch of makeBatches(count, { size: 2 })) spool.append(batch);
  assert.ok(spool.stats.bytes <= MIB);
  const kept = drain(spool);
  assert.ok(spool.dropped.length > 0);
  assert.equal(spool.dropped.length + kept.length, count);
  assert.equal(spool.dropped.at(-1)!.lastSequence + 1, kept[0]!.firstSequence);
  assert.equal(kept.at(-1)!.lastSequence, 2 * count);
});

test('a full disk is a full spool', async t => {
  if (process.getuid?.() !== 0) return t.skip('mounting a small tmpfs needs root');
  await using host = createHost();
  const folder = host.folder();
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder]);
  host.defer(() => void execFileSync('umount', [folder]));
  const spool = open(folder, { maxBytes: 64 * MIB });
  host.defer(() => spool.close());
  const count = 12_000;
  for (const batch of makeBatches(count, { size: 2, padding: 20 })) spool.append(batch);
  assert.ok(spool.stats.thinnedEvents > 0);
  assert.ok(spool.dropped.length > 0);
  const kept = drain(spool);
  assert.equal(spool.dropped.length + kept.length, count);
  assert.equal(spool.stats.corruptEntries, 0);
  assert.equal(kept.at(-1)!.lastSequence, 2 * count);
});
