import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  BUCKETS,
  RawHeader,
  enricherCursorKey,
  enricherMemberKey,
  formatSequences,
  gatewayKey,
  nodeKey,
  rawSubject,
  type GatewayStatus,
  type SensorStatus,
} from '@tidegate/contracts';
import { Kvm } from '@nats-io/kv';
import { headers } from '@nats-io/nats-core';
import { waitFor } from '@tidegate/testkit';
import { NODE } from '@tidegate/testkit/event-messages';
import { startFixture } from './fixture.ts';
import { holdsSeconds } from '../src/status.ts';

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
      JSON.stringify({ streamSequence: 1, storedAtMs: Date.now(), batch: 1, boot: 'b', lastSequence: 100, owner: 'e1' }),
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
    assert.deepEqual(body.lag, [
      { node: NODE, owner: 'e1', events: 20, waiting_seconds: 0, raw_last_sequence: 120, enriched_last_sequence: 100 },
    ]);
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

test("how long a stream's bytes suffice is told from what it holds, once that is of a minute", () => {
  assert.deepEqual(holdsSeconds(0, NaN, 1_000), {});
  assert.deepEqual(holdsSeconds(100, 59_000, 1_000), {});
  assert.deepEqual(holdsSeconds(100, 3_600_000, 1_000), { holds_seconds: 36_000 });
});

test('a busy node that starves is a problem, one that is quiet or that keeps up is none', async () => {
  await using fixture = await startFixture();
  const { nc, js } = fixture;
  const kvm = new Kvm(nc);
  const enrichers = await kvm.open(BUCKETS.enrichers.name);
  const store = async (node: string, first: number, last: number) => {
    const sequences = headers();
    sequences.set(RawHeader.sequences, formatSequences(first, last));
    return (await js.publish(rawSubject(node), 'x', { headers: sequences })).seq;
  };
  const done = (node: string, streamSequence: number, storedAtMs: number, lastSequence: number) =>
    enrichers.put(enricherCursorKey(node), JSON.stringify({ streamSequence, storedAtMs, batch: 1, boot: 'b', lastSequence, owner: 'e1' }));
  const lagProblems = async () =>
    ((await fixture.get('/api/v1/status')).body.problems as string[]).filter(problem => problem.includes('wait for an enricher'));

  const longAgoMs = Date.now();
  await done('starving', await store('starving', 1, 10), longAgoMs, 10);
  await done('quiet', await store('quiet', 1, 10), longAgoMs, 10);
  await store('starving', 11, 40_000);
  const startMs = performance.now();
  await waitFor(async () => (await fixture.get('/api/v1/status')).body.lag.length === 2, { what: 'both nodes' });
  assert.deepEqual(await lagProblems(), [], 'what came just now is on its way');

  await store('starving', 40_001, 46_010);
  const [problem, ...others] = await waitFor(
    async () => {
      const problems = await lagProblems();
      return problems.length > 0 && problems;
    },
    { what: 'the problem', timeoutMs: 30_000 },
  );
  assert.deepEqual(others, []);
  const waited = Number(/^46000 events of starving wait for an enricher, the oldest for ([\d.]+) s$/.exec(problem!)?.[1]);
  assert.ok(waited >= 10 && waited <= 1 + (performance.now() - startMs) / 1000, problem);
});

test('a node that has left is no problem any more; one that is silent is', async t => {
  await using fixture = await startFixture();
  const kvm = new Kvm(fixture.nc);
  const sensors = await kvm.open(BUCKETS.sensors.name);
  const nodes = await kvm.open(BUCKETS.nodes.name);
  await sensors.put(nodeKey('old.example'), JSON.stringify({ ...SENSOR, node: 'old.example' }));
  const missing = { name: 'bare', addresses: [], labels: {}, architecture: '', osImage: '', kernelVersion: '', kubeletVersion: '' };
  await nodes.put(nodeKey('bare'), JSON.stringify({ ...missing, containerRuntimeVersion: '' }));
  const remove = (node: string) => fetch(`${fixture.api.url}/api/v1/nodes/${node}`, { method: 'DELETE' });
  const errorOf = async (response: Response) => [response.status, ((await response.json()) as { error: { code: string } }).error.code];

  const list = (await fixture.get('/api/v1/nodes')).body.nodes as { node: string; state: string; in_cluster: boolean }[];
  assert.deepEqual(
    list.map(({ node, state, in_cluster }) => [node, state, in_cluster]),
    [
      ['bare', 'none', true],
      ['old.example', 'up', false],
    ],
  );
  assert.deepEqual(await errorOf(await remove('old.example')), [409, 'NODE_REPORTING']);
  assert.deepEqual(await errorOf(await remove('never')), [404, 'NODE_NOT_FOUND']);
  assert.deepEqual(await errorOf(await remove('bare')), [404, 'NODE_NOT_FOUND']);

  t.mock.timers.enable({ apis: ['Date'], now: Date.now() + 60_000 });
  const problems = async () => (await fixture.get('/api/v1/status')).body.problems as string[];
  await waitFor(async () => (await problems()).some(problem => problem.startsWith('sensor of old.example has not reported since')), {
    what: 'the problem',
  });
  assert.ok((await problems()).includes('no sensor has reported from node bare of the cluster'));
  const removed = await remove('old.example');
  assert.equal(removed.status, 200);
  const { state, last_sequence, removed_by } = (await removed.json()) as { state: string; last_sequence: number; removed_by: string };
  assert.deepEqual([state, last_sequence, removed_by], ['left', SENSOR.lastSequence, 'administrator']);
  await waitFor(async () => !(await problems()).some(problem => problem.includes('old.example')), { what: 'the problem to go' });
  assert.deepEqual(await errorOf(await remove('old.example')), [404, 'NODE_NOT_FOUND']);
  const all = (await fixture.get('/api/v1/nodes?all=true')).body.nodes as { node: string; state: string }[];
  assert.deepEqual(
    all.map(({ node, state: its }) => `${node} ${its}`),
    ['bare none', 'old.example left'],
  );
});

