import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_SLOW_LINGER_MS, PACE_PREFIX, paceLeaseCodec } from '@tidegate/contracts';
import { connectNats, NatsRole } from '@tidegate/runtime';
import { connectAs, createHost, roleUsers, startNatsServer, testLogger, waitFor } from '@tidegate/testkit';
import { SlowDown } from '../src/slow-down.ts';

test('an enricher that does not keep up asks its nodes for larger batches, more and more, and for less when it has kept up for a while', async () => {
  await using host = createHost();
  const server = await startNatsServer({ users: roleUsers([NatsRole.admin, NatsRole.enricher]) });
  host.defer(() => server.stop());
  const nc = await connectAs(NatsRole.enricher, server.url, host);
  const listener = await connectNats({ url: server.url, name: 'test', user: 'admin', password: 'admin', logger: testLogger() });
  host.defer(() => listener.close());
  const asked: string[] = [];
  listener.subscribe(`${PACE_PREFIX}.*`, {
    callback: (_error, { subject, data }) => {
      asked.push(`${subject.slice(PACE_PREFIX.length + 1)} ${paceLeaseCodec.decode(data).lingerMs}`);
    },
  });
  await listener.flush();
  const slowDown = new SlowDown({ nc, logger: testLogger(), nodes: () => ['node-1', 'node_2'], lowerAfterMs: 0 });
  const look = async (waiting: number, perSecond: number) => {
    slowDown.look(waiting, perSecond);
    await nc.flush();
    await listener.flush();
    return asked.splice(0);
  };

  assert.deepEqual(await look(0, 0), [], 'nothing happens at all');
  assert.deepEqual(await look(150, 100), [], 'a second and a half is no backlog');
  assert.deepEqual(await look(300, 100), ['node-1 200', 'node_2 200']);
  assert.deepEqual(await look(300, 100), [], 'it does not grow any more');
  assert.deepEqual(await look(400, 100), ['node-1 400', 'node_2 400']);
  for (let waiting = 500; waiting < 1_500; waiting += 100) await look(waiting, 100);
  assert.equal(slowDown.lingerMs, MAX_SLOW_LINGER_MS);
  await waitFor(
    async () => {
      await look(10, 100);
      return slowDown.lingerMs === 0;
    },
    { what: 'it to ask for nothing any more' },
  );
  assert.deepEqual(await look(10, 100), []);
});
