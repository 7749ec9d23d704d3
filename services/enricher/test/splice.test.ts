import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  BatchError,
  BatchField,
  decodeBatch,
  Destination,
  encodeBatch,
  eventsToJson,
  Kind,
  parseEventSubject,
  Pod,
  type EventBatchInput,
  type EventJson,
} from '@tidegate/contracts';
import { IdentityCache, destinationDecoder, podDecoder } from '../src/identity-cache.ts';
import { lengthDelimited, Splicer, type Output } from '../src/splice.ts';
import { batchInput, seededRandom } from './batches.ts';

const LIMITS = { messageBytes: 1024 * 1024, maxMessageBytes: 8 * 1024 * 1024 };

function podOf(uid: string): Uint8Array {
  return Pod.encode({
    uid,
    namespace: 'shop',
    name: `web-${uid}`,
    workload: `web-${uid}`,
    workloadKind: 'Deployment',
    labels: { app: 'web' },
  }).finish();
}

function cacheWith(uids: readonly string[]): IdentityCache {
  const cache = new IdentityCache();
  for (const uid of uids) cache.putPod(`node-1.${uid}`, podDecoder.decode(podOf(uid)));
  return cache;
}

function splice(payload: Uint8Array, cache = new IdentityCache(), limits = LIMITS): Output[] {
  const splicer = new Splicer(limits);
  splicer.read(payload);
  return splicer.outputs(cache);
}

/** An entry of a table that this version does not know. */
function tableEntry(field: number, body: readonly number[]): Uint8Array {
  return lengthDelimited(field, Buffer.from(body));
}

/** The events of the messages as JSON, in the node's order. */
function jsonOf(outputs: readonly Output[]): EventJson[] {
  return outputs
    .flatMap(({ subject, payload }) => eventsToJson(decodeBatch(payload), parseEventSubject(subject)))
    .sort((a, b) => a.sequence - b.sequence);
}

/** Without what only the subject and the pod say. */
function withoutIdentity({
  namespace: _namespace,
  workload: _workload,
  pod: _pod,
  ...rest
}: EventJson): Omit<EventJson, 'namespace' | 'workload' | 'pod'> {
  return rest;
}

test('every event reads the same before and after splicing, but for its identity', () => {
  const pods = ['uid-a', 'uid-b', 'uid-b', '', 'uid-unknown'];
  const input = batchInput({ batch: 1, first: 100, events: 500, pods });
  const payload = encodeBatch(input);
  const outputs = splice(payload, cacheWith(['uid-a', 'uid-b']));
  const after = jsonOf(outputs);
  assert.deepEqual(after.map(withoutIdentity), eventsToJson(decodeBatch(payload)).map(withoutIdentity));
  for (const event of after) {
    const pod = event.pod?.uid;
    const place = `${event.namespace}/${event.workload}`;
    if (pod === 'uid-a' || pod === 'uid-b') assert.equal(place, `shop/web-${pod}`);
    else if (pod === 'uid-unknown') assert.deepEqual([event.namespace, event.pod?.unresolved], ['_none', true]);
    else if (event.container) assert.equal(place, '_none/plain-3');
    else assert.equal(place, '_host/node-1');
  }
});

test('a message holds only the processes, containers and pods that its events need', () => {
  const outputs = splice(
    encodeBatch(batchInput({ batch: 1, first: 1, events: 400, pods: ['uid-a', 'uid-b'] })),
    cacheWith(['uid-a', 'uid-b']),
  );
  const web = outputs.filter(({ subject }) => subject.endsWith('.shop.web-uid-a')).map(({ payload }) => decodeBatch(payload));
  assert.equal(web.length, 4);
  for (const batch of web) {
    assert.deepEqual(
      batch.pods.map(pod => pod.uid),
      ['uid-a'],
    );
    assert.deepEqual(
      batch.containers.map(container => container.id),
      [1],
    );
    assert.deepEqual(batch.processes.map(process => process.id).sort(), [1, 10, 11]);
  }
});