test('why events have no pods is a problem: a node of another name, a Lease that another installation holds, a gateway that cannot read', async () => {
  await using fixture = await startFixture();
  const kvm = new Kvm(fixture.nc);
  const sensors = await kvm.open(BUCKETS.sensors.name);
  const nodes = await kvm.open(BUCKETS.nodes.name);
  const gateways = await kvm.open(BUCKETS.gateways.name);
  const time = new Date().toISOString();
  const gateway = (identity: string, more: Partial<GatewayStatus> = {}) =>
    gateways.put(
      gatewayKey(identity),
      JSON.stringify({
        identity,
        startedAt: time,
        reportedAt: time,
        server: 'https://k',
        lease: 'default/tidegate',
        leads: false,
        faults: [],
        ...more,
      }),
    );
  const clusterProblems = async () =>
    ((await fixture.get('/api/v1/status')).body.problems as string[]).filter(problem => /gateway|cluster/.test(problem));
  const becomes = async (expected: RegExp[], what: string) => {
    let problems: string[] = [];
    const isSo = async () => {
      problems = await clusterProblems();
      return problems.length === expected.length && expected.every((pattern, i) => pattern.test(problems[i]!));
    };
    await waitFor(isSo, { what }).catch((error: unknown) => assert.fail(`${String(error)}: ${JSON.stringify(problems)}`));
  };

  await sensors.put(nodeKey('ip-10-0-0-7'), JSON.stringify({ ...SENSOR, node: 'ip-10-0-0-7', hasKubelet: true }));
  await sensors.put(nodeKey('plain'), JSON.stringify({ ...SENSOR, node: 'plain', hasKubelet: false }));
  await becomes([], 'nothing wrong without a cluster');

  await gateway('mine', { holder: { identity: 'theirs', since: time } });
  await becomes(
    [
      new RegExp(
        `^events get no pods: theirs, a gateway of another installation, holds the Lease default/tidegate since ${time}; .*TIDEGATE_LEASE_NAME`,
      ),
    ],
    'the other installation',
  );
  const [reported] = (await fixture.get('/api/v1/status')).body.gateways as object[];
  assert.deepEqual(reported, {
    identity: 'mine',
    started_at: time,
    reported_at: time,
    server: 'https://k',
    lease: 'default/tidegate',
    leads: false,
    holder: { identity: 'theirs', since: time },
    faults: [],
  });
  await gateway('mine', { holder: { identity: 'theirs' }, faults: ['/api/v1/pods: forbidden'] });
  await becomes(
    [/^events get no pods: theirs.*Lease default\/tidegate; ours/, /^gateway mine cannot do its work: \/api\/v1\/pods: forbidden$/],
    'the fault',
  );

  // A replica that waits for its like is in order.
  await gateway('theirs', { leads: true });
  await gateway('mine', { holder: { identity: 'theirs' } });
  await becomes([], 'two replicas');

  const named = (name: string) => ({
    ...{ name, addresses: [], labels: {}, architecture: '', osImage: '', kernelVersion: '' },
    ...{ kubeletVersion: '', containerRuntimeVersion: '' },
  });
  await nodes.put(nodeKey('node-a'), JSON.stringify(named('node-a')));
  await sensors.put(nodeKey('node-a'), JSON.stringify({ ...SENSOR, node: 'node-a', hasKubelet: true }));
  await becomes(
    [/^the cluster has no node ip-10-0-0-7, .*its pods get no identity; the cluster has node node-a, TIDEGATE_NODE/],
    'the name',
  );
  await nodes.put(nodeKey('ip-10-0-0-7'), JSON.stringify(named('ip-10-0-0-7')));
  await becomes([], 'the name to be known');

  for (const identity of ['mine', 'theirs']) await gateways.delete(gatewayKey(identity));
  await becomes([/^no gateway reports: .*2 nodes \(ip-10-0-0-7, node-a\) of the cluster.*KUBECONFIG/], 'no gateway');
});

