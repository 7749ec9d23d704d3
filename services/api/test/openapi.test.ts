import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  ContainerType,
  Kind,
  LossReason,
  ProcessOrigin,
  detailSchemas,
  encodeBatch,
  kindNumber,
  type Event,
  type EventBatchInput,
} from '@tidegate/contracts';
import { BOOT_TIME_MS, NODE, execId, ktimeNow, publish } from '@tidegate/testkit/event-messages';
import { startFixture, type Fixture } from './fixture.ts';
import { SchemaCheck } from './schema-check.ts';

const START = ktimeNow() - 30_000e6;
const INODE = 9_223_372_036_854_775_810n;
const PARENT_ID = execId(10, START);
const CHILD_ID = execId(20, START + 1e6);

const FULL_PROCESS = {
  kernelParentExecId: execId(1, 1),
  kernelParentPid: 1,
  container: 1,
  binary: '/bin/ls',
  arguments: ['ls', '\ufffd'],
  argumentsTruncated: true,
  rawArguments: Buffer.from('ls\0\xff\0', 'latin1'),
  cwd: '/',
  kernelThread: true,
  entered: true,
  entryArguments: ['sh'],
};

/** Tables and events in which nothing that the schema has is left out. */
const RUNNING = { origin: ProcessOrigin.PROCESS_ORIGIN_RUNNING };
const TABLES: EventBatchInput = {
  cluster: 'c1',
  node: NODE,
  boot: 'b',
  batch: 1,
  wallOffsetNs: BigInt(BOOT_TIME_MS) * 1_000_000n + 123_456n,
  recorded: true,
  containers: [
    {
      id: 1,
      containerId: 'c0ffee',
      podUid: 'pod-1',
      runtime: 'containerd',
      cgroupId: 7,
      cgroupPath: '/x',
      name: 'nginx',
      image: 'nginx:1',
      sandbox: true,
      unconfirmed: true,
    },
  ],
  processes: [
    { ...RUNNING, id: 1, execId: execId(1, 1), pid: 1, binary: '/sbin/init', arguments: ['init'], ancestorsCut: true },
    { ...FULL_PROCESS, id: 2, parent: 1, execId: PARENT_ID, pid: 10, startKtimeNs: START },
    { ...FULL_PROCESS, id: 3, parent: 2, execId: CHILD_ID, pid: 20, startKtimeNs: START + 1e6 },
  ],
  pods: [
    {
      uid: 'pod-1',
      namespace: 'shop',
      name: 'web-1',
      workload: 'web',
      workloadKind: 'Deployment',
      labels: { app: 'web' },
      annotations: { note: 'x' },
      serviceAccount: 'default',
      ips: ['10.0.0.9'],
      qosClass: 'Burstable',
      containers: [
        { name: 'nginx', containerId: 'c0ffee', imageId: 'sha256:1', privileged: true, type: ContainerType.CONTAINER_TYPE_REGULAR },
      ],
      unresolved: true,
    },
  ],
  destinations: [
    { ip: '10.0.0.1', namespace: 'shop', pod: 'db-0', workload: 'db', workloadKind: 'StatefulSet', service: 'db', node: 'worker-2' },
  ],
};
const ENDS = { sourceIp: '10.0.0.9', sourcePort: 40_000, destinationIp: '10.0.0.1', destinationPort: 443, socket: INODE };
/** What kinds have of their own; of one that is not here everything is zero. */
const DETAILS: Event = {
  exec: { rawPath: 'ls', file: { inode: INODE }, namespaces: {}, credentials: { uid: 1001, loginUid: 0 } },
  connect: ENDS,
  accept: ENDS,
  listen: { sourceIp: '10.0.0.9', sourcePort: 80 },
  close: { ...ENDS, durationNs: 1 },
  loss: { reason: LossReason.LOSS_REASON_RING_FULL, count: 3, firstSequence: 90, lastSequence: 92, byKind: { 1: 3 } },
};
const KINDS = Object.keys(detailSchemas) as (keyof typeof detailSchemas)[];

