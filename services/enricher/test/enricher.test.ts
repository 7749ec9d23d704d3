import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import {
  BUCKETS,
  decodeBatch,
  encodeBatch,
  enricherCursorKey,
  leftNodeKey,
  LossReason,
  nodeKey,
  parseEventHeaders,
  Pod,
  RawHeader,
  STREAMS,
  type LeftNode,
} from '@tidegate/contracts';
import { waitFor } from '@tidegate/testkit';
import { Kvm } from '@nats-io/kv';
import { headers } from '@nats-io/nats-core';
import { DeadLetterHeader } from '../src/node-session.ts';
import { batchInput, rawBatch, rawHeaders, seededRandom, type RawBatch } from './batches.ts';
import { assertClean, assertEnriched, batchesOf, EVENTS_PER_BATCH } from './node-batches.ts';
import { CLUSTER, placesOf, setStage, type Stage } from './stage.ts';

/** Each node stores batches 1 to `to`, one after the other, all nodes at one time. */
async function writeBatches(stage: Stage, nodes: readonly string[], to: number): Promise<void> {
  await Promise.all(
    nodes.map(async node => {
      for (const batch of batchesOf(node, 1, to)) await stage.store(node, batch);
    }),
  );
}

async function messagesOfEvents({ manager }: Stage): Promise<number> {
  return (await manager.streams.info(STREAMS.events.name)).state.messages;
}

for (const version of ['new', 'debian'] as const) {
  test(`batches become messages by subject, once and in order (${version} nats-server)`, async () => {
    await using stage = await setStage({ version });
    await stage.putPod('node-1.uid-a', Pod.encode({ uid: 'uid-a', namespace: 'shop', workload: 'web' }).finish());
    await stage.announceNode('node-1');
    await stage.enricher('a');
    await stage.storeBatches('node-1', batchesOf('node-1', 1, 40, ['uid-a']));
    await assertEnriched(stage, ['node-1'], 40);
    const places = new Set(placesOf(await stage.read(STREAMS.events.name)));
    assert.deepEqual(
      [...places].sort(),
      ['close', 'connect', 'exec', 'exit'].flatMap(kind => [`${kind} _host/node-1`, `${kind} shop/web`]).sort(),
    );
  });
}

test('an enricher waits until the cluster has a name, says so, and takes up another', async () => {
  await using stage = await setStage({ cluster: '' });
  await stage.announceNode('node-1');
  const enricher = await stage.enricher('a', { isReady: false });
  await stage.storeBatches('node-1', batchesOf('node-1', 1, 3));
  await waitFor(() => enricher.readiness().some(reason => /KV settings has no entry cluster yet/.test(reason)), { what: 'the reason' });
  assert.equal((await stage.read(STREAMS.events.name)).length, 0);

  await stage.nameCluster('west');
  await stage.enriched(['node-1']);
  assert.deepEqual(enricher.readiness(), []);
  const clusters = async () => (await stage.read(STREAMS.events.name)).map(({ data }) => decodeBatch(data).cluster);
  assert.deepEqual([...new Set(await clusters())], ['west']);

  await stage.nameCluster('north');
  let batches = 3;
  const isRenamed = async () => {
    batches++;
    await stage.storeBatches('node-1', batchesOf('node-1', batches, batches));
    return (await clusters()).includes('north');
  };
  await waitFor(isRenamed, { what: 'the new name' });
  await assertEnriched(stage, ['node-1'], batches);
});

