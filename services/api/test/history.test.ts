import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ContainerCommandType, eventSubject, HOST_NAMESPACE, Kind } from '@tidegate/contracts';
import { batchOf, BOOT_TIME_MS, interleavedBatch, ktimeNow, NODE, publish, publishInterleaved } from '@tidegate/testkit/event-messages';
import { startFixture, type Fixture } from './fixture.ts';

const KINDS = ['exec', 'exit', 'connect'];
const MESSAGES = 150;
const CONTAINER_ID = '0123456789abcdef'.repeat(4);

/** Messages of 1 to 7 events each, over three kinds and two namespaces; returns how many events. */
async function fill({ js }: Fixture): Promise<number> {
  let sequence = 1;
  for (let i = 0; i < MESSAGES; i++) {
    const kind = KINDS[i % KINDS.length]!;
    const events = Array.from({ length: (i % 7) + 1 }, () => ({
      sequence: sequence++,
      binary: i % 10 === 0 ? '/usr/bin/curl' : '/bin/sh',
    }));
    await publish(js, kind, batchOf(kind, events), i % 2 === 0 ? 'shop' : '_host');
  }
  return sequence - 1;
}

/** All pages of a query; checks that every page but the last says so. */
async function readAll(fixture: Fixture, query: string): Promise<{ sequences: number[]; pages: number }> {
  const sequences: number[] = [];
  let cursor: string | null = '';
  let pages = 0;
  do {
    const { status, body } = await fixture.get(`/api/v1/events?${query}${cursor ? `&cursor=${cursor}` : ''}`);
    assert.equal(status, 200, JSON.stringify(body));
    sequences.push(...body.events.map((event: { sequence: number }) => event.sequence));
    assert.equal(body.complete, body.cursor === null);
    cursor = body.cursor;
    pages++;
  } while (cursor !== null);
  return { sequences, pages };
}

for (const version of ['new', 'debian'] as const) {
  test(`paging both ways gives each event exactly once (${version} server)`, async () => {
    await using fixture = await startFixture({ version });
    const count = await fill(fixture);
    const all = Array.from({ length: count }, (_, i) => i + 1);

    const oldest = await readAll(fixture, 'order=oldest&limit=13');
    assert.deepEqual(oldest.sequences, all);
    assert.equal(oldest.pages, Math.ceil(count / 13));
    const newest = await readAll(fixture, 'limit=13');
    assert.deepEqual(newest.sequences, all.toReversed());

    const filtered = await readAll(fixture, 'kind=exec,exit&namespace=shop&order=oldest&limit=10');
    const { body } = await fixture.get('/api/v1/events?order=oldest&limit=5000');
    const expected = body.events
      .filter((event: { kind: string; namespace: string }) => ['exec', 'exit'].includes(event.kind) && event.namespace === 'shop')
      .map((event: { sequence: number }) => event.sequence);
    assert.deepEqual(filtered.sequences, expected);
    const filteredBack = await readAll(fixture, 'kind=exec,exit&namespace=shop&limit=10');
    assert.deepEqual(filteredBack.sequences, expected.toReversed());
  });
}

interface Listed {
  node: string;
  kind: string;
  sequence: number;
}