test('within a subject the order of sequence numbers is kept, and the summary is right', () => {
  for (const output of splice(encodeBatch(batchInput({ batch: 3, first: 5_000, events: 1_000, pods: ['uid-a'] })))) {
    const sequences = decodeBatch(output.payload).events.map(event => event.sequence ?? 0);
    assert.deepEqual(
      sequences,
      sequences.toSorted((a, b) => a - b),
    );
    assert.deepEqual([output.firstSequence, output.lastSequence, output.events], [sequences[0], sequences.at(-1), sequences.length]);
  }
});

test('a batch of one subject passes through, and reads as its events spliced one by one', () => {
  const input = batchInput({ batch: 1, first: 1, events: 300, pods: ['uid-a'], kinds: [Kind.KIND_CONNECT] });
  const events = input.events!.filter(event => (event.process ?? 0) >= 10);
  const payload = encodeBatch({ ...input, events });
  const [whole, ...others] = splice(payload, cacheWith(['uid-a']));
  assert.equal(others.length, 0);
  assert.deepEqual(Buffer.from(whole!.payload.subarray(0, payload.length)), Buffer.from(payload), 'the payload stays as it is');
  const split = splice(payload, cacheWith(['uid-a']), { ...LIMITS, messageBytes: 600 });
  assert.ok(split.length > 5);
  assert.deepEqual(jsonOf([whole!]), jsonOf(split));
});

test('messages larger than the limit are split, and no event is lost', () => {
  const payload = encodeBatch(batchInput({ batch: 1, first: 1, events: 2_000, pods: ['uid-a', 'uid-b'] }));
  const outputs = splice(payload, cacheWith(['uid-a', 'uid-b']), { ...LIMITS, messageBytes: 4_096 });
  for (const { payload: message } of outputs) assert.ok(message.length <= 4_096);
  assert.deepEqual(jsonOf(outputs).map(withoutIdentity), eventsToJson(decodeBatch(payload)).map(withoutIdentity));
});

test('a message that cannot be published even with one event is an error of the batch', () => {
  const input = batchInput({ batch: 1, first: 1, events: 1, kinds: [Kind.KIND_EXEC] });
  input.processes = input.processes!.map(process => ({ ...process, cwd: '/x'.repeat(5_000) }));
  assert.throws(() => splice(encodeBatch(input), new IdentityCache(), { messageBytes: 4_096, maxMessageBytes: 8_192 }), BatchError);
});

test('the same input gives the same messages; other events in a subject give another name', () => {
  const payload = encodeBatch(batchInput({ batch: 1, first: 1, events: 300, pods: ['uid-a', 'uid-b'] }));
  const cache = cacheWith(['uid-a', 'uid-b']);
  assert.deepEqual(splice(payload, cache), splice(payload, cache));
  const idsOf = (outputs: readonly Output[]) => outputs.map(({ name }) => name);
  const resolved = idsOf(splice(payload, cache));
  assert.equal(new Set(resolved).size, resolved.length);
  // Both pods in one workload: other groups, so other ids, though first, last and count of one of them could be the same.
  const merged = new IdentityCache();
  for (const uid of ['uid-a', 'uid-b'])
    merged.putPod(`node-1.${uid}`, podDecoder.decode(Pod.encode({ uid, namespace: 'shop', workload: 'web' }).finish()));
  const changed = idsOf(splice(payload, merged)).filter(id => resolved.includes(id));
  assert.equal(changed.length, 4, 'only the messages of the host are the same');
});

