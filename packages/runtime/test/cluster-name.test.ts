import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BUCKETS, CLUSTER_KEY, clusterSettingCodec, isClusterName } from '@tidegate/contracts';
import { createHost, startNatsServer, testLogger } from '@tidegate/testkit';
import { createBuckets } from '../src/bucket.ts';
import { CLUSTER_SETTING, configuredCluster, decideCluster, madeCluster } from '../src/cluster-name.ts';
import { loadConfig } from '../src/config.ts';
import { connectNats } from '../src/nats.ts';
import { ensureBuckets } from '../src/stream-setup.ts';

const CANDIDATES = 20;

test('of many who name the cluster at once one decides, and its name stays', async () => {
  await using host = createHost();
  const server = await startNatsServer();
  host.defer(() => server.stop());
  const nc = await connectNats({ url: server.url, name: 'test', logger: testLogger() });
  host.defer(() => nc.close());
  await ensureBuckets(nc, [BUCKETS.settings]);
  const buckets = await createBuckets({ nc, logger: testLogger() });
  host.defer(() => {
    buckets.close();
  });
  const settings = buckets.open(BUCKETS.settings, clusterSettingCodec);
  const candidate = (i: number) => () => configuredCluster(`candidate-${i}`);
  const decided = await Promise.all(Array.from({ length: CANDIDATES }, (_, i) => decideCluster(settings, candidate(i))));
  const { value, revision } = await settings.get(CLUSTER_KEY);
  assert.equal(revision, 1, 'it was written once');
  for (const each of decided) assert.deepEqual(each, value);
  assert.deepEqual(await decideCluster(settings, madeCluster), value);

  // What cannot be read is as if it were not there.
  await nc.request(`$KV.${BUCKETS.settings.name}.${CLUSTER_KEY}`, '{"name":"a:b","origin":"hand"}');
  assert.deepEqual(await decideCluster(settings, candidate(7)), configuredCluster('candidate-7'));
});

test('names of clusters can stand in an id between colons', () => {
  const uid = '0b5f3c2e-1df0-4a51-9c39-6f7a2d1f8f10';
  for (const name of ['a', 'eu-west_1.prod', uid, 'x'.repeat(100), madeCluster().name]) assert.ok(isClusterName(name), name);
  for (const name of ['', 'a:b', '-a', 'a-', 'a b', 'ä', 'arn:aws:eks:x/y', 'a\n', 'x'.repeat(101)]) assert.ok(!isClusterName(name), name);
  assert.equal(loadConfig(CLUSTER_SETTING, {}).cluster, undefined);
  assert.throws(() => loadConfig(CLUSTER_SETTING, { TIDEGATE_CLUSTER: 'a:b' }), /TIDEGATE_CLUSTER: expected 1 to 100 letters.*got "a:b"/);
});