for (const version of ['new', 'debian'] as const) {
  test(`a node's events come in the order of their numbers, across messages and pages, both ways (${version} server)`, async () => {
    await using fixture = await startFixture({ version });
    const nodes = ['n1', 'n2', 'n3'];
    const count = await publishInterleaved(fixture.js, nodes, 8);
    const numbers = Array.from({ length: count }, (_, i) => i + 1);
    const list = async (query: string): Promise<Listed[]> => {
      const listed: Listed[] = [];
      let cursor: string | null = '';
      for (; cursor !== null;) {
        const { status, body } = await fixture.get(`/api/v1/events?${query}${cursor ? `&cursor=${cursor}` : ''}`);
        assert.equal(status, 200, JSON.stringify(body));
        listed.push(...(body.events as Listed[]));
        cursor = body.cursor;
      }
      return listed;
    };
    for (const limit of [5, 23, 5000]) {
      for (const order of ['oldest', 'newest']) {
        for (const [filter, isWanted] of [
          ['', () => true],
          ['&kind=exit', (sequence: number) => sequence % 2 === 0],
          ['&workload=web,db&node=n1,n2,n3', undefined],
        ] as const) {
          const listed = await list(`order=${order}&limit=${limit}${filter}`);
          assert.equal(new Set(listed.map(({ node, sequence }) => `${node} ${sequence}`)).size, listed.length, 'no event twice');
          for (const node of nodes) {
            const sequences = listed.filter(event => event.node === node).map(({ sequence }) => sequence);
            const ascending = order === 'oldest' ? sequences : sequences.toReversed();
            const expected = isWanted ? numbers.filter(isWanted) : sequences.toSorted((a, b) => a - b);
            assert.deepEqual(ascending, expected, `${node} ${order} ${limit} ${filter}`);
            if (!isWanted) assert.ok(sequences.length > count / 2);
          }
        }
      }
    }
    const lines = await (await fetch(`${fixture.api.url}/api/v1/events?order=oldest&node=n2&format=ndjson`)).text();
    assert.deepEqual(
      lines
        .trimEnd()
        .split('\n')
        .map(line => (JSON.parse(line) as Listed).sequence),
      numbers,
    );
  });
}

test('parts of a batch that are repeated or missing, and parts of many nodes between each other, are in order both ways', async () => {
  await using fixture = await startFixture();
  const nodes = Array.from({ length: 150 }, (_, i) => `n${i}`);
  const parts = interleavedBatch(1, 1, 4, ['web']);
  const [execs, exits] = parts;
  for (const { kind, payload, part } of parts)
    await Promise.all(nodes.map(node => publish(fixture.js, kind, payload(node), 'shop', 'web', part)));
  // Once more, as of an enricher that saw another pod.
  await publish(fixture.js, 'exec', execs!.payload('repeated'), 'shop', 'web', execs!.part);
  await publish(fixture.js, 'exec', execs!.payload('repeated'), 'shop', 'other', execs!.part);
  await publish(fixture.js, 'exit', exits!.payload('repeated'), 'shop', 'web', exits!.part);
  // The first part is missing, and of another node the last.
  await publish(fixture.js, 'exit', exits!.payload('torn'), 'shop', 'web', exits!.part);
  await publish(fixture.js, 'exec', execs!.payload('short'), 'shop', 'web', execs!.part);
  const expected = new Map([...nodes, 'repeated'].map(node => [node, [1, 2, 3, 4, 5, 6, 7, 8]]));
  expected.set('torn', [2, 4, 6, 8]);
  expected.set('short', [1, 3, 5, 7]);
  for (const order of ['oldest', 'newest']) {
    // So that most nodes are ahead of the first one, when a page ends.
    for (const limit of [7, 500]) {
      const byNode = new Map<string, number[]>();
      let cursor: string | null = '';
      for (; cursor !== null;) {
        const { status, body } = await fixture.get(`/api/v1/events?order=${order}&limit=${limit}${cursor ? `&cursor=${cursor}` : ''}`);
        assert.equal(status, 200, JSON.stringify(body));
        for (const { node, sequence } of body.events as Listed[]) byNode.set(node, [...(byNode.get(node) ?? []), sequence]);
        cursor = body.cursor;
      }
      if (order === 'newest') for (const sequences of byNode.values()) sequences.reverse();
      // What is met when all parts were is told again, as the same events.
      if (order === 'newest') byNode.set('repeated', byNode.get('repeated')!.slice(execs!.sequences.length));
      assert.deepEqual(byNode, new Map([...byNode.keys()].map(node => [node, expected.get(node)])), `${order} ${limit}`);
      assert.equal(byNode.size, expected.size);
    }
  }
});

test('NDJSON streams everything, and as much as was asked for', async () => {
  await using fixture = await startFixture();
  const count = await fill(fixture);
  const response = await fetch(`${fixture.api.url}/api/v1/events?order=oldest`, { headers: { accept: 'application/x-ndjson' } });
  assert.equal(response.headers.get('content-type'), 'application/x-ndjson');
  const lines = (await response.text()).trimEnd().split('\n');
  assert.deepEqual(
    lines.map(line => JSON.parse(line).sequence),
    Array.from({ length: count }, (_, i) => i + 1),
  );
  const limited = await fetch(`${fixture.api.url}/api/v1/events?format=ndjson&limit=5`);
  assert.equal((await limited.text()).trimEnd().split('\n').length, 5);
});