test('pods of another node, and pods and destinations that a sensor claims itself, are not taken', () => {
  const input: EventBatchInput = {
    ...batchInput({ batch: 1, first: 1, events: 40, pods: ['uid-a'], kinds: [Kind.KIND_CONNECT] }),
    pods: [{ uid: 'uid-a', namespace: 'kube-system', workload: 'forged' }],
    destinations: [{ ip: '10.1.0.1', service: 'forged' }],
  };
  const cache = new IdentityCache();
  cache.putPod('node-2.uid-a', podDecoder.decode(podOf('uid-a')));
  const outputs = splice(encodeBatch(input), cache);
  for (const event of jsonOf(outputs)) {
    assert.notEqual(event.namespace, 'kube-system');
    assert.equal(event.destination, undefined);
    if (event.pod) assert.equal(event.pod.unresolved, true);
  }
});

test('known remote ends come along, once a message', () => {
  const cache = cacheWith(['uid-a']);
  cache.putDestination(
    '10-1-0-1',
    destinationDecoder.decode(Destination.encode({ ip: '10.1.0.1', namespace: 'shop', service: 'db' }).finish()),
  );
  const payload = encodeBatch(batchInput({ batch: 1, first: 1, events: 200, pods: ['uid-a'] }));
  const outputs = splice(payload, cache);
  const known = jsonOf(outputs).filter(event => event.destination);
  const expected = eventsToJson(decodeBatch(payload)).filter(event => JSON.stringify(event).includes('"destination_ip":"10.1.0.1"'));
  assert.ok(known.length > 0);
  assert.equal(known.length, expected.length);
  assert.deepEqual(known[0]!.destination, { namespace: 'shop', service: 'db' });
  for (const { payload: message } of outputs) assert.ok(decodeBatch(message).destinations.length <= 1);
  cache.deleteDestination('10-1-0-1');
  assert.equal(jsonOf(splice(payload, cache)).filter(event => event.destination).length, 0);
});

test("a batch's doubts go with every message", () => {
  const input = { ...batchInput({ batch: 1, first: 1, events: 20, pods: ['uid-a'] }), conflict: true, timeDoubtful: true };
  const outputs = splice(encodeBatch(input), cacheWith(['uid-a']));
  assert.ok(outputs.length > 1);
  for (const { payload } of outputs) {
    const { conflict, timeDoubtful } = decodeBatch(payload);
    assert.deepEqual({ conflict, timeDoubtful }, { conflict: true, timeDoubtful: true });
  }
});

test('kinds and tables of a newer schema pass whole, with every message', () => {
  const known = encodeBatch(batchInput({ batch: 1, first: 1, events: 20, pods: ['uid-a'] }));
  // Two entries of table 16, one of table 47, and an event of kind 1,023 with its detail.
  const tables = Buffer.concat([tableEntry(16, [8, 1, 16, 99]), tableEntry(16, [8, 2]), tableEntry(47, [8, 3])]);
  const event = lengthDelimited(BatchField.events, Buffer.from([8, 0xff, 7, 16, 10, 24, 21]));
  const outputs = splice(Buffer.concat([known, tables, event]), cacheWith(['uid-a']));
  assert.equal(outputs.at(-1)!.subject, 'tidegate.events.kind-1023.shop.web-uid-a');
  for (const { payload } of outputs) assert.ok(Buffer.from(payload).includes(tables), 'the tables are there, in their order');
  assert.equal(
    outputs.reduce((sum, output) => sum + output.events, 0),
    21,
  );
  // The same, all to one subject.
  const [single, ...others] = splice(
    Buffer.concat([
      encodeBatch({ node: 'node-1', boot: 'b', batch: 1 }),
      tables,
      lengthDelimited(BatchField.events, Buffer.from([8, 0xff, 7])),
    ]),
  );
  assert.equal(others.length, 0);
  assert.ok(Buffer.from(single!.payload).includes(tables));
});

test('tables of a newer schema that are too large are left out, and counted', () => {
  const table = tableEntry(20, [8, 1, 18, 0x80, 0x80, 4, ...Buffer.alloc(64 * 1024)]);
  const splicer = new Splicer(LIMITS);
  splicer.read(Buffer.concat([encodeBatch(batchInput({ batch: 1, first: 1, events: 20 })), table]));
  const outputs = splicer.outputs(new IdentityCache());
  assert.equal(splicer.droppedTableBytes, table.length);
  for (const { payload } of outputs) assert.ok(payload.length < 64 * 1024);
  splicer.read(encodeBatch(batchInput({ batch: 1, first: 1, events: 20 })));
  splicer.outputs(new IdentityCache());
  assert.equal(splicer.droppedTableBytes, 0);
});