async function fill({ js }: Fixture): Promise<void> {
  for (const [i, kind] of KINDS.entries()) {
    const event: Event = { kind: kindNumber(kind)!, [kind]: DETAILS[kind] ?? {} };
    const common = { process: 3, sequence: i + 1, ktimeNs: START + (i + 1) * 1e6, tid: 21 };
    await publish(js, kind, encodeBatch({ ...TABLES, events: [{ ...common, ...event }] }), 'shop', 'web');
  }
}

/** A process with more descendants than a tree shows, and messages that are then not searched; returns its exec_id. */
async function growTree({ js }: Fixture): Promise<string> {
  const node = 'worker-3';
  const tables = {
    node,
    wallOffsetNs: TABLES.wallOffsetNs!,
    processes: Array.from({ length: 5_001 }, (_, i) => ({
      id: i + 1,
      parent: i === 0 ? 0 : 1,
      pid: i + 1,
      execId: execId(i + 1, START + i, node),
    })),
  };
  for (const sequence of [1, 2, 3]) {
    const event = { kind: Kind.KIND_EXEC, process: 1, sequence, ktimeNs: START + sequence * 1e6, exec: {} };
    await publish(js, 'exec', encodeBatch({ ...tables, events: [event] }), '_host', node);
  }
  return execId(1, START, node);
}

test('answers are what the OpenAPI document says, and it says nothing that is not in them', async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  const check = new SchemaCheck((await fixture.get('/docs/json')).body);
  const ask = async (path: string, query: string, expected = 200) => {
    const { status, body } = await fixture.get(query);
    assert.equal(status, expected, JSON.stringify(body));
    assert.deepEqual(check.faults(path, status, body), [], query);
    return body;
  };
  const events = '/api/v1/events';
  await ask(events, `${events}?limit=2`);
  const page = await ask(events, `${events}?order=oldest`);
  assert.deepEqual(
    page.events.map(({ kind }: { kind: string }) => kind),
    Object.keys(detailSchemas),
  );
  const feedOnly = ['from', 'to', 'first_stream_sequence', 'last_stream_sequence'].map(name => `$.events[].loss.${name}`);
  assert.deepEqual(check.unseen(events, 200), feedOnly);

  const processes = '/api/v1/processes';
  await ask(processes, `${processes}?pid=20`);
  assert.deepEqual(check.unseen(processes, 200), []);
  const tree = '/api/v1/processes/{exec_id}';
  await ask(tree, `${processes}/${encodeURIComponent(PARENT_ID)}`);
  await ask(tree, `${processes}/${encodeURIComponent(CHILD_ID)}`);
  const full = await ask(tree, `${processes}/${encodeURIComponent(await growTree(fixture))}`);
  assert.equal(full.complete, false);
  assert.deepEqual(
    check.unseen(tree, 200),
    feedOnly.map(path => path.replace('$.events[]', '$.exec')),
  );

  await ask('/api/v1/status', '/api/v1/status');
  await ask(events, `${events}?limit=x`, 400);
  await ask(tree, `${processes}/${encodeURIComponent(execId(77, START))}`, 404);
});

test('numbers that pass 2^53 reach a client exactly, and times have six digits in events as in filters', async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  const { body } = await fixture.get('/api/v1/events?order=oldest');
  const [exec, exit, connect] = body.events;
  assert.equal(exec.exec.file.inode, String(INODE));
  assert.equal(connect.connect.socket, String(INODE));
  assert.deepEqual([exec.exec.credentials.uid, exec.exec.credentials.euid, exit.exit.code], [1001, 0, 0]);
  assert.match(exec.time, /\.\d{3}123Z$/, 'the microseconds of the clock offset');
  // An event's own time finds it, and nothing before it.
  const { body: since } = await fixture.get(`/api/v1/events?order=oldest&from=${exit.time}&to=${connect.time}`);
  assert.deepEqual(
    since.events.map(({ sequence }: { sequence: number }) => sequence),
    [exit.sequence],
  );
});