test('headers say what part of which batch a message is, and what it holds', async () => {
  await using stage = await setStage();
  await stage.putPod('node_1.uid-a', Pod.encode({ uid: 'uid-a', namespace: 'shop', workload: 'web' }).finish());
  await stage.announceNode('node.1');
  await stage.enricher('a');
  await stage.storeBatches('node.1', [
    ...batchesOf('node.1', 1, 2, ['uid-a']),
    // Numbers are missing before it: its first part is the loss.
    rawBatch({ node: 'node.1', batch: 4, first: 151, events: 50 }),
  ]);
  await stage.enriched(['node.1']);
  const messages = (await stage.read(STREAMS.events.name)).map(message => ({
    ...message,
    batch: decodeBatch(message.data),
    said: parseEventHeaders(name => message.headers?.get(name)),
  }));
  for (const { said, batch, subject } of messages) {
    assert.ok(said, subject);
    const numbers = batch.events.map(event => event.sequence ?? 0).filter(sequence => sequence > 0);
    assert.deepEqual(
      [said.schema, said.cluster, said.node, said.boot, said.batch, said.events, said.firstSequence, said.lastSequence],
      [1, CLUSTER, 'node.1', 'boot-1', batch.batch, batch.events.length, numbers[0] ?? 0, numbers.at(-1) ?? 0],
    );
    assert.equal(batch.cluster, CLUSTER);
  }
  for (const number of [1, 2, 4]) {
    const parts = messages.filter(({ said }) => said!.batch === number).map(({ said }) => `${said!.part}/${said!.parts}`);
    assert.ok(parts.length > 1);
    assert.deepEqual(
      parts,
      Array.from(parts, (_, i) => `${i + 1}/${parts.length}`),
    );
  }
  const loss = messages.find(({ said }) => said!.batch === 4)!;
  assert.deepEqual([loss.subject, loss.said!.part], ['tidegate.events.loss._host.node_1', 1]);
});

test('another batch with the number and the shape of one that was stored is no repetition of it', async () => {
  await using stage = await setStage();
  await stage.announceNode('node-1');
  const [batch] = batchesOf('node-1', 1, 1) as [RawBatch];
  await stage.storeBatches('node-1', [batch]);
  const first = await stage.enricher('a');
  await stage.enriched(['node-1']);
  await first.close();
  const before = (await stage.read(STREAMS.events.name)).length;
  // RAW forgot the id, the enrichers their cursor.
  await stage.manager.streams.purge('KV_enrichers');
  await stage.manager.streams.purge(STREAMS.raw.name);
  const payload = encodeBatch({ ...batchInput({ batch: 1, first: 1, events: EVENTS_PER_BATCH }), wallOffsetNs: 1_600_000_000_000_000_000 });
  await stage.store('node-1', { ...batch, id: 'forged', payload });
  await stage.enricher('b');
  await stage.enriched(['node-1']);
  assert.equal((await stage.read(STREAMS.events.name)).length, 2 * before);
});

test('compressed batches are enriched like others', async () => {
  await using stage = await setStage();
  await stage.announceNode('node-1');
  await stage.enricher('a');
  for (const batch of batchesOf('node-1', 1, 10)) {
    batch.headers.set(RawHeader.encoding, 'zstd');
    await stage.store('node-1', { ...batch, payload: zstdCompressSync(batch.payload) });
  }
  await assertEnriched(stage, ['node-1'], 10);
});

test('a node is found by what it has on RAW, though its sensor reports nothing', async () => {
  await using stage = await setStage();
  await stage.storeBatches('played.node-recorded', batchesOf('played.node-recorded', 1, 3));
  await stage.enricher('a');
  await assertEnriched(stage, ['played.node-recorded'], 3);
});

test(
  'of two enrichers one is killed: its nodes move to the other within seconds, order and audit stay clean',
  { timeout: 90_000 },
  async () => {
    await using stage = await setStage();
    const nodes = Array.from({ length: 8 }, (_, i) => `node-${i}`);
    for (const node of nodes) await stage.announceNode(node);
    const [first] = await Promise.all([stage.spawnEnricher(), stage.spawnEnricher()]);
    const writing = writeBatches(stage, nodes, 400);
    await waitFor(async () => (await messagesOfEvents(stage)) > 2_000, {
      what: 'messages',
    });
    first.kill('SIGKILL');
    await once(first, 'exit');
    await writing;
    await assertEnriched(stage, nodes, 400);
  },
);

test('enrichers that come and go in peace hand over without waiting for a death', { timeout: 60_000 }, async () => {
  await using stage = await setStage();
  const nodes = Array.from({ length: 6 }, (_, i) => `node-${i}`);
  for (const node of nodes) await stage.announceNode(node);
  const first = await stage.enricher('a');
  const writing = writeBatches(stage, nodes, 300);
  await stage.enricher('b');
  await waitFor(() => hasOwners(stage, nodes, ['a', 'b']), { what: 'both to have nodes' });
  await first.close();
  await waitFor(() => hasOwners(stage, nodes, ['b']), { what: 'the second to have all nodes' });
  const farewell = await stage.manager.streams.getMessage('KV_enrichers', { last_by_subj: '$KV.enrichers.member.a' });
  assert.equal(farewell?.header.get('KV-Operation'), 'DEL', 'it need not be taken for dead');
  await writing;
  await assertEnriched(stage, nodes, 300);
});

