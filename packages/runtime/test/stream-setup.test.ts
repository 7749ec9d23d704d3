import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BUCKETS, MAX_CONSUMERS, STREAMS } from '@tidegate/contracts';
import { jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { createHost, startNatsServer, testLogger } from '@tidegate/testkit';
import { hasErrorCode } from '../src/errors.ts';
import { compareVersions, connectNats, serverAtLeast } from '../src/nats.ts';
import { ensureBuckets, ensureStreams } from '../src/stream-setup.ts';

const logger = testLogger();

for (const version of ['new', 'debian'] as const) {
  test(`${version} server: streams and buckets are made, updated, and left alone when right`, async () => {
    await using host = createHost();
    await using server = await startNatsServer({ version });
    const nc = await connectNats({ url: server.url, name: 'test', logger });
    host.defer(() => nc.close());
    const streams = Object.values(STREAMS);
    await Promise.all([ensureStreams(nc, streams), ensureStreams(nc, streams)]);
    await ensureBuckets(nc, Object.values(BUCKETS));
    await ensureBuckets(nc, Object.values(BUCKETS));
    await ensureStreams(nc, [{ ...STREAMS.raw, maxAgeMs: 10 * 60_000 }]);
    const manager = await jetstreamManager(nc);
    const { config } = await manager.streams.info('RAW');
    assert.equal(config.max_age, 600_000_000_000);
    for await (const stream of manager.streams.list()) assert.equal(stream.config.max_consumers, MAX_CONSUMERS, stream.config.name);
    assert.equal((await manager.streams.info('EVENTS')).config.compression, serverAtLeast(nc, '2.10.0') ? 's2' : undefined);

    const bucket = await new Kvm(nc).open(BUCKETS.sensors.name);
    await bucket.put('n1', '{}');
    assert.equal((await bucket.get('n1'))?.string(), '{}');
    await bucket.delete('n1');
    assert.equal((await bucket.get('n1'))?.operation, 'DEL');
  });
}

test('a stream the server cannot give is an error with its reason', async () => {
  await using host = createHost();
  await using server = await startNatsServer({ config: { jetstream: { max_file_store: 1_024 * 1_024 } } });
  const nc = await connectNats({ url: server.url, name: 'test', logger });
  host.defer(() => nc.close());
  await assert.rejects(ensureStreams(nc, [STREAMS.raw]), error => hasErrorCode(error, 'STREAM_MISMATCH') && /storage/.test(error.message));
});

test('versions compare by their numbers', () => {
  assert.ok(compareVersions('2.10.0', '2.9.10') > 0);
  assert.equal(compareVersions('v2.15.2-beta.1', '2.15.2'), 0);
  assert.ok(compareVersions('2.9.10', '2.9.25') < 0);
});
