import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BatchError, decodeBatch, Destination, Pod } from '@tidegate/contracts';
import { IDENTITY_LIMITS, IdentityCache, destinationDecoder, podDecoder } from '../src/identity-cache.ts';
import { WorkloadBudget } from '../src/workload-budget.ts';

const bytesOf = (text: string) => Buffer.from(text);
const podEntry = (pod: Parameters<typeof Pod.encode>[0]) => podDecoder.decode(Pod.encode(pod).finish());
const destinationEntry = (ip: string) => destinationDecoder.decode(Destination.encode({ ip }).finish());

test('pods are found by node and uid, replaced and removed', () => {
  const cache = new IdentityCache();
  const key = 'ip-10_example.uid-1';
  const put = (workload: string) => cache.putPod(key, podEntry({ uid: 'uid-1', namespace: 'shop', name: 'web-1', workload }));
  assert.equal(cache.pod('ip-10.example', 'uid-1'), undefined);
  put('web');
  assert.equal(cache.pod('ip-10.example', 'uid-1')?.place, 'shop.web');
  assert.equal(cache.pod('other', 'uid-1'), undefined);
  put('');
  assert.equal(cache.pod('ip-10.example', 'uid-1')?.place, 'shop.web-1', 'without a workload its own name');
  assert.equal(decodeBatch(cache.pod('ip-10.example', 'uid-1')!.field).pods[0]?.name, 'web-1');
  assert.equal(cache.pods, 1);
  cache.deletePod(key);
  cache.deletePod(key);
  assert.deepEqual([cache.pod('ip-10.example', 'uid-1'), cache.pods], [undefined, 0]);
});

test('entries that are too many, or of no node, are refused and counted; malformed ones are not decoded', () => {
  const cache = new IdentityCache({ ...IDENTITY_LIMITS, maxPods: 2, maxDestinations: 1 });
  const pod = podEntry({ namespace: 'shop' });
  for (const uid of ['1', '2', '3']) cache.putPod(`node.${uid}`, pod);
  assert.throws(() => podDecoder.decode(Buffer.from([0x12, 0xff])), BatchError);
  assert.throws(() => destinationDecoder.decode(new Uint8Array()), /ip: expected an address, got nothing/);
  cache.putPod('no-dot', pod);
  cache.putDestination('10-0-0-1', destinationEntry('10.0.0.1'));
  cache.putDestination('10-0-0-1', destinationEntry('10.0.0.1'));
  cache.putDestination('10-0-0-2', destinationEntry('10.0.0.2'));
  assert.deepEqual([cache.pods, cache.destinations, cache.refused], [2, 1, 3]);
  assert.ok(cache.destination(bytesOf('x10.0.0.1y'), 1, 9));
  assert.equal(cache.destination(bytesOf('10.0.0.2'), 0, 8), undefined);
});

test('a wait ends when the pod comes, when the time is over, and at once when it was waited for before', async () => {
  const cache = new IdentityCache({ ...IDENTITY_LIMITS, maxPods: 10, maxDestinations: 10, podWaitMs: 30 });
  const { signal } = new AbortController();
  cache.putPod('other.pod', podEntry({ uid: 'pod' }));
  const arriving = cache.waitForPods('node', ['a', 'b'], signal);
  cache.putPod('node.a', podEntry({ uid: 'a' }));
  cache.putPod('node.b', podEntry({ uid: 'b' }));
  await arriving;
  await cache.waitForPods('node', ['never'], signal);
  const order: string[] = [];
  await Promise.all([
    cache.waitForPods('node', ['never'], signal).then(() => order.push('again')),
    cache.waitForPods('node', ['new'], signal).then(() => order.push('new')),
  ]);
  assert.deepEqual(order, ['again', 'new']);
});

test('an aborted wait ends at once', async () => {
  const cache = new IdentityCache({ ...IDENTITY_LIMITS, maxPods: 10, maxDestinations: 10, podWaitMs: 60_000 });
  const abort = new AbortController();
  cache.putPod('other.pod', podEntry({ uid: 'pod' }));
  const waiting = cache.waitForPods('node', ['a'], abort.signal);
  abort.abort();
  await waiting;
});

test('without a single pod, as without a gateway, nothing is waited for', async () => {
  const cache = new IdentityCache({ ...IDENTITY_LIMITS, maxPods: 10, maxDestinations: 10, podWaitMs: 2 ** 31 - 1 });
  await cache.waitForPods('node', ['a'], new AbortController().signal);
});

test('so many workloads of a namespace have subjects of their own, the rest share one; those not asked for in a day make room', () => {
  const cache = new IdentityCache({ ...IDENTITY_LIMITS, workloadsPerNamespace: 2 });
  const place = (namespace: string, workload: string) => {
    cache.putPod(`node.${namespace}-${workload}`, podEntry({ namespace, name: 'x', workload }));
    return cache.pod('node', `${namespace}-${workload}`)?.place;
  };
  assert.deepEqual(
    ['web', 'db', 'job', 'web', 'ci'].map(workload => place('shop', workload)),
    ['shop.web', 'shop.db', 'shop._more', 'shop.web', 'shop._more'],
  );
  assert.equal(place('lab', 'job'), 'lab.job');
  assert.equal(cache.folded, 2);

  const budget = new WorkloadBudget(2);
  const dayMs = 24 * 3_600_000;
  const at = (hour: number, workload: string) => budget.place('shop', workload, (hour / 24) * dayMs);
  assert.deepEqual(
    [at(0, 'web'), at(1, 'db'), at(2, 'job'), at(20, 'web'), at(24.5, 'job'), at(25, 'job'), at(26, 'db'), at(45, 'db')],
    ['shop.web', 'shop.db', 'shop._more', 'shop.web', 'shop._more', 'shop.job', 'shop._more', 'shop.db'],
  );
});