test('an enricher that stood still for longer than it counts as alive does no harm when it goes on', { timeout: 90_000 }, async () => {
  await using stage = await setStage();
  const nodes = ['node-1', 'node-2', 'node-3', 'node-4'];
  for (const node of nodes) await stage.announceNode(node);
  const [first] = await Promise.all([stage.spawnEnricher(), stage.spawnEnricher()]);
  const writing = writeBatches(stage, nodes, 600);
  await waitFor(async () => (await messagesOfEvents(stage)) > 1_000, { what: 'messages' });
  first.kill('SIGSTOP');
  await writing;
  await stage.enriched(nodes);
  first.kill('SIGCONT');
  const more = nodes.map(node => stage.storeBatches(node, batchesOf(node, 601, 700)));
  await Promise.all(more);
  await assertEnriched(stage, nodes, 700);
});

test('nats-server killed and started again: nothing lost, nothing twice', { timeout: 90_000 }, async () => {
  await using stage = await setStage();
  await stage.announceNode('node-1');
  await stage.enricher('a');
  const writing = (async () => {
    for (const batch of batchesOf('node-1', 1, 1_500)) {
      // The test's own publishes are tried again until the server is back; RAW refuses what it has.
      await waitFor(() => stage.store('node-1', batch).then(() => true), { what: 'RAW' });
    }
  })();
  for (const messages of [500, 2_500]) {
    await waitFor(async () => (await messagesOfEvents(stage)) > messages, { what: 'messages' });
    await stage.server.kill();
    await stage.server.restart();
  }
  await writing;
  await assertEnriched(stage, ['node-1'], 1_500);
});

test('what is published again is refused: a cursor set back stores nothing twice', async () => {
  await using stage = await setStage();
  for (const node of ['node-1', 'node-2']) await stage.announceNode(node);
  const first = await stage.enricher('a');
  await stage.storeBatches('node-1', batchesOf('node-1', 1, 20));
  await stage.enriched(['node-1']);
  await first.close();
  const before = await messagesOfEvents(stage);
  await stage.client.publish(
    '$KV.enrichers.cursor.node-1',
    JSON.stringify({ streamSequence: 3, storedAtMs: Date.now(), batch: 3, boot: 'boot-1', lastSequence: 150, owner: '' }),
  );
  await stage.enricher('b');
  await stage.enriched(['node-1']);
  assert.equal(await messagesOfEvents(stage), before);
});

test('a batch that RAW holds twice is enriched once', async () => {
  await using stage = await setStage();
  await stage.announceNode('node-1');
  await stage.enricher('a');
  const batches = batchesOf('node-1', 1, 5);
  await stage.storeBatches('node-1', batches);
  // As a sensor would long after the stream has forgotten the id.
  await stage.storeBatches(
    'node-1',
    batches.map(batch => ({ ...batch, id: `${batch.id}-again` })),
  );
  await stage.storeBatches('node-1', batchesOf('node-1', 6, 7));
  await assertEnriched(stage, ['node-1'], 7);
});

