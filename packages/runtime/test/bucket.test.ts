import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BUCKETS, bytesCodec, jsonCodec, keysDecoder, shapes } from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import { createHost, startNatsServer, testLogger, waitFor, type TestNatsServer } from '@tidegate/testkit';
import { createBuckets, malformedEntries, type BucketEntry, type Buckets } from '../src/bucket.ts';
import { hasErrorCode, type ErrorCode } from '../src/errors.ts';
import { createMetrics } from '../src/metrics.ts';
import { connectNats } from '../src/nats.ts';
import { ensureBuckets } from '../src/stream-setup.ts';

interface Thing {
  name: string;
  sizes: number[];
}

const thingCodec = jsonCodec(shapes.object<Thing>({ name: shapes.text, sizes: shapes.list(shapes.count) }));
const thing = (name: string, ...sizes: number[]): Thing => ({ name, sizes });

interface Scene {
  server: TestNatsServer;
  nc: NatsConnection;
  buckets: Buckets;
  /** Writes past the codec. */
  putRaw(key: string, value: string): Promise<void>;
  malformed(): Promise<number>;
  signal: AbortSignal;
  [Symbol.asyncDispose](): Promise<void>;
}

async function setScene(version: 'new' | 'debian' = 'new'): Promise<Scene> {
  const host = createHost();
  const server = await startNatsServer({
    version,
    users: [
      { user: 'test', password: 'test', permissions: { publish: { allow: ['>'] }, subscribe: { allow: ['>'] } } },
      { user: 'reader', password: 'test', permissions: { publish: { allow: ['$JS.>'] }, subscribe: { allow: ['>'] } } },
    ],
  });
  host.defer(() => server.stop());
  const nc = await connectNats({ url: server.url, name: 'test', user: 'test', password: 'test', logger: testLogger() });
  host.defer(() => nc.close());
  await ensureBuckets(nc, [BUCKETS.sensors]);
  const metrics = createMetrics('test');
  const buckets = await createBuckets({ nc, logger: testLogger(), malformed: malformedEntries(metrics) });
  host.defer(async () => buckets.close());
  const abort = new AbortController();
  host.defer(async () => abort.abort());
  return {
    server,
    nc,
    buckets,
    putRaw: async (key, value) => void (await nc.request(`$KV.${BUCKETS.sensors.name}.${key}`, value)),
    malformed: async () => {
      const [value] = (await metrics.registry.getSingleMetric('tidegate_test_malformed_entries_total')!.get()).values;
      return value?.value ?? 0;
    },
    signal: abort.signal,
    [Symbol.asyncDispose]: () => host[Symbol.asyncDispose](),
  };
}

const withCode = (code: ErrorCode) => (error: unknown) => hasErrorCode(error, code);

for (const version of ['new', 'debian'] as const) {
  test(`values are read as written, moved by compare-and-set, and made once (${version} server)`, async () => {
    await using scene = await setScene(version);
    const things = scene.buckets.open(BUCKETS.sensors, thingCodec);
    assert.deepEqual(await things.get('a.b'), { key: 'a.b', value: undefined, revision: 0, writtenAtMs: 0 });

    const revision = await things.create('a.b', thing('first', 1));
    await assert.rejects(things.create('a.b', thing('second')), withCode('BUCKET_CONFLICT'));
    const entry = await things.get('a.b');
    assert.deepEqual([entry.value, entry.revision], [thing('first', 1), revision]);
    assert.ok(Math.abs(entry.writtenAtMs - Date.now()) < 60_000, `written at ${entry.writtenAtMs}`);

    const next = await things.update('a.b', thing('next'), revision);
    await assert.rejects(things.update('a.b', thing('late'), revision), withCode('BUCKET_CONFLICT'));
    await assert.rejects(things.delete('a.b', revision), withCode('BUCKET_CONFLICT'));
    await assert.rejects(things.update('other', thing('late'), 7), withCode('BUCKET_CONFLICT'));
    await things.delete('a.b', next);
    assert.equal((await things.get('a.b')).value, undefined);
    // Where one was deleted there is none.
    await things.create('a.b', thing('again'));
    assert.deepEqual((await things.get('a.b')).value, thing('again'));
    await things.purge('a.b');
    assert.equal((await things.get('a.b')).revision, 0);
  });

  test(`of many that create an entry at once, one does (${version} server)`, async () => {
    await using scene = await setScene(version);
    const things = scene.buckets.open(BUCKETS.sensors, thingCodec);
    const tries = await Promise.allSettled(Array.from({ length: 50 }, (_, i) => things.create('settings', thing(`try ${i}`))));
    assert.equal(tries.filter(({ status }) => status === 'fulfilled').length, 1);
    const winner = tries.findIndex(({ status }) => status === 'fulfilled');
    assert.equal((await things.get('settings')).value?.name, `try ${winner}`);
  });
}