test('each message says its cluster, whatever the sensor says', () => {
  const cache = cacheWith(['uid-a']);
  cache.setCluster('prod-1');
  for (const pods of [[], ['uid-a']]) {
    const input = { ...batchInput({ batch: 1, first: 1, events: 20, pods, kinds: [Kind.KIND_EXEC] }), cluster: 'forged' };
    const outputs = splice(encodeBatch(input), cache);
    assert.equal(outputs.length, pods.length + 1);
    for (const { payload } of outputs) {
      assert.equal(decodeBatch(payload).cluster, 'prod-1');
      assert.ok(!Buffer.from(payload).includes('forged'));
    }
  }
});

test('processes that refer to each other in a circle, or to nothing, do no harm', () => {
  const payload = encodeBatch({
    node: 'node-1',
    boot: 'b',
    processes: [
      { id: 5, parent: 6 },
      { id: 6, parent: 5, container: 9 },
    ],
    events: [
      { kind: 1, process: 5, sequence: 1 },
      { kind: 1, process: 6, sequence: 2 },
      { kind: 1, process: 7, sequence: 3 },
    ],
  });
  const outputs = splice(payload);
  assert.deepEqual(
    outputs.map(({ subject, events }) => [subject, events]),
    [
      ['tidegate.events.exec._host.node-1', 1],
      ['tidegate.events.exec._none.unknown', 2],
    ],
  );
});

test('mutated batches are refused or spliced, and never read out of range', () => {
  const random = seededRandom(20_261_123);
  const original = encodeBatch(batchInput({ batch: 1, first: 1, events: 60, pods: ['uid-a', 'uid-b', ''] }));
  const cache = cacheWith(['uid-a']);
  cache.putDestination('10-1-0-1', destinationDecoder.decode(Destination.encode({ ip: '10.1.0.1', service: 'db' }).finish()));
  const splicer = new Splicer(LIMITS);
  let refused = 0;
  for (let round = 0; round < 20_000; round++) {
    // Inside a larger buffer: a read beyond the batch's end would find bytes and not fail by itself.
    const framed = Buffer.alloc(original.length + 64, 0xff);
    framed.set(original, 32);
    let payload = framed.subarray(32, 32 + original.length);
    for (let i = random(6); i >= 0; i--) payload[random(payload.length)] = random(256);
    if (random(4) === 0) payload = payload.subarray(0, random(payload.length));
    try {
      splicer.read(payload);
      const { index } = splicer;
      assert.ok(index.events === 0 || index.eventEnd[index.events - 1]! <= payload.length);
      splicer.missingPods(cache);
      const events = splicer.outputs(cache).reduce((sum, output) => sum + output.events, 0);
      assert.equal(events, index.events);
    } catch (error) {
      assert.ok(error instanceof BatchError, String(error));
      refused++;
    }
  }
  assert.ok(refused > 1_000 && refused < 19_000, `${refused} refused`);
});

test('a batch made to blow up is refused', () => {
  // A chain of 3,000 processes, each in a container of its own: every subject would carry the whole chain.
  const count = 3_000;
  const containers = Array.from({ length: count }, (_, i) => ({ id: i + 1, name: `c-${i}`, containerId: 'x' }));
  const processes = containers.map(({ id }) => ({ id, parent: id - 1, container: id, cwd: '/some/long/folder/name'.repeat(5) }));
  const events = containers.map(({ id }) => ({ kind: 1, process: id, sequence: id }));
  assert.throws(() => splice(encodeBatch({ node: 'node-1', boot: 'b', containers, processes, events })), BatchError);
});
