import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeBatch, Destination, Pod } from '@tidegate/contracts';
import { IdentityCache } from '../src/identity-cache.ts';

const bytesOf = (text: string) => Buffer.from(text);

test('pods are found by node and uid, replaced and removed', () => {
  const cache = new IdentityCache();
  const key = 'ip-10_example.uid-1';
  const put = (workload: string) => cache.putPod(key, Pod.encode({ uid: 'uid-1', namespace: 'shop', name: 'web-1', workload }).finish());
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

test('entries that are malformed or too many are refused and counted', () => {
  const cache = new IdentityCache({ maxPods: 2, maxDestinations: 1, podWaitMs: 10 });
  const pod = Pod.encode({ namespace: 'shop' }).finish();
  for (const uid of ['1', '2', '3']) cache.putPod(`node.${uid}`, pod);
  cache.putPod('node.1', Buffer.from([0x12, 0xff]));
  cache.putPod('no-dot', pod);
  const destination = (ip: string) => Destination.encode({ ip }).finish();
  cache.putDestination('10-0-0-1', destination('10.0.0.1'));
  cache.putDestination('10-0-0-1', destination('10.0.0.1'));
  cache.putDestination('10-0-0-2', destination('10.0.0.2'));
  cache.putDestination('none', new Uint8Array());
  assert.deepEqual([cache.pods, cache.destinations, cache.refused], [2, 1, 5]);
  assert.ok(cache.destination(bytesOf('x10.0.0.1y'), 1, 9));
  assert.equal(cache.destination(bytesOf('10.0.0.2'), 0, 8), undefined);
});

test('a wait ends when the pod comes, when the time is over, and at once when it was waited for before', async () => {
  const cache = new IdentityCache({ maxPods: 10, maxDestinations: 10, podWaitMs: 30 });
  const { signal } = new AbortController();
  cache.putPod('other.pod', Pod.encode({ uid: 'pod' }).finish());
  const arriving = cache.waitForPods('node', ['a', 'b'], signal);
  cache.putPod('node.a', Pod.encode({ uid: 'a' }).finish());
  cache.putPod('node.b', Pod.encode({ uid: 'b' }).finish());
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
  const cache = new IdentityCache({ maxPods: 10, maxDestinations: 10, podWaitMs: 60_000 });
  const abort = new AbortController();
  cache.putPod('other.pod', Pod.encode({ uid: 'pod' }).finish());
  const waiting = cache.waitForPods('node', ['a'], abort.signal);
  abort.abort();
  await waiting;
});

test('without a single pod, as without a gateway, nothing is waited for', async () => {
  const cache = new IdentityCache({ maxPods: 10, maxDestinations: 10, podWaitMs: 2 ** 31 - 1 });
  await cache.waitForPods('node', ['a'], new AbortController().signal);
});