test('poison goes to the dead-letter stream with its reason, its numbers are told as lost, and the node goes on', async () => {
  await using stage = await setStage();
  await stage.announceNode('node-1');
  await stage.enricher('a');
  const batches = batchesOf('node-1', 1, 12);
  const withHeader = (batch: RawBatch, name: string, value: string): RawBatch => {
    batch.headers.set(name, value);
    return batch;
  };
  const poison = new Map<number, { reason: string; message: RawBatch }>([
    [2, { reason: 'UNKNOWN_ENCODING', message: withHeader(batches[1]!, RawHeader.encoding, 'brotli') }],
    [3, { reason: 'BAD_COMPRESSION', message: withHeader(batches[2]!, RawHeader.encoding, 'zstd') }],
    [4, { reason: 'BATCH_MALFORMED', message: { ...batches[3]!, payload: batches[3]!.payload.subarray(0, 1_001) } }],
    [5, { reason: 'HEADERS_DIFFER', message: withHeader(batches[4]!, RawHeader.events, '49') }],
    [
      6,
      {
        reason: 'HEADERS_DIFFER',
        message: { ...batches[5]!, payload: encodeBatch({ ...batchInput({ batch: 6, first: 1, events: 50 }) }) },
      },
    ],
    [7, { reason: 'BAD_HEADERS', message: { ...batches[6]!, headers: headers() } }],
    [9, { reason: 'WRONG_NODE', message: { ...rawBatch({ node: 'node-2', batch: 1, first: 401, events: 50 }), id: 'forged' } }],
    [10, { reason: 'BAD_COMPRESSION', message: bomb(batches[9]!) }],
  ]);
  for (const [i, batch] of batches.entries()) await stage.store('node-1', poison.get(i + 1)?.message ?? batch);
  await stage.enriched(['node-1']);
  const letters = await stage.read(STREAMS.deadLetter.name);
  assert.deepEqual(
    letters.map(letter => letter.subject),
    [...poison].map(() => 'tidegate.deadletter.raw.node-1'),
  );
  assert.deepEqual(
    letters.map(letter => letter.headers?.get(DeadLetterHeader.reason)),
    [...poison.values()].map(({ reason }) => reason),
  );
  for (const [i, { message }] of [...poison.values()].entries()) {
    assert.deepEqual(Buffer.from(letters[i]!.data), Buffer.from(message.payload));
    assert.ok(letters[i]!.headers?.get(DeadLetterHeader.detail));
  }
  const node = (await stage.audit()).get('node-1')!;
  assert.deepEqual([node.duplicates, node.gaps, node.unordered], [[], [], []]);
  const lost = (batch: number) => ({ count: 50, first: (batch - 1) * 50 + 1, last: batch * 50 });
  assert.deepEqual(node.losses, [
    ...[2, 3, 4, 5, 6].map(batch => ({ reason: LossReason.LOSS_REASON_POISON, ...lost(batch) })),
    // Its header was not readable: the next batch shows what is missing.
    { reason: LossReason.LOSS_REASON_RAW_DISCARDED, ...lost(7) },
    // Batch 9 was another node's; this node's own numbers are missing for the same reason.
    { reason: LossReason.LOSS_REASON_RAW_DISCARDED, ...lost(9) },
    { reason: LossReason.LOSS_REASON_POISON, ...lost(10) },
  ]);
});

/** Unpacks to far more than a batch may hold. */
function bomb(batch: RawBatch): RawBatch {
  batch.headers.set(RawHeader.encoding, 'zstd');
  return { ...batch, payload: zstdCompressSync(Buffer.alloc(64 * 1024 * 1024)) };
}

test('mutated messages never stop the stream of their node', { timeout: 60_000 }, async () => {
  await using stage = await setStage();
  const random = seededRandom(77);
  await stage.announceNode('node-1');
  await stage.enricher('a');
  const batches = batchesOf('node-1', 1, 300, ['', '']);
  for (const [i, batch] of batches.entries()) {
    if (i % 3 === 1) for (let n = random(8); n >= 0; n--) batch.payload[random(batch.payload.length)] = random(256);
    await stage.store('node-1', batch);
  }
  await stage.enriched(['node-1']);
  const events = await stage.read(STREAMS.events.name);
  // What was not touched is there whole; a mutated one is there, or in the dead letters.
  const numbers = new Set((await stage.read(STREAMS.deadLetter.name)).map(letter => letter.headers?.get(DeadLetterHeader.streamSequence)));
  const spliced = new Set(events.map(({ headers: given }) => given?.get('Nats-Msg-Id').split(':')[2]));
  for (let i = 0; i < batches.length; i++) assert.ok(spliced.has(String(i + 1)) || numbers.has(String(i + 1)), `batch ${i + 1}`);
  for (let i = 0; i < batches.length; i += 3) assert.ok(spliced.has(String(i + 1)), `batch ${i + 1}`);
});