for (const version of ['new', 'debian'] as const)
  test(`every filter selects what it names, and leaves out what has a ! before it (${version} server)`, async () => {
    await using fixture = await startFixture({ version });
    const { js } = fixture;
    const commands = [{ type: ContainerCommandType.CONTAINER_COMMAND_TYPE_LIVENESS_PROBE, arguments: ['/probe'] }];
    const pods = [
      {
        uid: 'pod-1',
        name: 'web-1',
        namespace: 'shop',
        workload: 'web',
        labels: { app: 'web', tier: 'front' },
        containers: [{ name: 'nginx', commands }],
      },
    ];
    const containers = [{ id: 1, containerId: CONTAINER_ID, podUid: 'pod-1', name: 'nginx' }];
    const processes = [
      {
        id: 2,
        pid: 77,
        container: 1,
        execId: 'YTpiOmM=',
        binary: '/usr/sbin/nginx',
        arguments: ['nginx', '-g', 'Daemon OFF'],
        entered: true,
        entryArguments: ['/probe'],
      },
    ];
    await publish(js, 'exec', batchOf('exec', [{ sequence: 1 }], { pods, containers, processes }), 'shop', 'web');
    await publish(js, 'connect', batchOf('connect', [{ sequence: 2, pid: 5, binary: '/usr/bin/curl' }]));
    await publish(
      js,
      'exec',
      batchOf('exec', [{ sequence: 3, pid: 6, binary: '/usr/local/bin/x' }], { node: 'worker-2' }),
      '_host',
      'worker-2',
    );

    const cases: Record<string, number[] | undefined> = {
      'kind=connect': [2],
      'kind=exec,connect': [1, 2, 3],
      'kind=exec&kind=connect': [1, 2, 3],
      'namespace=shop': [1],
      'workload=worker-2': [3],
      'pod=web-1': [1],
      'pod=pod-1': [1],
      'node=worker-2': [3],
      'node=worker-1,worker-2': [1, 2, 3],
      'binary=/usr/bin/curl': [2],
      'binary=/usr/*bin': [],
      'binary=/usr/sbin/*,/usr/local/*': [1, 3],
      'pid=5,6': [2, 3],
      'exec_id=YTpiOmM%3D': [1],
      'text=daemon+off': [1],
      'text=10.0.0.1:443': [2],
      'text=NGINX': [1],
      'label=app%3Dweb': [1],
      'label=app%3Dweb,tier%3Dback': [],
      'label=tier': [1],
      'container=nginx': [1],
      [`container=${CONTAINER_ID}`]: [1],
      [`container=${CONTAINER_ID.slice(0, 12)}`]: [1],
      [`container=${CONTAINER_ID.slice(0, 11)}`]: [],
      'entered=probe': [1],
      'entered=exec,probe': [1],
      'entered=exec': [],
      'entered=!probe': [2, 3],
      'entered=!exec,!debug': [1, 2, 3],
      'entered=probed': undefined,
      'kind=!connect': [1, 3],
      'kind=!connect,!exec': [],
      'namespace=!shop': [2, 3],
      'namespace=!_host&kind=exec': [1],
      'workload=!worker-2': [1, 2],
      'workload=worker-2,web,!web': undefined,
      'pod=!web-1': [2, 3],
      'pod=!pod-1': [2, 3],
      'container=!nginx': [2, 3],
      [`container=!${CONTAINER_ID.slice(0, 12)}`]: [2, 3],
      'node=!worker-1': [3],
      'binary=!/usr/bin/*': [1, 3],
      'binary=/usr/*,!/usr/bin/*': [1, 3],
      'binary=!/usr/bin/curl&binary=!/usr/sbin/*': [3],
      'pid=!5': [1, 3],
      'pid=!5,6': [3],
      'exec_id=!YTpiOmM%3D': [2, 3],
      'label=!app%3Dweb': [2, 3],
      'label=!app%3Ddb': [1, 2, 3],
      'label=tier,!app%3Dweb': [],
      'kind=!': undefined,
      'kind=!dance': undefined,
      'pid=!!5': undefined,
      'kind=exec&node=worker-2&text=local': [3],
      'text=nothing+like+it': [],
    };
    for (const [query, expected] of Object.entries(cases)) {
      const { status, body } = await fixture.get(`/api/v1/events?order=oldest&${query}`);
      assert.equal(status, expected ? 200 : 400, `${query}: ${JSON.stringify(body)}`);
      if (expected === undefined) assert.equal(body.error.faults[0].field, query.split('=')[0]);
      else
        assert.deepEqual(
          body.events.map((event: { sequence: number }) => event.sequence),
          expected,
          query,
        );
    }
  });

