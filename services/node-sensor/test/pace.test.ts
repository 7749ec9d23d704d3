import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_PACE_LEASE_MS, paceLeaseCodec, paceSubject, type PaceLease } from '@tidegate/contracts';
import { connectNats } from '@tidegate/runtime';
import { createHost, startNatsServer, testLogger, waitFor } from '@tidegate/testkit';
import { followPace } from '../src/pace.ts';

const NODE = 'worker-1';

test('who follows many nodes makes none slower, and who is behind makes none faster', async () => {
  await using host = createHost();
  const server = await startNatsServer();
  host.defer(() => server.stop());
  const nc = await connectNats({ url: server.url, name: 'test', logger: testLogger() });
  host.defer(() => nc.close());
  const lingers: number[] = [];
  const pace = followPace(nc, { node: NODE, lingerMs: 100, setLinger: linger => lingers.push(linger), logger: testLogger() });
  const ask = async (lease: Omit<PaceLease, 'forMs'>, forMs = MAX_PACE_LEASE_MS) => {
    nc.publish(paceSubject(NODE), paceLeaseCodec.encode({ ...lease, forMs }));
    await nc.flush();
  };
  await ask({ lingerMs: 1_000 });
  await ask({ lingerMs: 50, isBehind: true });
  await ask({ lingerMs: 20 });
  await waitFor(() => lingers.length > 0, { what: 'the shorter wait' });
  assert.deepEqual(lingers, [20]);
  assert.ok(pace.isLive);
  await ask({ lingerMs: 500, isBehind: true }, 300);
  await waitFor(() => lingers.length === 3, { what: 'the longer wait, and its end' });
  assert.deepEqual(lingers, [20, 500, 20]);
  pace.close();
});
