import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import {
  BatchError,
  BatchField,
  createEventReader,
  decodeBatch,
  encodeBatch,
  EventField,
  eventsToJson,
  Kind,
  KIND_LIMIT,
  kindName,
  leadingNumbers,
  LossReason,
  ProcessOrigin,
  thinBatch,
  walkFields,
  WireCursor,
  type Event as EventInput,
  type EventBatchInput,
  type EventJson,
} from '../src/index.ts';

const FUZZ_ROUNDS = 20_000;

function sampleBatch(): EventBatchInput {
  return {
    cluster: 'east',
    node: 'node-a',
    boot: '18c1',
    batch: 7,
    wallOffsetNs: 1_700_000_000_000_000_000,
    containers: [{ id: 1, containerId: 'c0ffee', podUid: 'uid-1', runtime: 'containerd' }],
    processes: [
      { id: 1, execId: 'aW5pdA==', pid: 1, binary: '/sbin/init', origin: ProcessOrigin.PROCESS_ORIGIN_RUNNING },
      { id: 2, parent: 1, execId: 'c2g=', pid: 20, binary: '/bin/sh', kernelParentExecId: 'cmVhcGVy', kernelParentPid: 9 },
      { id: 3, parent: 2, container: 1, execId: 'bHM=', pid: 21, uid: 1000, binary: '/bin/ls', arguments: ['ls', 'a\nb', ''], cwd: '/tmp' },
    ],
    pods: [{ uid: 'uid-1', namespace: 'shop', name: 'web-1', workload: 'web', workloadKind: 'Deployment', labels: { app: 'web' } }],
    events: [
      {
        kind: Kind.KIND_EXEC,
        process: 3,
        sequence: 11,
        ktimeNs: 5_000_000_000,
        exec: { rawPath: 'ls', credentials: { uid: 1000, loginUid: 0 } },
      },
      {
        kind: Kind.KIND_CONNECT,
        process: 3,
        sequence: 12,
        ktimeNs: 5_000_001_000,
        connect: { destinationIp: '10.0.0.1', destinationPort: 443 },
      },
      { kind: Kind.KIND_CLOSE, process: 3, sequence: 13, ktimeNs: 5_000_002_000, close: { bytesSent: 3 } },
      { kind: Kind.KIND_EXIT, process: 3, sequence: 14, ktimeNs: 5_000_003_000, exit: { code: 2 } },
    ],
  };
}

test('an event as JSON is whole by itself', () => {
  const [exec, connect] = eventsToJson(decodeBatch(encodeBatch(sampleBatch())), { namespace: 'shop', workload: 'web' });
  assert.equal(exec?.id, 'east:node-a:11');
  assert.equal(exec.time, '2023-11-14T22:13:25.000000Z');
  assert.deepEqual(exec.process?.arguments, ['ls', 'a\nb', '']);
  assert.equal(exec.process?.parent_exec_id, 'c2g=');
  assert.equal('kernel_parent_exec_id' in exec.process, false);
  assert.deepEqual([exec.parent?.kernel_parent_exec_id, exec.parent?.kernel_parent_pid], ['cmVhcGVy', 9]);
  assert.equal(exec.parent?.binary, '/bin/sh');
  assert.deepEqual(
    exec.ancestors?.map(each => each.pid),
    [1],
  );
  assert.equal(exec.container?.id, 'c0ffee');
  assert.equal(exec.pod?.workload, 'web');
  assert.deepEqual(exec.pod?.labels, { app: 'web' });
  assert.equal(exec.exec?.raw_path, 'ls');
  assert.equal(connect?.connect?.destination_ip, '10.0.0.1');
  assert.doesNotThrow(() => JSON.stringify(exec));
});

/** The JSON of one event, through the wire. */
function jsonOf(event: EventInput, more: EventBatchInput = {}): EventJson {
  return eventsToJson(decodeBatch(encodeBatch({ node: 'n', boot: 'b', ...more, events: [event] })))[0]!;
}