test('batches that RAW discarded before they were read are told as lost, once', async () => {
  await using stage = await setStage();
  for (const node of ['node-1', 'node-2']) await stage.announceNode(node);
  const first = await stage.enricher('a');
  await stage.storeBatches('node-1', batchesOf('node-1', 1, 5));
  await stage.enriched(['node-1']);
  await first.close();
  await stage.storeBatches('node-1', batchesOf('node-1', 6, 20));
  await stage.manager.streams.purge(STREAMS.raw.name, { seq: 16 });
  await stage.enricher('b');
  await stage.enriched(['node-1']);
  const node = (await stage.audit()).get('node-1')!;
  assert.deepEqual([node.duplicates, node.gaps, node.unordered], [[], [], []]);
  assert.deepEqual(node.losses, [{ reason: LossReason.LOSS_REASON_RAW_DISCARDED, count: 500, first: 251, last: 750 }]);
});

test('numbers that the sensor itself tells as lost are not told twice', async () => {
  await using stage = await setStage();
  await stage.announceNode('node-1');
  await stage.enricher('a');
  await stage.storeBatches('node-1', batchesOf('node-1', 1, 2));
  // Restarted: 101 to 120 are lost, number 121 says so; of 122 to 130 nobody knows.
  const loss = { reason: LossReason.LOSS_REASON_SENSOR_RESTART, count: 20, firstSequence: 101, lastSequence: 120 };
  const events = [
    { kind: 15, sequence: 131, loss },
    { kind: 1, sequence: 132 },
  ];
  await stage.store('node-1', {
    id: 'restarted',
    payload: encodeBatch({ node: 'node-1', boot: 'boot-2', batch: 1, events }),
    headers: rawHeaders(131, 132, 2),
  });
  await stage.enriched(['node-1']);
  const node = (await stage.audit()).get('node-1')!;
  assert.deepEqual(node.gaps, []);
  assert.deepEqual(
    node.losses.map(({ first, last }) => [first, last]),
    [
      [121, 130],
      [101, 120],
    ],
  );
});

test('RAW made anew, and a cursor somebody broke, do not stop a node', async () => {
  await using stage = await setStage();
  for (const node of ['node-1', 'node-2']) await stage.announceNode(node);
  const first = await stage.enricher('a');
  await stage.storeBatches('node-1', batchesOf('node-1', 1, 5));
  await stage.enriched(['node-1']);
  await first.close();
  await stage.client.publish('$KV.enrichers.cursor.node-2', 'not json');
  await stage.client.publish(
    '$KV.enrichers.cursor.node-1',
    JSON.stringify({ streamSequence: 900, storedAtMs: Date.now() - 60_000, batch: 5, boot: 'boot-1', lastSequence: 250, owner: '' }),
  );
  await stage.storeBatches('node-1', batchesOf('node-1', 6, 8));
  await stage.storeBatches('node-2', batchesOf('node-2', 1, 3));
  await stage.enricher('b');
  await waitFor(async () => (await stage.audit()).get('node-1')?.sequences.length === 400, { what: 'all of node-1' });
  await waitFor(async () => (await stage.audit()).get('node-2')?.sequences.length === 150, { what: 'all of node-2' });
  const audit = await stage.audit();
  assertClean(audit, 'node-1', 8);
  assertClean(audit, 'node-2', 3);
});

test('a node that leaves takes its cursor along, and one that gets its name goes on where it was', async () => {
  await using stage = await setStage();
  await stage.announceNode('node-1');
  await stage.enricher('a');
  await stage.storeBatches('node-1', batchesOf('node-1', 1, 5));
  await stage.enriched(['node-1']);
  const kvm = new Kvm(stage.nc);
  const [sensors, nodes, enrichers] = await Promise.all(
    [BUCKETS.sensors, BUCKETS.nodes, BUCKETS.enrichers].map(bucket => kvm.open(bucket.name)),
  );
  const left: LeftNode = { node: 'node-1', leftAt: new Date().toISOString(), removedBy: 'administrator', boot: 'boot-1', lastSequence: 1 };
  await nodes!.put(leftNodeKey('node-1'), JSON.stringify(left));
  await sensors!.delete(nodeKey('node-1'));
  // What is on RAW might still be asked for.
  assert.ok((await enrichers!.get(enricherCursorKey('node-1')))!.length > 0);
  await stage.manager.streams.purge(STREAMS.raw.name);
  await waitFor(async () => (await enrichers!.get(enricherCursorKey('node-1')))?.operation === 'DEL', { what: 'the cursor to go' });
  const kept = (await nodes!.get(leftNodeKey('node-1')))!.json<LeftNode>();
  assert.deepEqual(kept, { ...left, lastSequence: 250, enrichedSequence: 250 });

  // Batches 6 to 8 were lost between its lives: told exactly, because it is known how far the first was enriched.
  await stage.announceNode('node-1');
  await stage.storeBatches('node-1', batchesOf('node-1', 9, 10));
  await stage.enriched(['node-1']);
  const { losses, gaps, duplicates } = (await stage.audit()).get('node-1')!;
  assert.deepEqual(losses, [{ reason: LossReason.LOSS_REASON_RAW_DISCARDED, count: 150, first: 251, last: 400 }]);
  assert.deepEqual([gaps, duplicates], [[], []]);
});

