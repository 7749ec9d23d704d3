import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HOST_NAMESPACE, Kind, STREAMS, encodeBatch, eventSubject, kindNumber, type EventBatchInput } from '@tidegate/contracts';
import { createStreamReaders } from '@tidegate/runtime';
import { waitFor } from '@tidegate/testkit';
import { parseExecId } from '../src/exec-id.ts';
import { processRanges } from '../src/process-start.ts';
import { BOOT_TIME_MS, NODE, execId, ktimeNow, publish } from '@tidegate/testkit/event-messages';
import { startFixture, type Fixture } from './fixture.ts';

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
  assert.deepEqual((await fixture.get('/api/v1/processes?pid=33&node=worker-9')).body, { processes: [], cursor: null, complete: true });
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

const BUSY_PROCESSES = 30_000;
const FLUSHED_AT_ONCE = 1_000;

/** A loop that starts one program after the other, each exec and each exit a message of its own; `found` and what it starts are in the middle. */
async function keepBusy({ js, nc }: Fixture): Promise<{ found: string; child: string; missing: string }> {
  const ktimeOf = (i: number) => START + i * 2_600_000;
  const middle = BUSY_PROCESSES / 2;
  const shell = { id: 1, pid: 700, binary: '/bin/sh', execId: execId(700, START - 1e9), startKtimeNs: START - 1e9 };
  const programOf = (i: number) => {
    const pid = 1_000 + i;
    return { id: 2, parent: 1, pid, binary: '/bin/true', arguments: ['true'], execId: execId(pid, ktimeOf(i)), startKtimeNs: ktimeOf(i) };
  };
  // The one in the middle starts the next.
  const childOf = (i: number) => ({ ...programOf(i), id: 3, parent: 2 });
  const event = (i: number, kind: 'exec' | 'exit') => {
    const isChild = i === middle + 1;
    const processes = isChild ? [shell, programOf(middle), childOf(i)] : [shell, programOf(i)];
    const detail = kind === 'exec' ? { kind: Kind.KIND_EXEC, exec: {} } : { kind: Kind.KIND_EXIT, exit: { code: i % 256 } };
    const events = [
      { process: isChild ? 3 : 2, sequence: 1 + i * 2 + (kind === 'exec' ? 0 : 1), ktimeNs: ktimeOf(i) + 1_000_000, ...detail },
    ];
    return encodeBatch({ node: NODE, boot: 'b', batch: i + 1, wallOffsetNs: BOOT_TIME_MS * 1e6, processes, events });
  };
  // Without acks, and flushed so that what waits in the client stays small.
  for (let i = 0; i < BUSY_PROCESSES; i++) {
    for (const kind of ['exec', 'exit'] as const) nc.publish(eventSubject(kindNumber(kind)!, HOST_NAMESPACE, NODE), event(i, kind));
    if (i % FLUSHED_AT_ONCE === 0) await nc.flush();
  }
  const isStored = async () =>
    (await js.jetstreamManager()).streams.info(STREAMS.events.name).then(({ state }) => state.messages === BUSY_PROCESSES * 2);
  await waitFor(isStored, { what: 'all events to be stored' });
  return { found: programOf(middle).execId, child: childOf(middle + 1).execId, missing: execId(4, ktimeOf(middle)) };
}

test('on a busy node a process is found where its exec_id says, by its pid with the cursor, and what was not searched is said', async () => {
  await using fixture = await startFixture();
  const { found, child, missing } = await keepBusy(fixture);
  const tree = await fixture.get(`/api/v1/processes/${encodeURIComponent(found)}`);
  assert.equal(tree.status, 200, JSON.stringify(tree.body));
  assert.equal(tree.body.process.exec_id, found);
  assert.equal(tree.body.exit.exit.code, (BUSY_PROCESSES / 2) % 256);
  assert.deepEqual(
    tree.body.children.map((node: Node & { process: { exec_id: string } }) => node.process.exec_id),
    [child],
  );
  assert.equal(tree.body.complete, tree.body.not_searched.length === 0);

  const { pid } = tree.body.process;
  let page = await fixture.get(`/api/v1/processes?pid=${pid}`);
  let pages = 1;
  for (; page.body.processes.length === 0 && page.body.cursor !== null; pages++)
    page = await fixture.get(`/api/v1/processes?pid=${pid}&cursor=${page.body.cursor}`);
  assert.equal(page.body.processes[0]?.process.exec_id, found, `after ${pages} pages`);

  const { status, body } = await fixture.get(`/api/v1/processes/${encodeURIComponent(missing)}`);
  assert.equal(status, 404);
  const stored = String.raw`exec, exit stored from \S+Z to \S+Z`;
  assert.match(body.error.message, new RegExp(`^no event of this process was found(; not searched, .*: events ${stored})?`));
});

for (const version of ['new', 'debian'] as const) {
  test(`the place of a process is found by its node's clock, whatever the wall clock did and however often the node was started (${version} server)`, async () => {
    await using fixture = await startFixture({ version });
    const { js, nc } = fixture;
    const hour = 3_600e9;
    /** Stream sequences of one message an hour, of a boot that began so many hours after the epoch of this test. */
    const runFor = async (bootHour: number, hours: number, step = 0) => {
      const sequences: number[] = [];
      for (let i = 1; i <= hours; i++) {
        const wallOffsetNs = (1_700_000 + bootHour) * hour + (i > hours / 2 ? step : 0);
        const events = [{ kind: Kind.KIND_EXEC, process: 1, sequence: 1, ktimeNs: i * hour, exec: {} }];
        const payload = encodeBatch({ node: NODE, boot: 'b', wallOffsetNs, processes: [{ id: 1, pid: 1, execId: 'x' }], events });
        sequences.push(await publish(js, 'exec', payload));
        await publish(js, 'exec', encodeBatch({ node: 'other', boot: 'b', events: [] }), '_host', 'other');
      }
      return sequences;
    };
    const older = await runFor(0, 40);
    const present = await runFor(60, 20, 30e9);
    const readers = await createStreamReaders(nc);
    try {
      const stored = await readers.bounds(STREAMS.events.name);
      const rangesOf = async (ktimeNs: number) => {
        const ranges = [];
        for await (const range of processRanges(parseExecId(execId(5, ktimeNs))!, stored, readers)) ranges.push(range);
        return ranges;
      };
      // Just after the message of the hour before, in each boot that may be meant.
      assert.deepEqual(await rangesOf(15.5 * hour), [
        { first: present[14]! + 1, last: stored.last },
        { first: older[14]! + 1, last: present[0]! - 1 },
      ]);
      assert.deepEqual((await rangesOf(30.5 * hour))[1], { first: older[29]! + 1, last: present[0]! - 1 });
      assert.deepEqual((await rangesOf(0))[1], { first: stored.first, last: present[0]! - 1 });
      const unknown = parseExecId(execId(5, hour, 'nobody'))!;
      assert.ok((await processRanges(unknown, stored, readers).next()).done);
    } finally {
      readers.close();
    }
  });
}
