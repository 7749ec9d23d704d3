/** Nothing is dead, but something is slow, or there is too much of it: nothing may be lost or come twice. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { BUCKETS, enricherMemberCodec, enricherMemberKey, Pod } from '@tidegate/contracts';
import { createBuckets } from '@tidegate/runtime';
import { testLogger, waitFor } from '@tidegate/testkit';
import { assertEnriched, batchesOf } from './node-batches.ts';
import { placesOf, setStage } from './stage.ts';

const BATCHES = 200;

test('a nats-server that is stopped in short turns: all is enriched, once and in order, and the enricher says how long storing takes', async () => {
  await using stage = await setStage();
  await stage.announceNode('node-1');
  await stage.enricher('a');
  const stored = stage.storeBatches('node-1', batchesOf('node-1', 1, BATCHES));
  for (let turn = 0; turn < 6; turn++) {
    process.kill(stage.server.pid, 'SIGSTOP');
    await delay(300);
    process.kill(stage.server.pid, 'SIGCONT');
    await delay(50);
  }
  await stored;
  await assertEnriched(stage, ['node-1'], BATCHES);
  const buckets = await createBuckets({ nc: stage.nc, logger: testLogger() });
  stage.host.defer(() => {
    buckets.close();
  });
  const members = buckets.open(BUCKETS.enrichers, enricherMemberCodec);
  await waitFor(async () => (await members.get(enricherMemberKey('a'))).value?.ackMs !== undefined, {
    what: 'the time that storing takes',
  });
});

test('5,000 workloads at once: each has its subject, and every event is there once', async () => {
  await using stage = await setStage();
  const pods = Array.from({ length: 5_000 }, (_, i) => `uid-${i}`);
  await Promise.all(
    pods.map((uid, i) => stage.putPod(`node-1.${uid}`, Pod.encode({ uid, namespace: `team-${i % 50}`, workload: `web-${i}` }).finish())),
  );
  await stage.announceNode('node-1');
  const each = pods.length / BATCHES;
  const batches = Array.from({ length: BATCHES }, (_, i) => batchesOf('node-1', i + 1, i + 1, pods.slice(i * each, (i + 1) * each))).flat();
  await stage.enricher('a');
  await stage.storeBatches('node-1', batches);
  await assertEnriched(stage, ['node-1'], BATCHES);
  const workloads = new Set(placesOf(await stage.read('EVENTS')).map(place => place.split(' ')[1]!));
  workloads.delete('_host/node-1');
  assert.ok(workloads.size > 2_000, `${workloads.size} workloads of ${pods.length}`);
  assert.ok([...workloads].every(each => /^team-\d+\/web-\d+$/.test(each)));
});
