import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Kind, encodeBatch, type EventBatchInput } from '@tidegate/contracts';
import { BOOT_TIME_MS, NODE, execId, ktimeNow, publish, startFixture, type Fixture } from './fixture.ts';

interface Node {
  process: { pid: number; binary: string };
  exec?: { sequence: number };
  exit?: { exit: { code: number } };
  children: Node[];
}

const START = ktimeNow() - 60_000e6;
/** init(1) > sshd(10) > bash(20) > make(30) > cc(31), cc(32); bash > ls(33). Position: process id in the tables. */
const PROCESSES = [
  { id: 1, parent: 0, pid: 1, binary: '/sbin/init' },
  { id: 2, parent: 1, pid: 10, binary: '/usr/sbin/sshd' },
  { id: 3, parent: 2, pid: 20, binary: '/bin/bash' },
  { id: 4, parent: 3, pid: 30, binary: '/usr/bin/make' },
  { id: 5, parent: 4, pid: 31, binary: '/usr/bin/cc' },
  { id: 6, parent: 4, pid: 32, binary: '/usr/bin/cc' },
  { id: 7, parent: 3, pid: 33, binary: '/bin/ls' },
].map(process => {
  const startKtimeNs = START + process.pid * 1e6;
  return { ...process, execId: execId(process.pid, startKtimeNs), startKtimeNs, arguments: [process.binary] };
});
const idOf = (pid: number) => PROCESSES.find(process => process.pid === pid)!.execId;

/** A process with its ancestors, as every message has them. */
function lineOf(pid: number): typeof PROCESSES {
  const line = [];
  for (let process = PROCESSES.find(each => each.pid === pid); process; process = PROCESSES.find(each => each.id === process.parent))
    line.push(process);
  return line;
}

async function happen({ js }: Fixture, kind: 'exec' | 'exit', pid: number, sequence: number, more: EventBatchInput = {}): Promise<void> {
  const processes = lineOf(pid);
  const detail = kind === 'exec' ? { exec: { rawPath: 'x' } } : { exit: { code: pid } };
  const payload = encodeBatch({
    node: NODE,
    boot: 'b',
    wallOffsetNs: BOOT_TIME_MS * 1e6,
    processes,
    events: [
      {
        kind: kind === 'exec' ? Kind.KIND_EXEC : Kind.KIND_EXIT,
        process: processes[0]!.id,
        sequence,
        ktimeNs: START + sequence * 1e8,
        ...detail,
      },
    ],
    ...more,
  });
  await publish(js, kind, payload);
}

/** sshd ran before; bash and make with its children come and go. */
async function fill(fixture: Fixture): Promise<void> {
  let sequence = 1;
  for (const pid of [20, 30, 31, 32]) await happen(fixture, 'exec', pid, sequence++);
  for (const pid of [31, 32, 30]) await happen(fixture, 'exit', pid, sequence++);
  await happen(fixture, 'exec', 33, sequence++);
}

const shape = ({ process, children }: Node): unknown => [process.pid, children.map(shape)];

test('a process is shown with its ancestors up to init, its end, and all it started', async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  const make = await fixture.get(`/api/v1/processes/${encodeURIComponent(idOf(30))}`);
  assert.equal(make.status, 200, JSON.stringify(make.body));
  assert.deepEqual(shape(make.body), [
    30,
    [
      [31, []],
      [32, []],
    ],
  ]);
  assert.deepEqual(
    make.body.ancestors.map((process: { pid: number }) => process.pid),
    [20, 10, 1],
  );
  assert.equal(make.body.exec.sequence, 2);
  assert.equal(make.body.exit.exit.code, 30);
  assert.equal(make.body.complete, true);
  const bash = await fixture.get(`/api/v1/processes/${encodeURIComponent(idOf(20))}`);
  assert.deepEqual(shape(bash.body), [
    20,
    [
      [
        30,
        [
          [31, []],
          [32, []],
        ],
      ],
      [33, []],
    ],
  ]);
  assert.equal(bash.body.exit, undefined);
  // It ran before anything was recorded: known through its descendants alone.
  const sshd = await fixture.get(`/api/v1/processes/${Buffer.from(idOf(10), 'base64').toString('base64url')}`);
  assert.equal(sshd.body.process.binary, '/usr/sbin/sshd');
  assert.equal(sshd.body.exec, undefined);
  assert.equal(sshd.body.children.length, 1);
});

test('a pid gives its candidates, newest first', async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  const again = { ...PROCESSES[6]!, execId: execId(33, START + 5e9), binary: '/bin/cat' };
  await happen(fixture, 'exec', 33, 9, { processes: [again, ...lineOf(20)] });
  const { body } = await fixture.get('/api/v1/processes?pid=33');
  assert.deepEqual(
    body.processes.map((candidate: { process: { binary: string } }) => candidate.process.binary),
    ['/bin/cat', '/bin/ls'],
  );
  assert.equal(body.complete, true);
  assert.deepEqual((await fixture.get('/api/v1/processes?pid=33&node=worker-9')).body, { processes: [], complete: true });
  const init = await fixture.get('/api/v1/processes?pid=1&limit=1');
  assert.equal(init.body.processes[0].process.binary, '/sbin/init');
});

test('what is no exec_id, or not there, is said so', async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  for (const wrong of ['x', '%00', 'YTpi', encodeURIComponent('a:1:2'), Buffer.from('a:b:c').toString('base64'), 'A'.repeat(300)]) {
    const { status, body } = await fixture.get(`/api/v1/processes/${wrong}`);
    assert.equal(status, 400, wrong);
    assert.equal(body.error.faults[0].field, 'exec_id');
  }
  const { status, body } = await fixture.get(`/api/v1/processes/${encodeURIComponent(execId(99, START))}`);
  assert.equal(status, 404);
  assert.equal(body.error.code, 'PROCESS_NOT_FOUND');
  assert.equal((await fixture.get('/api/v1/processes')).status, 400);
});

test('a table of processes that refers to itself does not hang the search', async () => {
  await using fixture = await startFixture();
  const looped = PROCESSES.map(process => ({ ...process, parent: process.id === 1 ? 7 : process.parent }));
  await happen(fixture, 'exec', 33, 1, { processes: looped });
  const { status } = await fixture.get(`/api/v1/processes/${encodeURIComponent(idOf(33))}`);
  assert.equal(status, 200);
});