test('events of two clusters whose nodes have one name are told apart by id, not by exec_id', () => {
  const [east, west] = ['east', 'west'].map(cluster => eventsToJson(decodeBatch(encodeBatch({ ...sampleBatch(), cluster }))));
  assert.deepEqual(
    east!.map(event => event.process?.exec_id),
    west!.map(event => event.process?.exec_id),
  );
  const idsOf = (events: typeof east) => events!.flatMap(event => event.id ?? []);
  assert.ok(idsOf(east).length > 0);
  assert.deepEqual(
    idsOf(east).filter(id => idsOf(west).includes(id)),
    [],
  );
  // What the store of both has to key processes by.
  assert.equal(
    new Set([...east!, ...west!].map(({ cluster, process }) => `${cluster} ${process?.exec_id}`)).size,
    2 * new Set(east!.map(event => event.process?.exec_id)).size,
  );
});

test('every field of a kind is in its JSON, zeros too, and no field of another kind', () => {
  assert.deepEqual(jsonOf({ kind: Kind.KIND_EXIT, exit: {} }).exit, {
    code: 0,
    signal: 0,
    core_dumped: false,
    duration_ns: '0',
    user_ns: '0',
    system_ns: '0',
  });
  // A program of root's with the setuid bit, started by uid 1001.
  const credentials = { uid: 1001, gid: 1001, egid: 1001, sgid: 1001, fsgid: 1001, capPermitted: 2 ** 41 - 1, capBounding: 2 ** 41 - 1 };
  assert.deepEqual(jsonOf({ kind: Kind.KIND_EXEC, exec: { credentials } }).exec?.credentials, {
    uid: 1001,
    gid: 1001,
    euid: 0,
    egid: 1001,
    suid: 0,
    sgid: 1001,
    fsuid: 0,
    fsgid: 1001,
    securebits: 0,
    cap_permitted: '2199023255551',
    cap_effective: '0',
    cap_inheritable: '0',
    cap_bounding: '2199023255551',
    cap_ambient: '0',
  });
  // What has presence is there when it is set, to zero as well.
  assert.equal(jsonOf({ kind: Kind.KIND_EXEC, exec: { credentials: { loginUid: 0 } } }).exec?.credentials?.login_uid, 0);
  const ends = { source_ip: '', source_port: 0, destination_ip: '', destination_port: 0, socket: '0', network_namespace: 0 };
  assert.deepEqual(jsonOf({ kind: Kind.KIND_CONNECT, connect: {} }).connect, { ...ends, error: 0 });
  assert.deepEqual(jsonOf({ kind: Kind.KIND_ACCEPT, accept: {} }).accept, ends);
  assert.deepEqual(jsonOf({ kind: Kind.KIND_CLOSE, close: {} }).close, { ...ends, bytes_sent: 0, bytes_received: 0 });
  assert.equal(jsonOf({ kind: Kind.KIND_CLOSE, close: { durationNs: 5 } }).close?.duration_ns, '5');
  assert.deepEqual(jsonOf({ kind: Kind.KIND_LISTEN, listen: {} }).listen, {
    source_ip: '',
    source_port: 0,
    socket: '0',
    backlog: 0,
    network_namespace: 0,
  });
  assert.deepEqual(jsonOf({ kind: Kind.KIND_LOSS, loss: { reason: LossReason.LOSS_REASON_POISON } }).loss, {
    reason: 'poison',
    count: 0,
    first_sequence: 0,
    last_sequence: 0,
    from_ktime_ns: '0',
    to_ktime_ns: '0',
    by_kind: {},
  });
});

test('what can pass 2^53 is exact in JSON, as a decimal', () => {
  const values = [0n, 1n, 2n ** 31n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 53n + 1n, 9_223_372_036_854_775_810n, 2n ** 64n - 1n];
  for (let bit = 1n; bit < 64n; bit++) values.push((1n << bit) + (1n << (bit - 1n)) + 1n);
  for (const value of values) {
    const text = String(value);
    const exec = jsonOf({
      kind: Kind.KIND_EXEC,
      ktimeNs: value,
      exec: { cgroupId: value, file: { inode: value }, credentials: { capAmbient: value } },
    });
    assert.equal(exec.ktime_ns, text);
    assert.deepEqual([exec.exec?.cgroup_id, exec.exec?.file?.inode, exec.exec?.credentials?.cap_ambient], [text, text, text]);
    assert.equal(jsonOf({ kind: Kind.KIND_CLOSE, close: { socket: value } }).close?.socket, text);
  }
});

