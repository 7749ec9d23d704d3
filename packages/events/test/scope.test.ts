import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Kind, type EventBatchInput } from '@tidegate/contracts';
import { batchOf, publish } from '@tidegate/testkit/event-messages';
import { Order, type Scope } from '../src/index.ts';
import { startFixture, take } from './fixture.ts';

/** Init on the host, its child in namespace other, and that one's child in namespace shop; one event of the process given. */
function lineage(process: number, sequence: number): Uint8Array {
  const input: EventBatchInput = {
    cluster: 'c1',
    batch: sequence,
    pods: [
      { uid: 'uid-shop', namespace: 'shop', name: 'web-1', workload: 'web' },
      { uid: 'uid-other', namespace: 'other', name: 'db-1', workload: 'db' },
    ],
    containers: [
      { id: 1, containerId: 'aa', podUid: 'uid-shop' },
      { id: 2, containerId: 'bb', podUid: 'uid-other' },
    ],
    processes: [
      { id: 1, execId: 'aW5pdA==', pid: 1, binary: '/sbin/init', arguments: ['init', '--secret'] },
      {
        id: 2,
        parent: 1,
        container: 2,
        execId: 'b3RoZXI=',
        pid: 20,
        binary: '/usr/bin/other',
        arguments: ['other', '--secret'],
        cwd: '/secret',
      },
      { id: 3, parent: 2, container: 1, execId: 'c2hvcA==', pid: 30, binary: '/usr/bin/shop', arguments: ['shop'] },
    ],
    events: [{ kind: Kind.KIND_EXEC, process, sequence, exec: {} }],
  };
  return batchOf('exec', [], input);
}

test('events outside the scope are not given, and of ancestors outside nothing is told but that they are', async () => {
  await using fixture = await startFixture();
  await publish(fixture.js, 'exec', lineage(3, 1), 'shop', 'web');
  await publish(fixture.js, 'exec', lineage(2, 2), 'other', 'db');
  await publish(fixture.js, 'exec', lineage(1, 3), '_host', 'worker-1');
  await publish(fixture.js, 'exec', lineage(3, 4), 'shop', 'web');
  const scope: Scope = { clusters: ['c1'], namespaces: ['shop'] };
  const events = await take(fixture.events.consume({ from: 'beginning', scope }), 2);
  assert.deepEqual(
    events.map(({ sequence, namespace }) => `${sequence} ${namespace}`),
    ['1 shop', '4 shop'],
  );
  const [event] = events;
  assert.equal(event!.process!.binary, '/usr/bin/shop');
  assert.equal(event!.parent!.redacted, true);
  assert.equal(event!.parent!.exec_id, 'b3RoZXI=');
  assert.equal(event!.ancestors![0]!.redacted, true);
  assert.doesNotMatch(JSON.stringify(events), /secret|init|\/usr\/bin\/other|db-1/);

  const query = { ...(await fixture.events.history.resolve(Order.newest, {}, 0)), scope };
  const page = await fixture.events.history.page(query, 10, new AbortController().signal);
  assert.deepEqual(
    page.events.map(json => JSON.parse(json.toString()) as unknown),
    events.toReversed(),
  );
  // Another cluster's reader sees nothing; one without a scope everything.
  assert.deepEqual(await take(fixture.events.consume({ from: 'beginning', scope: { clusters: ['c2'] }, follow: false }), 1), []);
  const all = await take(fixture.events.consume({ from: 'beginning', follow: false }), 4);
  assert.equal(all.length, 4);
  assert.equal(all[0]!.parent!.binary, '/usr/bin/other');
});
