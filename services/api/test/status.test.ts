import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  BUCKETS,
  RawHeader,
  enricherCursorKey,
  enricherMemberKey,
  formatSequences,
  nodeKey,
  rawSubject,
  type SensorStatus,
} from '@tidegate/contracts';
import { Kvm } from '@nats-io/kv';
import { headers } from '@nats-io/nats-core';
import { waitFor } from '@tidegate/testkit';
import { NODE, startFixture } from './fixture.ts';

const MALFORMED = ['not JSON', '{}', 'null', '[]', '', '{"node":1,"hooks":[{}],"spool":null}'];

const SENSOR: SensorStatus = {
  node: NODE,
  boot: 'b',
  version: '0.1.0',
  kernel: '6.12',
  startedAt: new Date().toISOString(),
  reportedAt: new Date().toISOString(),
  hooks: [{ hook: 'sched_process_exec', program: 'tg_exec', attached: true }],
  events: 100,
  lastSequence: 120,
  lost: { ring_full: 20 },
  spool: { bytes: 0, batches: 0, maxBytes: 1 },
  recorded: false,
};

for (const version of ['new', 'debian'] as const) {
  test(`the status says what runs and what is wrong (${version} server)`, async () => {
    await using fixture = await startFixture({ version });
    const { nc, js } = fixture;
    const empty = await fixture.get('/api/v1/status');
    assert.deepEqual(empty.body.problems, ['no sensor has reported', 'no enricher is alive']);

    const kvm = new Kvm(nc);
    const sensors = await kvm.open(BUCKETS.sensors.name);
    const enrichers = await kvm.open(BUCKETS.enrichers.name);
    await sensors.put(nodeKey(NODE), JSON.stringify(SENSOR));
    await sensors.put(nodeKey('gone'), JSON.stringify({ ...SENSOR, node: 'gone' }));
    await sensors.delete(nodeKey('gone'));
    // What somebody else wrote is as if it were not there.
    for (const [i, value] of MALFORMED.entries()) {
      await sensors.put(nodeKey(`broken-${i}`), value);
      await enrichers.put(enricherCursorKey(`broken-${i}`), value);
      await enrichers.put(enricherMemberKey(`broken-${i}`), value);
    }
    const sequences = headers();
    sequences.set(RawHeader.sequences, formatSequences(90, 120));
    await js.publish(rawSubject(NODE), 'x', { headers: sequences });
    await enrichers.put(
      enricherCursorKey(NODE),
      JSON.stringify({ streamSequence: 1, batch: 1, boot: 'b', lastSequence: 100, owner: 'e1' }),
    );
    // An enricher lives as long as it says so.
    const body = await waitFor(
      async () => {
        await enrichers.put(enricherMemberKey('e1'), JSON.stringify({ startedAt: new Date().toISOString() }));
        const report = await fixture.get('/api/v1/status');
        return report.body.enrichers[0]?.alive === true && report.body;
      },
      { what: 'the enricher' },
    );
    assert.deepEqual(body.problems, []);
    const metrics = await (await fetch(`${fixture.api.url}/metrics`)).text();
    assert.match(metrics, new RegExp(`tidegate_api_malformed_entries_total\\{bucket="sensors"\\} ${MALFORMED.length}\n`));
    assert.match(metrics, new RegExp(`tidegate_api_malformed_entries_total\\{bucket="enrichers"\\} ${2 * MALFORMED.length}\n`));
    assert.equal(body.nats.version, fixture.nats.version);
    assert.equal(body.sensors.length, 1);
    assert.equal(body.sensors[0].stale, false);
    assert.deepEqual(body.sensors[0].lost, { ring_full: 20 });
    assert.deepEqual(body.lag, [{ node: NODE, owner: 'e1', events: 20, raw_last_sequence: 120, enriched_last_sequence: 100 }]);
    assert.deepEqual(
      body.streams.map((stream: { name: string; messages: number }) => [stream.name, stream.messages]),
      [
        ['RAW', 1],
        ['EVENTS', 0],
        ['DEADLETTER', 0],
      ],
    );
    await sensors.put(
      nodeKey(NODE),
      JSON.stringify({ ...SENSOR, hooks: [{ hook: 'h', program: 'p', attached: false, error: 'refused' }] }),
    );
    const worse = await waitFor(async () => (await fixture.get('/api/v1/status')).body.problems[0], { what: 'the problem' });
    assert.equal(worse, `hook h is not attached on ${NODE}: refused`);
  });
}

test('readiness follows the connection to NATS', async () => {
  await using fixture = await startFixture();
  assert.deepEqual((await fixture.get('/healthz')).body, { status: 'ok' });
  assert.deepEqual((await fixture.get('/readyz')).body, { ready: true, reasons: [] });
  await fixture.nats.kill();
  await waitFor(async () => (await fixture.get('/readyz')).status === 503, { what: 'not ready' });
  assert.equal((await fixture.get('/healthz')).status, 200);
  await fixture.nats.restart();
  await waitFor(async () => (await fixture.get('/readyz')).status === 200, { what: 'ready' });
});
