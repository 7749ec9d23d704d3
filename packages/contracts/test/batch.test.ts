import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  BatchError,
  BatchField,
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
  type EventBatchInput,
} from '../src/index.ts';

const FUZZ_ROUNDS = 20_000;

function sampleBatch(): EventBatchInput {
  return {
    node: 'node-a',
    boot: '18c1',
    batch: 7,
    wallOffsetNs: 1_700_000_000_000_000_000,
    containers: [{ id: 1, containerId: 'c0ffee', podUid: 'uid-1', runtime: 'containerd' }],
    processes: [
      { id: 1, execId: 'aW5pdA==', pid: 1, binary: '/sbin/init', origin: ProcessOrigin.PROCESS_ORIGIN_RUNNING },
      { id: 2, parent: 1, execId: 'c2g=', pid: 20, binary: '/bin/sh', arguments: ['sh', '-c', 'x'] },
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
  assert.equal(exec?.id, 'node-a:11');
  assert.equal(exec.time, '2023-11-14T22:13:25.000000Z');
  assert.deepEqual(exec.process?.arguments, ['ls', 'a\nb', '']);
  assert.equal(exec.process?.parent_exec_id, 'c2g=');
  assert.equal(exec.parent?.binary, '/bin/sh');
  assert.deepEqual(
    exec.ancestors?.map(each => each.pid),
    [1],
  );
  assert.equal(exec.container?.id, 'c0ffee');
  assert.equal(exec.pod?.workload, 'web');
  assert.deepEqual(exec.pod?.labels, { app: 'web' });
  assert.deepEqual(exec['exec'], { raw_path: 'ls', credentials: { uid: 1000, login_uid: 0 } });
  assert.deepEqual(connect?.['connect'], { destination_ip: '10.0.0.1', destination_port: 443 });
  assert.doesNotThrow(() => JSON.stringify(exec));
});

test('a table that refers to itself does not hang the reader', () => {
  const batch = sampleBatch();
  batch.processes = [{ id: 3, parent: 3, execId: 'x' }];
  const [event] = eventsToJson(decodeBatch(encodeBatch(batch)));
  assert.ok((event?.ancestors?.length ?? 0) <= 256);
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
