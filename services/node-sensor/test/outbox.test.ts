import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { STREAMS } from '@tidegate/contracts';
import { connectNats, createPublisher, ensureStreams, hasErrorCode } from '@tidegate/runtime';
import { createHost, startNatsServer, testLogger, waitFor, type Host, type TestNatsOptions, type TestNatsServer } from '@tidegate/testkit';
import { createOutbox, type Outbox } from '../src/outbox.ts';
import { readRawTail } from '../src/raw-tail.ts';
import { auditRaw } from './audit.ts';
import { NODE, makeBatches } from './batches.ts';

const MIB = 1024 * 1024;
const logger = testLogger();
const needsRoot = process.getuid?.() === 0 ? false : 'a disk whose power is cut is mounted, which needs root';

async function startRaw(options?: TestNatsOptions) {
  const server = await startNatsServer(options);
  const nc = await connect(server);
  await ensureStreams(nc, [{ ...STREAMS.raw, maxBytes: 256 * MIB }]);
  return {
    server,
    nc,
    [Symbol.asyncDispose]: async () => {
      await nc.close();
      await server.stop();
    },
  };
}

function connect(server: TestNatsServer) {
  return connectNats({ url: server.url, name: 'test', logger });
}

function openOutbox(folder: string, spoolMaxBytes = 64 * MIB, keptMaxBytes = 16 * MIB): Outbox {
  return createOutbox({
    node: NODE,
    spoolFolder: join(folder, 'spool'),
    spoolMaxBytes,
    keptMaxBytes,
    acknowledgedFile: join(folder, 'acknowledged'),
    logger,
  });
}

/** Connects an outbox as a sensor does. */
async function attach(host: Host, outbox: Outbox, server: TestNatsServer): Promise<void> {
  const nc = await connect(server);
  host.defer(() => nc.close());
  const open = async () => {
    const publisher = createPublisher(nc, {
      stream: 'RAW',
      windowBytes: MIB,
      logger,
      own: { lastStoredMessageId: async () => (await readRawTail(nc, NODE))?.messageId, onSetBack: () => void open() },
    });
    outbox.open(publisher, (await readRawTail(nc, NODE))?.lastSequence, 0);
  };
  await open();
}

/** Pushes as a reader does: not all in one go. */
async function push(outbox: Outbox, batches: Iterable<Parameters<Outbox['push']>[0]>): Promise<void> {
  let count = 0;
  for (const batch of batches) {
    outbox.push(batch);
    if (++count % 50 === 0) await new Promise(setImmediate);
  }
}

test('batches go straight to RAW, and nothing touches the disk', async () => {
  await using host = createHost();
  await using raw = await startRaw();
  const outbox = openOutbox(host.folder());
  await attach(host, outbox, raw.server);
  outbox.push([...makeBatches(1)][0]!);
  await waitFor(() => outbox.acknowledged === 10, { what: 'the ack' });
  assert.equal(outbox.spool.appended, 0);
  await outbox.close({ drainTimeoutMs: 5_000 });
  assert.equal((await auditRaw(raw.nc, NODE)).last, 10);
});

test('what came before NATS was there is published in order, and then what comes', async () => {
  await using host = createHost();
  await using raw = await startRaw();
  const outbox = openOutbox(host.folder());
  await push(outbox, makeBatches(1_000, { padding: 300 }));
  await attach(host, outbox, raw.server);
  await push(outbox, makeBatches(200, { first: 10_001, batch: 1_001 }));
  await waitFor(() => !outbox.stats.spooling && outbox.acknowledged === 12_000, { what: 'the spool to empty' });
  assert.equal(outbox.spool.bytes, 0);
  await outbox.close({ drainTimeoutMs: 5_000 });
  const audit = await auditRaw(raw.nc, NODE);
  assert.equal(audit.present.size, 12_000);
  assert.deepEqual(audit.lost, {});
});

test('nats-server killed and restarted in between: every number once, in order', async () => {
  await using host = createHost();
  await using raw = await startRaw();
  const outbox = openOutbox(host.folder());
  await attach(host, outbox, raw.server);
  await push(outbox, makeBatches(1_000, { padding: 100 }));
  const killed = raw.server.kill();
  await push(outbox, makeBatches(1_000, { first: 10_001, batch: 1_001, padding: 100 }));
  await killed;
  await push(outbox, makeBatches(1_000, { first: 20_001, batch: 2_001, padding: 100 }));
  assert.ok(outbox.spool.batches > 0, 'batches are on disk while the server is away');
  await raw.server.restart();
  await push(outbox, makeBatches(1_000, { first: 30_001, batch: 3_001, padding: 100 }));
  await waitFor(() => outbox.acknowledged === 40_000, { what: 'everything to be stored' });
  await outbox.close({ drainTimeoutMs: 5_000 });
  assert.equal((await auditRaw(raw.nc, NODE)).present.size, 40_000);
});