test('a malformed entry is skipped, counted once for each revision, and put right by the next write', async () => {
  await using scene = await setScene();
  const things = scene.buckets.open(BUCKETS.sensors, thingCodec);
  await things.put('good', thing('good', 1, 2));
  await scene.putRaw('empty', '{}');
  await scene.putRaw('text', 'not JSON');
  await scene.putRaw('list', '[1]');
  await scene.putRaw('wrong', '{"name":7,"sizes":[1,-2,"x"]}');
  for (let i = 0; i < 3; i++) assert.deepEqual([...(await things.snapshot()).keys()], ['good']);
  assert.equal(await scene.malformed(), 4);

  const seen: BucketEntry<Thing>[] = [];
  await things.watch({ signal: scene.signal, onChange: entry => seen.push(entry) });
  assert.deepEqual(
    seen.map(({ key }) => key),
    ['good'],
  );
  const { value, revision } = await things.get('wrong');
  assert.equal(value, undefined);
  assert.equal(await scene.malformed(), 4);
  await scene.putRaw('empty', '{} ');
  await things.update('wrong', thing('right'), revision);
  await things.create('text', thing('made'));
  await waitFor(() => seen.length === 3 && seen, { what: 'the two that were put right' });
  assert.equal(await scene.malformed(), 5);
  assert.deepEqual([...(await things.snapshot()).keys()].sort(), ['good', 'text', 'wrong']);
});

test('every fault of a value is told with its path', () => {
  assert.throws(() => thingCodec.decode(Buffer.from('{"name":7,"sizes":[1,-2,"x"]}')), {
    message: 'name: expected text, got 7; sizes[1]: expected a whole number, got -2; sizes[2]: expected a whole number, got "x"',
  });
  assert.throws(() => thingCodec.decode(Buffer.from('null')), { message: 'the value: expected an object, got null' });
});

test('a watch goes on behind its last change over a restart of the server, and again from a revision', async () => {
  await using scene = await setScene();
  const things = scene.buckets.open(BUCKETS.sensors, thingCodec);
  await things.put('a', thing('a'));
  await things.put('b', thing('b'));
  await things.delete('b');
  const seen: BucketEntry<Thing>[] = [];
  const told = () => seen.map(({ key, value }) => `${key}=${value?.name ?? ''}`);
  await things.watch({ signal: scene.signal, onChange: entry => seen.push(entry) });
  assert.deepEqual(told(), ['a=a', 'b=']);
  await scene.server.kill();
  await scene.server.restart();
  await waitFor(() => things.put('c', thing('c')), { what: 'the server to take a write' });
  await waitFor(() => seen.at(-1)?.key === 'c' && seen, { what: 'the change after the restart' });
  assert.deepEqual(told(), ['a=a', 'b=', 'c=c']);

  const resumed: string[] = [];
  await things.watch({ signal: scene.signal, after: seen[1]!.revision, onChange: ({ key }) => resumed.push(key) });
  assert.deepEqual(resumed, ['c']);
  // A bucket that was made anew has not come that far.
  const anew: string[] = [];
  await things.watch({ signal: scene.signal, after: 1_000, onChange: ({ key }) => anew.push(key) });
  assert.deepEqual(anew.sort(), ['a', 'b', 'c']);
});

test('keys alone, filtered keys, and bytes as they are', async () => {
  await using scene = await setScene();
  const bytes = scene.buckets.open(BUCKETS.sensors, bytesCodec);
  await bytes.put('cursor.n1', Buffer.from([0, 255]));
  await bytes.put('member.e1', Buffer.from('x'));
  assert.deepEqual([...((await bytes.get('cursor.n1')).value ?? [])], [0, 255]);
  const keys = scene.buckets.open(BUCKETS.sensors, keysDecoder);
  assert.deepEqual([...(await keys.snapshot('cursor.*')).keys()], ['cursor.n1']);
  assert.deepEqual([...(await keys.snapshot()).keys()].sort(), ['cursor.n1', 'member.e1']);
});

test('what cannot be done says why', async () => {
  await using scene = await setScene();
  const things = scene.buckets.open(BUCKETS.sensors, thingCodec);
  for (const key of ['', '.a', 'a..b', 'a b', 'a.*', '>', 'ä']) {
    await assert.rejects(things.put(key, thing('x')), withCode('INVALID_ARGUMENT'), key);
    await assert.rejects(things.get(key), withCode('INVALID_ARGUMENT'), key);
  }
  const nowhere = scene.buckets.open(BUCKETS.pods, bytesCodec);
  assert.equal((await nowhere.snapshot()).size, 0, 'a bucket that does not exist has no entries');
  await assert.rejects(nowhere.put('a', Buffer.from('x')), withCode('STREAM_UNAVAILABLE'));
  await assert.rejects(nowhere.get('a'), withCode('STREAM_UNAVAILABLE'));

  const nc = await connectNats({ url: scene.server.url, name: 'reader', user: 'reader', password: 'test', logger: testLogger() });
  try {
    const buckets = await createBuckets({ nc, logger: testLogger() });
    const denied = buckets.open(BUCKETS.sensors, thingCodec);
    await assert.rejects(denied.put('a', thing('x')), withCode('PUBLISH_DENIED'));
    buckets.close();
    await assert.rejects(denied.put('a', thing('x')), withCode('STREAM_UNAVAILABLE'));
  } finally {
    await nc.close();
  }
});
