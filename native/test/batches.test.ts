import { decodeBatch, Kind } from '@tidegate/contracts';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { zstdDecompressSync } from 'node:zlib';
import { createHost, type Host } from '@tidegate/testkit';
import { stormPinned, type NativeBatch, type ReaderOptions } from '../src/index.ts';
import { sequencesAreWhole, skipReason, startSensor, STORM_FILE, type TestSensor } from './sensor.ts';

const STORM_EVENTS = 30_000;
/** They fit: none is lost. */
const RING_BYTES = 1 << 24;
/** Nobody has them, so that of all events on the data ring only the storm's pass. */
const STORM_CGROUP = 0x7000_0001;
const STORM_PID = 0x7000_0001;
const EXEC_UID = 61_201;
/** More than fill a message of the size below. */
const SAME_PATHS = 60;
const RANDOM_PATHS = 200;

describe('batches of a storm', { skip: skipReason() }, () => {
  let host: Host;
  before(() => (host = createHost()));
  after(() => host[Symbol.asyncDispose]());

  /** A storm that one reader has read to its end. */
  async function storm(options: Partial<ReaderOptions>): Promise<TestSensor> {
    const pinDirectory = `${host.bpffs()}/${randomUUID()}`;
    const filters = { allow: { cgroups: [STORM_CGROUP] } };
    const sensor = startSensor({ pinDirectory, dataRingBytes: RING_BYTES, lingerMs: 1_000, filters, ...options });
    try {
      const run = { objectFile: STORM_FILE, pinDirectory, pid: STORM_PID, startKtimeNs: 1n, execGeneration: 1n, cgroupIds: [STORM_CGROUP] };
      await stormPinned({ ...run, events: STORM_EVENTS });
      await sensor.until('the storm', () => stormEvents(sensor) === STORM_EVENTS);
    } finally {
      await sensor.close();
      rmSync(pinDirectory, { recursive: true, force: true });
    }
    return sensor;
  }

  /** Those whose process is in the tables of their batch. */
  function stormEvents({ events }: TestSensor): number {
    return events.filter(({ event, process }) => event.kind === Kind.KIND_CLOSE && process?.pid === STORM_PID).length;
  }

  function assertWhole({ batches }: TestSensor, batchMaxBytes: number): void {
    assert.ok(sequencesAreWhole(batches));
    assert.deepEqual(
      batches.map(batch => decodeBatch(plain(batch)).batch),
      batches.map((_, i) => i + 1),
    );
    assert.ok(Math.max(...batches.map(({ payload }) => payload.length)) <= batchMaxBytes);
  }

  function plain({ encoding, payload }: NativeBatch): Buffer {
    return encoding === 'zstd' ? zstdDecompressSync(payload) : payload;
  }

  function largest({ batches }: TestSensor): number {
    return Math.max(...batches.map(batch => plain(batch).length));
  }

  test('what compresses well fills a message, and none is larger than asked for', async () => {
    const batchMaxBytes = 1 << 16;
    const sensor = await storm({ compression: 'zstd', batchMaxBytes });
    assertWhole(sensor, batchMaxBytes);
    assert.ok(largest(sensor) > 2 * batchMaxBytes);
  });

  test('what compresses badly behind what compressed well is cut, each part with what its events refer to', async () => {
    const batchMaxBytes = 1 << 16;
    const sensor = startSensor({ compression: 'zstd', batchMaxBytes, lingerMs: 60_000, filters: { allow: { uids: [EXEC_UID] } } });
    const same = randomPath(sensor.folder);
    const paths = [
      ...Array.from({ length: SAME_PATHS }, () => same),
      ...Array.from({ length: RANDOM_PATHS }, () => randomPath(sensor.folder)),
    ];
    for (const path of paths) spawnSync(path, [], { argv0: 'true', uid: EXEC_UID });
    await sensor.close();
    assertWhole(sensor, batchMaxBytes);
    const seen = sensor.events.filter(({ process }) => process?.uid === EXEC_UID && process.binary?.endsWith('/true'));
    assert.deepEqual(
      seen.flatMap(({ event }) => event.exec?.rawPath ?? []),
      paths,
    );
    // Parts of one batch have the same tables.
    const tables = sensor.batches.map(batch => JSON.stringify(decodeBatch(plain(batch)).processes));
    assert.ok(tables.some((table, i) => table === tables[i - 1]));
  });

  /** A link to a program by a path that compresses to little less than its length. */
  function randomPath(folder: string): string {
    const names = Array.from({ length: 7 }, () => randomBytes(150).toString('base64url'));
    mkdirSync(join(folder, ...names), { recursive: true });
    const path = join(folder, ...names, 'true');
    symlinkSync('/bin/true', path);
    return path;
  }

  test('what is not compressed is as large as asked for', async () => {
    const batchMaxBytes = 1 << 16;
    const sensor = await storm({ compression: 'none', batchMaxBytes });
    assertWhole(sensor, batchMaxBytes);
  });
});