/** A nats-server on a disk of its own that has written the streams down, and how its power is cut. */
async function startOnDisk(host: Host) {
  const disk = host.disk();
  const raw = await startRaw({ storeDir: disk.folder });
  host.defer(() => raw[Symbol.asyncDispose]());
  return {
    ...raw,
    disk,
    async failPower() {
      await raw.server.kill();
      disk.cutPower();
    },
  };
}

for (const comesFirst of ['the server is back', 'more has been pushed'] as const) {
  test(
    `NATS loses power with what it had acknowledged, and ${comesFirst}: it is sent again, every number once, in order`,
    { skip: needsRoot },
    async () => {
      await using host = createHost();
      const raw = await startOnDisk(host);
      const outbox = openOutbox(host.folder());
      await attach(host, outbox, raw.server);
      await push(outbox, makeBatches(100, { padding: 100 }));
      await waitFor(() => outbox.acknowledged === 1_000, { what: 'the first acks' });
      raw.disk.sync();
      await push(outbox, makeBatches(200, { first: 1_001, batch: 101, padding: 100 }));
      await waitFor(() => outbox.acknowledged === 3_000, { what: 'the acks' });
      await raw.failPower();
      if (comesFirst === 'more has been pushed') await push(outbox, makeBatches(100, { first: 3_001, batch: 301, padding: 100 }));
      await raw.server.restart();
      if (comesFirst === 'the server is back') await waitFor(() => outbox.acknowledged < 3_000, { what: 'the loss to be noticed' });
      await push(outbox, makeBatches(100, { first: comesFirst === 'the server is back' ? 3_001 : 4_001, batch: 401, padding: 100 }));
      const last = comesFirst === 'the server is back' ? 4_000 : 5_000;
      await waitFor(() => outbox.acknowledged === last, { what: 'everything to be stored' });
      await outbox.close({ drainTimeoutMs: 5_000 });
      const audit = await auditRaw(raw.nc, NODE);
      assert.equal(audit.present.size, last);
      assert.deepEqual(audit.lost, {});
    },
  );
}

test('what NATS loses and the sensor keeps no more is covered by a loss event, exactly', { skip: needsRoot }, async () => {
  await using host = createHost();
  const raw = await startOnDisk(host);
  const outbox = openOutbox(host.folder(), 64 * MIB, 0);
  await attach(host, outbox, raw.server);
  await push(outbox, makeBatches(100));
  await waitFor(() => outbox.acknowledged === 1_000, { what: 'the first acks' });
  raw.disk.sync();
  await push(outbox, makeBatches(200, { first: 1_001, batch: 101 }));
  await waitFor(() => outbox.acknowledged === 3_000, { what: 'the acks' });
  await raw.failPower();
  await raw.server.restart();
  await waitFor(() => outbox.acknowledged < 3_000, { what: 'the loss to be noticed' });
  await push(outbox, makeBatches(10, { first: 3_001, batch: 301 }));
  await waitFor(() => outbox.acknowledged === 3_100, { what: 'everything to be stored' });
  await outbox.close({ drainTimeoutMs: 5_000 });
  const audit = await auditRaw(raw.nc, NODE);
  assert.ok(audit.present.size < 3_100, 'the disk had not everything');
  assert.deepEqual(audit.lost, { nats_lost: 3_100 - audit.present.size });
  assert.deepEqual(outbox.stats.lost, audit.lost);
});

test('closed while NATS is away: the next run publishes it, first of all', async () => {
  await using host = createHost();
  await using raw = await startRaw();
  const folder = host.folder();
  const first = openOutbox(folder);
  await attach(host, first, raw.server);
  await push(first, makeBatches(100));
  await raw.server.kill();
  await push(first, makeBatches(300, { first: 1_001, batch: 101 }));
  await first.close({ drainTimeoutMs: 5_000 });
  await raw.server.restart();
  const second = openOutbox(folder);
  assert.equal(second.lastSpooled, 4_000);
  await push(second, makeBatches(10, { first: 4_001, batch: 401 }));
  await attach(host, second, raw.server);
  await waitFor(() => second.acknowledged === 4_100, { what: 'everything to be stored' });
  await second.close({ drainTimeoutMs: 5_000 });
  const audit = await auditRaw(raw.nc, NODE);
  assert.equal(audit.present.size, 4_100);
  assert.deepEqual(audit.lost, {});
});