test('a time range is exact, whatever the messages hold', async () => {
  await using fixture = await startFixture();
  const base = ktimeNow() - 10_000e6;
  const events = Array.from({ length: 10 }, (_, i) => ({ sequence: i + 1, ktimeNs: base + i * 1e9 }));
  await publish(fixture.js, 'exec', batchOf('exec', events.slice(0, 6)));
  await publish(fixture.js, 'exec', batchOf('exec', events.slice(6)));
  const at = (i: number) => new Date(BOOT_TIME_MS + events[i]!.ktimeNs / 1e6).toISOString();
  for (const order of ['oldest', 'newest']) {
    const { body } = await fixture.get(`/api/v1/events?order=${order}&from=${at(3)}&to=${at(8)}`);
    const sequences = body.events.map((event: { sequence: number }) => event.sequence);
    assert.deepEqual(order === 'oldest' ? sequences : sequences.toReversed(), [4, 5, 6, 7, 8]);
  }
  const none = await fixture.get('/api/v1/events?to=-1h');
  assert.deepEqual(none.body, { events: [], cursor: null, scanned: 0, complete: true });
});

test('every fault of a request is named at once', async () => {
  await using fixture = await startFixture();
  const { status, body } = await fixture.get('/api/v1/events?kind=exec,dance&pid=0&limit=many&form=json&from=yesterday&order=&cursor=AAAA');
  assert.equal(status, 400);
  assert.equal(body.error.code, 'PARAMETERS_INVALID');
  assert.deepEqual(body.error.faults.map((fault: { field: string }) => fault.field).toSorted(), [
    'cursor',
    'form',
    'from',
    'kind',
    'limit',
    'order',
    'pid',
  ]);
  for (const fault of body.error.faults) assert.ok(fault.expected && fault.got, JSON.stringify(fault));
});

test('a cursor continues its own query only, and says when its place is gone', async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  const { body } = await fixture.get('/api/v1/events?order=oldest&kind=exec&limit=5');
  const other = await fixture.get(`/api/v1/events?order=oldest&kind=exit&limit=5&cursor=${body.cursor}`);
  assert.equal(other.status, 400);
  assert.equal(other.body.error.faults[0].field, 'cursor');
  const stream = await (await fixture.js.jetstreamManager()).streams.get('EVENTS');
  assert.ok(stream);
  await (await fixture.js.jetstreamManager()).streams.purge('EVENTS', { seq: 100 });
  const gone = await fixture.get(`/api/v1/events?order=oldest&kind=exec&limit=5&cursor=${body.cursor}`);
  assert.equal(gone.status, 410);
  assert.equal(gone.body.error.code, 'CURSOR_EXPIRED');
});

test('a message that is no batch does not hide the others', async () => {
  await using fixture = await startFixture();
  await publish(fixture.js, 'exec', batchOf('exec', [{ sequence: 1 }]));
  await fixture.js.publish(eventSubject(Kind.KIND_EXEC, HOST_NAMESPACE, NODE), Buffer.from('\xff\xff\xffnonsense', 'latin1'));
  await publish(fixture.js, 'exec', batchOf('exec', [{ sequence: 3 }]));
  const { sequences } = await readAll(fixture, 'order=oldest');
  assert.deepEqual(sequences, [1, 3]);
  const metrics = await (await fetch(`${fixture.api.url}/metrics`)).text();
  assert.match(metrics, /tidegate_api_unreadable_messages_total 1/);
});
