import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { rmSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { BUCKETS, rawSubject, STREAMS } from '@tidegate/contracts';
import { createHost, waitFor, type TestDisk } from '@tidegate/testkit';
import { assertEnriched, batchesOf } from './node-batches.ts';
import { setStage, type Stage } from './stage.ts';

const skip = process.getuid?.() === 0 ? false : 'a disk whose power is cut is mounted, which needs root';
const NODE = 'node-1';
const WRITTEN = 20;
const ALL = 40;

/** Which of the streams had been written to the disk when the power failed, beyond what had been before, and who goes on. */
const CASES: readonly (readonly [written: readonly string[], survivor: 'the same enricher' | 'another enricher'])[] = [
  [[], 'the same enricher'],
  [[`KV_${BUCKETS.enrichers.name}`], 'another enricher'],
  [[STREAMS.raw.name, `KV_${BUCKETS.enrichers.name}`], 'the same enricher'],
  [[STREAMS.raw.name, STREAMS.events.name], 'another enricher'],
];

/** Sends again what RAW does not hold, as the sensor does that has kept it. */
async function sendAgain({ manager, storeBatches }: Stage): Promise<number> {
  const last = await manager.streams.getMessage(STREAMS.raw.name, { last_by_subj: rawSubject(NODE) });
  const stored = Number(last?.header.get('Nats-Msg-Id').split(':').at(-1) ?? 0);
  await storeBatches(NODE, batchesOf(NODE, stored + 1, ALL));
  return stored;
}

function syncStream({ folder }: TestDisk, stream: string): void {
  execFileSync('find', [join(folder, 'jetstream/$G/streams', stream), '-exec', 'sync', '{}', '+']);
}

for (const [written, survivor] of CASES) {
  const title = written.length === 0 ? 'with all that was new' : `that had written ${written.join(' and ')} alone`;
  test(`NATS loses power ${title}: ${survivor} stores every event, once and in order`, { skip }, async () => {
    await using host = createHost();
    const disk = host.disk();
    await using stage = await setStage({ storeDir: disk.folder });
    await stage.announceNode(NODE);
    const enricher = await stage.enricher('a');
    await stage.storeBatches(NODE, batchesOf(NODE, 1, WRITTEN));
    await stage.enriched([NODE]);
    disk.sync();
    await stage.storeBatches(NODE, batchesOf(NODE, WRITTEN + 1, ALL));
    await stage.enriched([NODE]);
    for (const stream of written) syncStream(disk, stream);

    if (survivor === 'another enricher') await enricher.close();
    await stage.server.kill();
    disk.cutPower();
    await stage.server.restart();
    const stored = await waitFor(() => sendAgain(stage), { what: 'RAW to answer' });
    assert.equal(stored, written.includes(STREAMS.raw.name) ? ALL : WRITTEN, 'what the disk had of RAW');
    if (survivor === 'another enricher') await stage.enricher('b');
    await waitFor(async () => ((await stage.audit()).get(NODE)?.sequences.length ?? 0) >= ALL * 50, { what: 'all events' });
    await assertEnriched(stage, [NODE], ALL);
  });
}

test('a file of EVENTS loses its second half: what is not there any more is enriched again', async () => {
  await using host = createHost();
  const storeDir = host.folder();
  await using stage = await setStage({ storeDir });
  await stage.announceNode(NODE);
  await stage.enricher('a');
  await stage.storeBatches(NODE, batchesOf(NODE, 1, ALL));
  await stage.enriched([NODE]);
  const { state: before } = await stage.manager.streams.info(STREAMS.events.name);
  await stage.server.kill();
  const folder = join(storeDir, 'jetstream/$G/streams', STREAMS.events.name, 'msgs');
  const file = join(folder, '1.blk');
  truncateSync(file, statSync(file).size >> 1);
  // As after a power failure: with what the server noted of the file's messages it would not read the file.
  rmSync(join(folder, 'index.db'), { force: true });
  await stage.server.restart();
  const isStoredAgain = async () => {
    const { state } = await stage.manager.streams.info(STREAMS.events.name);
    return state.messages === before.messages && Date.parse(state.last_ts) > Date.parse(before.last_ts);
  };
  await waitFor(isStoredAgain, { what: 'what was damaged to be stored again' });
  await stage.storeBatches(NODE, batchesOf(NODE, ALL + 1, ALL + 10));
  await waitFor(async () => (await stage.audit()).get(NODE)?.sequences.includes((ALL + 10) * 50) === true, { what: 'the last event' });
  await assertEnriched(stage, [NODE], ALL + 10);
});
