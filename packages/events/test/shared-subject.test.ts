/** Workloads that are one too many of their namespace share a subject: a filter finds them there too. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Kind, MORE_WORKLOADS, NO_NAMESPACE } from '@tidegate/contracts';
import { batchOf, publish } from '@tidegate/testkit/event-messages';
import { only, type EventFilter } from '../src/index.ts';
import { startFixture, take } from './fixture.ts';

function execIn(workload: string, sequence: number): Uint8Array {
  return batchOf('exec', [], {
    cluster: 'c1',
    batch: sequence,
    pods: [{ uid: 'uid', namespace: 'shop', name: `${workload}-1`, workload }],
    containers: [{ id: 1, containerId: 'aa', podUid: 'uid' }],
    processes: [{ id: 1, container: 1, execId: 'eA==', pid: 1, binary: '/bin/x', arguments: ['x'] }],
    events: [{ kind: Kind.KIND_EXEC, process: 1, sequence, exec: {} }],
  });
}

test('a workload is found on its own subject and on the shared one', async () => {
  await using fixture = await startFixture();
  await publish(fixture.js, 'exec', execIn('web', 1), 'shop', 'web');
  await publish(fixture.js, 'exec', execIn('db', 2), 'shop', 'db');
  await publish(fixture.js, 'exec', execIn('web', 3), 'shop', MORE_WORKLOADS);
  await publish(fixture.js, 'exec', execIn('db', 4), 'shop', MORE_WORKLOADS);
  const found = async (filter: EventFilter) =>
    (await take(fixture.events.consume({ from: 'beginning', follow: false, filter }), 4)).map(({ sequence }) => sequence);
  assert.deepEqual(await found({ namespace: only('shop'), workload: only('web') }), [1, 3]);
  assert.deepEqual(await found({ workload: only('web', 'db') }), [1, 2, 3, 4]);
  assert.deepEqual(await found({ workload: { only: [], except: ['db'] } }), [1, 3]);
  assert.deepEqual(await found({ namespace: only('other'), workload: only('web') }), []);
  assert.deepEqual(await found({ workload: only(MORE_WORKLOADS) }), [3, 4]);
  assert.deepEqual(await found({ workload: { only: [], except: [MORE_WORKLOADS] } }), [1, 2]);
});

test('a container outside Kubernetes is found there by its name or the beginning of its id', async () => {
  await using fixture = await startFixture();
  const containerId = 'c0ffee'.repeat(10);
  for (const [i, name] of ['redis', ''].entries()) {
    const payload = batchOf('exec', [], {
      cluster: 'c1',
      batch: i + 1,
      containers: [{ id: 1, containerId, name }],
      processes: [{ id: 1, container: 1, execId: 'eA==', pid: 1, binary: '/bin/x', arguments: ['x'] }],
      events: [{ kind: Kind.KIND_EXEC, process: 1, sequence: i + 1, exec: {} }],
    });
    await publish(fixture.js, 'exec', payload, NO_NAMESPACE, MORE_WORKLOADS);
  }
  const found = async (workload: string) =>
    (await take(fixture.events.consume({ from: 'beginning', follow: false, filter: { workload: only(workload) } }), 2)).map(
      ({ sequence }) => sequence,
    );
  assert.deepEqual(await found('redis'), [1]);
  assert.deepEqual(await found(containerId.slice(0, 12)), [2]);
});