test('the time of an event is cut to microseconds, exactly, whatever the parts round to', () => {
  const parts = [
    0n,
    1n,
    999n,
    1_000n,
    9_007_199_254_740_991n,
    9_007_199_254_740_999n,
    9_100_000_000_000_000_999n / 1_000n,
    86_400_000_000_001n,
  ];
  const offsets = [1_700_000_000_000_000_000n, 1_700_000_000_123_456_789n, 1_700_000_000_123_456_999n];
  for (const offset of offsets) {
    for (const ktimeNs of parts) {
      const { time } = jsonOf({ kind: Kind.KIND_EXIT, ktimeNs, exit: {} }, { wallOffsetNs: offset });
      const us = (offset + ktimeNs) / 1_000n;
      const expected = `${new Date(Number(us / 1_000_000n) * 1000).toISOString().slice(0, 19)}.${String(us % 1_000_000n).padStart(6, '0')}Z`;
      assert.equal(time, expected, `${offset} + ${ktimeNs}`);
    }
  }
  // Bytes that no sensor wrote still make an event.
  assert.match(jsonOf({ kind: Kind.KIND_EXIT, ktimeNs: 2n ** 64n - 1n, exit: {} }, { wallOffsetNs: 2n ** 63n - 1n }).time, /^\d{4}-.*Z$/);
  assert.match(jsonOf({ kind: Kind.KIND_EXIT, exit: {} }, { wallOffsetNs: -(2n ** 63n) }).time, /^\d{4}-.*Z$/);
});

test('the schema marks what can pass 2^53: nanoseconds, bit sets and identifiers; the rest are counts', async () => {
  const schema = await readFile(new URL('../proto/tidegate/v1/events.proto', import.meta.url), 'utf8');
  const wide = [...schema.matchAll(/\b(?:u?int64|fixed64)\b>? (\w+) = \d+( \[jstype = JS_STRING\])?;/g)];
  assert.ok(wide.length > 20);
  const isCount = /^(batch|sequence|count|by_kind|first_sequence|last_sequence|bytes_sent|bytes_received)$/;
  for (const [, name, mark] of wide) assert.equal(mark === undefined, isCount.test(name!), name);
});

test('a table that refers to itself does not hang the reader', () => {
  const batch = sampleBatch();
  batch.processes = [{ id: 3, parent: 3, execId: 'x' }];
  const [event] = eventsToJson(decodeBatch(encodeBatch(batch)));
  assert.deepEqual([event?.ancestors?.length, event?.ancestors_cut], [31, true]);
});

test('of a long line of parents an event has 32, and says that there are more', () => {
  const generations = (count: number, more: { ancestorsCut?: true } = {}) => {
    const processes = Array.from({ length: count }, (_, i) => ({
      id: i + 1,
      parent: i,
      execId: String(i),
      pid: i + 1,
      ...(i === 0 && more),
    }));
    const [event] = eventsToJson(
      decodeBatch(encodeBatch({ ...sampleBatch(), processes, events: [{ kind: Kind.KIND_EXIT, process: count, exit: {} }] })),
    );
    return [event?.parent?.pid, event?.ancestors?.length, event?.ancestors_cut];
  };
  assert.deepEqual(generations(33), [32, 31, undefined]);
  assert.deepEqual(generations(34), [33, 31, true]);
  assert.deepEqual(generations(3, { ancestorsCut: true }), [2, 1, true]);
  assert.deepEqual(generations(1, { ancestorsCut: true }), [undefined, undefined, true]);
});