test('containers whose runtime keeps its files elsewhere are a problem, and no longer when they are gone', async () => {
  await using fixture = await startFixture();
  const sensors = await new Kvm(fixture.nc).open(BUCKETS.sensors.name);
  const problems = async () => ((await fixture.get('/api/v1/status')).body.problems as string[]).filter(each => each.includes('container'));
  for (const [undescribedContainers, expected] of [
    [1, '1 container on node-a without name and image: its runtime keeps no files where its sensor looks, below TIDEGATE_HOST_ROOT'],
    [7, '7 containers on node-a without name and image: their runtimes keep no files where its sensor looks, below TIDEGATE_HOST_ROOT'],
    [0, undefined],
  ] as const) {
    await sensors.put(nodeKey('node-a'), JSON.stringify({ ...SENSOR, node: 'node-a', undescribedContainers }));
    await waitFor(async () => (await problems())[0] === expected, { what: expected ?? 'no problem' });
  }
});

test('a slow NATS and a clock that is wrong are problems, in words, and no longer when they have passed', async () => {
  await using fixture = await startFixture();
  const kvm = new Kvm(fixture.nc);
  const sensors = await kvm.open(BUCKETS.sensors.name);
  const enrichers = await kvm.open(BUCKETS.enrichers.name);
  const problems = async () => {
    const { problems: all } = (await fixture.get('/api/v1/status')).body as { problems: string[] };
    return all.filter(problem => /slow|clock/.test(problem));
  };
  const report = (node: string, more: Partial<SensorStatus>) =>
    sensors.put(nodeKey(node), JSON.stringify({ ...SENSOR, node, reportedAt: new Date().toISOString(), ...more }));
  /** Half a minute more: the reports take their time. */
  const hourMs = 3_630_000;
  const becomes = async (expected: RegExp[], what: string) => {
    let got: string[] = [];
    const isSo = async () => {
      // Who is silent says nothing of now.
      await enrichers.put(enricherMemberKey('e1'), JSON.stringify({ startedAt: SENSOR.startedAt, ackMs: expected.length > 0 ? 300 : 4 }));
      got = await problems();
      return got.length === expected.length && expected.every((pattern, i) => pattern.test(got[i]!));
    };
    await waitFor(isSo, { what }).catch((error: unknown) => assert.fail(`${String(error)}: ${JSON.stringify(got)}`));
  };

  await report('node-a', { ackMs: 250 });
  await becomes([], 'nothing slow');
  await report('node-a', { ackMs: 480 });
  await report('node-b', { ackMs: 3 });
  await becomes(
    [/^NATS is slow: it takes 480 ms on average to store a message of the sensor of node-a \(and 1 more wait so\); a few ms are normal/],
    'the slow server',
  );
  const body = (await fixture.get('/api/v1/status')).body as { sensors: { ack_ms: number }[]; enrichers: { ack_ms: number }[] };
  assert.deepEqual(
    [...body.sensors, ...body.enrichers].map(({ ack_ms }) => ack_ms),
    [480, 3, 300],
  );
  await report('node-a', { reportedAt: new Date(Date.now() + hourMs).toISOString() });
  await report('node-b', { reportedAt: new Date(Date.now() - hourMs).toISOString() });
  await becomes(
    [
      /^NATS is slow: .* of enricher e1; /,
      /^the clock of node-a is 1 h 0 min ahead of that of nats-server: /,
      /^the clock of node-b is 1 h 0 min behind that of nats-server: /,
    ],
    'the clocks',
  );
  await report('node-a', {});
  await report('node-b', {});
  await becomes([], 'all to be well again');
});

test("a connector's report is in the status, its faults are problems, and one that has ended is gone", async () => {
  await using fixture = await startFixture();
  const connectors = await new Kvm(fixture.nc).open(BUCKETS.connectors.name);
  const time = new Date().toISOString();
  const report = { connector: 'nats', listeners: 2, pending: 7, published: 40, skipped: 1, faults: ['EVENTS is away'] };
  await connectors.put('nats', JSON.stringify({ ...report, startedAt: time, reportedAt: time }));
  const body = await waitFor(
    async () => {
      const { body: found } = await fixture.get('/api/v1/status');
      return found.connectors.length === 1 && found;
    },
    { what: 'the connector' },
  );
  assert.deepEqual(body.connectors, [{ ...report, started_at: time, reported_at: time }]);
  assert.ok(body.problems.includes('connector nats cannot do its work: EVENTS is away'));
  await connectors.delete('nats');
  await waitFor(async () => (await fixture.get('/api/v1/status')).body.connectors.length === 0, { what: 'it to be gone' });
});

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