test('batches in the memory of a killed process are covered by a loss event, exactly', async () => {
  await using host = createHost();
  await using raw = await startRaw();
  const folder = host.folder();
  const killed = openOutbox(folder);
  await attach(host, killed, raw.server);
  await push(killed, makeBatches(10));
  await waitFor(() => killed.acknowledged === 100, { what: 'the acks' });
  // 101 to 150 were given out and never arrived here; 151 to 160 are on disk.
  const offline = openOutbox(folder);
  offline.push([...makeBatches(1, { first: 151, batch: 16 })][0]!);
  // 161 to 199 were in memory too.
  const restarted = openOutbox(folder);
  restarted.push([...makeBatches(1, { first: 200, batch: 20 })][0]!);
  await attach(host, restarted, raw.server);
  await waitFor(() => restarted.acknowledged === 209, { what: 'everything to be stored' });
  const audit = await auditRaw(raw.nc, NODE);
  assert.deepEqual(audit.lost, { sensor_restart: 50 + 39 });
  assert.deepEqual(restarted.stats.lost, { sensor_restart: 89 });
  for (const outbox of [killed, offline, restarted]) await outbox.close({ drainTimeoutMs: 5_000 });
});

test('a sensor whose acks were lost does not publish twice, even when the stream forgot the ids', async () => {
  await using host = createHost();
  await using raw = await startRaw();
  const folder = host.folder();
  const first = openOutbox(folder);
  await attach(host, first, raw.server);
  await push(first, makeBatches(10));
  await waitFor(() => first.acknowledged === 100, { what: 'the acks' });
  await first.close({ drainTimeoutMs: 5_000 });
  rmSync(join(folder, 'acknowledged'));
  const second = openOutbox(folder);
  await push(
    second,
    [...makeBatches(12)].map(batch => ({ ...batch, boot: 'other' })), // other ids: only the numbers tell
  );
  await attach(host, second, raw.server);
  await waitFor(() => second.acknowledged === 120, { what: 'the rest to be stored' });
  await second.close({ drainTimeoutMs: 5_000 });
  assert.equal((await auditRaw(raw.nc, NODE)).present.size, 120);
});

test('a spool that was full: what was thinned and what was dropped is covered, exactly', async () => {
  await using host = createHost();
  await using raw = await startRaw();
  const outbox = openOutbox(host.folder(), MIB);
  const count = 12_000;
  await push(outbox, makeBatches(count, { size: 3 }));
  assert.ok(outbox.spool.thinnedEvents > 0);
  assert.ok(outbox.spool.droppedBatches > 0);
  await attach(host, outbox, raw.server);
  await waitFor(() => outbox.acknowledged === 3 * count, { what: 'everything to be stored' });
  await outbox.close({ drainTimeoutMs: 5_000 });
  const audit = await auditRaw(raw.nc, NODE);
  assert.deepEqual(Object.keys(audit.lost), ['spool_full']);
  assert.equal(audit.present.size + audit.lost['spool_full']!, 3 * count);
});

test('a batch the server can never take is covered by a loss event in a later one', async () => {
  await using host = createHost();
  await using raw = await startRaw({ config: { max_payload: 64 * 1024 } });
  const outbox = openOutbox(host.folder());
  await attach(host, outbox, raw.server);
  const [small, large, next, last] = [
    ...makeBatches(1),
    ...makeBatches(1, { first: 11, batch: 2, padding: 10_000 }),
    ...makeBatches(1, { first: 21, batch: 3 }),
    ...makeBatches(1, { first: 31, batch: 4 }),
  ];
  for (const batch of [small!, large!]) outbox.push(batch);
  await waitFor(() => outbox.stats.lost['rejected'] === 10, { what: 'the refusal' });
  for (const batch of [next!, last!]) outbox.push(batch);
  await waitFor(() => outbox.acknowledged === 40, { what: 'the rest to be stored' });
  await outbox.close({ drainTimeoutMs: 5_000 });
  assert.deepEqual((await auditRaw(raw.nc, NODE)).lost, { rejected: 10 });
});

test('a compressed batch that is larger than a message takes a loss event along', async () => {
  await using host = createHost();
  await using raw = await startRaw({ config: { max_payload: 64 * 1024 } });
  const outbox = openOutbox(host.folder());
  await attach(host, outbox, raw.server);
  const [first, behindGap] = [...makeBatches(1), ...makeBatches(1, { first: 21, batch: 3, padding: 20_000, encoding: 'zstd' })];
  for (const batch of [first!, behindGap!]) outbox.push(batch);
  await waitFor(() => outbox.acknowledged === 30, { what: 'both to be stored' });
  await outbox.close({ drainTimeoutMs: 5_000 });
  assert.deepEqual((await auditRaw(raw.nc, NODE)).lost, { sensor_restart: 10 });
});

test('a node without messages in RAW has no tail, and a stream that is not there is an error', async () => {
  await using host = createHost();
  await using server = await startNatsServer();
  const nc = await connect(server);
  host.defer(() => nc.close());
  await assert.rejects(readRawTail(nc, NODE));
  await ensureStreams(nc, [{ ...STREAMS.raw, maxBytes: MIB }]);
  assert.equal(await readRawTail(nc, NODE), undefined);
  nc.publish(`tidegate.raw.${NODE}`, 'foreign');
  await nc.flush();
  await assert.rejects(readRawTail(nc, NODE), error => hasErrorCode(error, 'INVALID_ARGUMENT'));
});