test('walking finds every field where the decoder finds it', () => {
  const payload = encodeBatch(sampleBatch());
  const cursor = new WireCursor(payload);
  const numbers = new Float64Array(EventField.ktimeNs + 1);
  const seen: number[][] = [];
  let tables = 0;
  walkFields(payload, (field, _wireType, _start, body, end) => {
    if (field === BatchField.events) {
      leadingNumbers(cursor, body, end, numbers);
      seen.push([...numbers.subarray(EventField.kind)]);
    } else if (field === BatchField.processes) tables++;
  });
  assert.equal(tables, 3);
  assert.deepEqual(
    seen,
    sampleBatch().events?.map(event => [event.kind, event.process, event.sequence, event.ktimeNs]),
  );
});

test('kinds of the schema keep to the room that readers give them', () => {
  assert.deepEqual(
    Object.values(Kind).filter(kind => typeof kind === 'number' && kind >= KIND_LIMIT),
    [],
  );
  assert.equal(kindName(KIND_LIMIT - 1), 'kind-1023');
});

test('thinning drops data events, keeps lifecycle, and counts what it dropped', () => {
  const thinned = thinBatch(encodeBatch(sampleBatch()));
  assert.equal(thinned.dropped, 2);
  const batch = decodeBatch(thinned.payload);
  assert.deepEqual(
    batch.events.map(event => event.kind),
    [Kind.KIND_EXEC, Kind.KIND_EXIT, Kind.KIND_LOSS],
  );
  assert.equal(thinned.events, batch.events.length);
  const loss = batch.events[2]?.loss;
  assert.equal(loss?.reason, LossReason.LOSS_REASON_SPOOL_FULL);
  assert.deepEqual([loss.count, loss.firstSequence, loss.lastSequence], [2, 12, 13]);
  assert.deepEqual(loss.byKind, { [Kind.KIND_CONNECT]: 1, [Kind.KIND_CLOSE]: 1 });
  assert.equal(batch.processes.length, 3);
  const again = thinBatch(thinned.payload);
  assert.equal(again.dropped, 0);
  assert.equal(again.payload, thinned.payload);
});

test('mutated batches give a BatchError or a walk that stays inside, never anything else', () => {
  const original = encodeBatch(sampleBatch());
  let state = 42;
  const random = (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return state % below;
  };
  let faults = 0;
  for (let round = 0; round < FUZZ_ROUNDS; round++) {
    const bytes = Uint8Array.from(original.subarray(0, 1 + random(original.length)));
    for (let i = random(8); i >= 0; i--) bytes[random(bytes.length)] = random(256);
    try {
      thinBatch(bytes);
    } catch (error) {
      if (!(error instanceof BatchError)) throw error;
      assert.ok(error.offset <= bytes.length);
      faults++;
    }
  }
  assert.ok(faults > FUZZ_ROUNDS / 10, `only ${faults} mutations were faults`);
});

test('the text of an event is what JSON.stringify makes of it, for every kind and whatever processes are called', () => {
  const hostile = ['"', '\\', '\n', '\u0000', '\u2028', '\ud83d\ude00', '}{', '],"id":"x"', '\u001b[2J', '', 'a'.repeat(300)];
  const processes = hostile.map((name, i) => ({
    id: i + 1,
    parent: i,
    container: 1,
    execId: `x${i}`,
    pid: i,
    binary: name,
    arguments: [name, name],
  }));
  const kinds = Object.values(Kind).filter(kind => typeof kind === 'number');
  const events = [...kinds, 999].flatMap((kind, i) => [
    { kind, process: (i % 12) + 1, sequence: i + 1, ktimeNs: 2n ** 60n + BigInt(i), tid: i, [kindName(kind)]: {} },
    { kind, sequence: 0 },
  ]);
  const sample = sampleBatch();
  for (const batch of [sample, { ...sample, processes, events }, { ...sample, cluster: '', recorded: true, processes, events }]) {
    const decoded = decodeBatch(encodeBatch(batch));
    const reader = createEventReader(decoded, { namespace: 'sh"op', workload: 'we\\b' });
    for (const event of decoded.events) assert.equal(reader.toText(event), JSON.stringify(reader.toJson(event)));
  }
});