test('a node that left while no enricher ran is forgotten by the next', async () => {
  await using stage = await setStage();
  await stage.announceNode('node-1');
  const first = await stage.enricher('a');
  await stage.storeBatches('node-1', batchesOf('node-1', 1, 2));
  await stage.enriched(['node-1']);
  await first.close();
  const kvm = new Kvm(stage.nc);
  const left: LeftNode = { node: 'node-1', leftAt: new Date().toISOString(), removedBy: 'kubernetes', boot: 'boot-1', lastSequence: 120 };
  await (await kvm.open(BUCKETS.nodes.name)).put(leftNodeKey('node-1'), JSON.stringify(left));
  await (await kvm.open(BUCKETS.sensors.name)).delete(nodeKey('node-1'));
  await stage.manager.streams.purge(STREAMS.raw.name);
  await stage.enricher('b');
  const enrichers = await kvm.open(BUCKETS.enrichers.name);
  await waitFor(async () => (await enrichers.get(enricherCursorKey('node-1')))?.operation === 'DEL', { what: 'the cursor to go' });
  const kept = (await (await kvm.open(BUCKETS.nodes.name)).get(leftNodeKey('node-1')))!.json<LeftNode>();
  assert.deepEqual([kept.lastSequence, kept.enrichedSequence], [120, 100]);
});

test('a batch waits for its pod, and other nodes do not wait with it', async () => {
  await using stage = await setStage();
  for (const node of ['node-1', 'node-2']) await stage.announceNode(node);
  await stage.putPod('node-3.uid-other', Pod.encode({ uid: 'uid-other' }).finish());
  await stage.enricher('a');
  await stage.storeBatches('node-1', batchesOf('node-1', 1, 1, ['uid-late']));
  await stage.storeBatches('node-2', batchesOf('node-2', 1, 1));
  await waitFor(async () => (await stage.audit()).has('node-2'), { what: 'the other node' });
  assert.equal((await stage.audit()).get('node-1'), undefined);
  await stage.putPod('node-1.uid-late', Pod.encode({ uid: 'uid-late', namespace: 'shop', workload: 'late' }).finish());
  await stage.enriched(['node-1', 'node-2']);
  const places = placesOf(await stage.read(STREAMS.events.name));
  assert.ok(places.includes('exec shop/late'));
  assert.ok(!places.some(place => place.includes('_none')));
});

test('a pod that stays unknown is marked so, and holds up its node once only', async () => {
  await using stage = await setStage();
  await stage.announceNode('node-1');
  await stage.putPod('node-3.uid-other', Pod.encode({ uid: 'uid-other' }).finish());
  await stage.enricher('a');
  await stage.storeBatches('node-1', batchesOf('node-1', 1, 20, ['uid-never']));
  // Less than twenty waits.
  await stage.enriched(['node-1'], 20_000);
  assertClean(await stage.audit(), 'node-1', 20);
  const places = placesOf(await stage.read(STREAMS.events.name));
  assert.ok(places.includes('exec _none/cccccccccccc'), [...new Set(places)].join(', '));
});

async function hasOwners(stage: Stage, nodes: readonly string[], owners: readonly string[]): Promise<boolean> {
  const found = new Set<string>();
  for (const node of nodes) {
    const message = await stage.manager.streams.getMessage('KV_enrichers', { last_by_subj: `$KV.enrichers.cursor.${node}` });
    found.add(message?.json<{ owner: string }>().owner ?? '');
  }
  return owners.length === found.size && owners.every(owner => found.has(owner));
}
