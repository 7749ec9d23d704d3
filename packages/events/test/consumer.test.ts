import assert from 'node:assert/strict';
import { test } from 'node:test';
import { STREAMS } from '@tidegate/contracts';
import { waitFor } from '@tidegate/testkit';
import { batchOf, interleavedBatch, publish, publishInterleaved } from '@tidegate/testkit/event-messages';
import {
  only,
  Order,
  parseCursor,
  type ConsumerOptions,
  type ConsumerPosition,
  type EventFilter,
  type PositionStore,
} from '../src/index.ts';
import { sequencesOf, startFixture, take, upTo, type Fixture } from './fixture.ts';

const NODES = ['n1', 'n2', 'n3'];
const FILTERS: readonly EventFilter[] = [
  {},
  { kind: only('exit') },
  { kind: only('exec', 'exit'), workload: only('db') },
  { node: only('n2') },
];

/** All that the history has, by node, in the order given. */
async function history({ events }: Fixture, order: Order, filter: EventFilter, limit: number): Promise<Map<string, number[]>> {
  const byNode = new Map<string, number[]>();
  let query = await events.history.resolve(order, filter, 0);
  for (;;) {
    const page = await events.history.page(query, limit, new AbortController().signal);
    for (const json of page.events) {
      const { node, sequence } = JSON.parse(json.toString()) as { node: string; sequence: number };
      byNode.set(node, [...(byNode.get(node) ?? []), sequence]);
    }
    if (page.cursor === null) return byNode;
    query = await events.history.resume(parseCursor(page.cursor)!, filter);
  }
}

for (const version of ['new', 'debian'] as const) {
  test(`history both ways and a consumer give each node's events in one order (${version} nats-server)`, async () => {
    await using fixture = await startFixture(version);
    await publishInterleaved(fixture.js, NODES, 25);
    for (const filter of FILTERS) {
      const oldest = await history(fixture, Order.oldest, filter, 17);
      const newest = await history(fixture, Order.newest, filter, 17);
      const expected = [...oldest.values()].flat().length;
      const consumed = await take(fixture.events.consume({ filter, from: 'beginning' }), expected);
      assert.ok(expected > 0);
      for (const [node, sequences] of oldest) {
        const sorted = sequences.toSorted((a, b) => a - b);
        assert.deepEqual(sequences, sorted, JSON.stringify(filter));
        assert.deepEqual(newest.get(node), sequences.toReversed(), JSON.stringify(filter));
        assert.deepEqual(sequencesOf(consumed, node), sequences, JSON.stringify(filter));
      }
    }
  });
}

test('a consumer goes on where its work was done, batch by batch, however often it starts anew', async () => {
  await using fixture = await startFixture();
  await publishInterleaved(fixture.js, NODES, 30);
  for (const filter of FILTERS) {
    // Kept with the work, in one step.
    let position: ConsumerPosition | undefined;
    const seen: string[] = [];
    const store: PositionStore = { load: async () => position, save: async () => undefined };
    const expected = [...(await history(fixture, Order.oldest, filter, 5_000))].flatMap(([node, sequences]) =>
      sequences.map(sequence => `${node}:${sequence}`),
    );
    for (let starts = 0; seen.length < expected.length; starts++) {
      assert.ok(starts < 500, `${seen.length} of ${expected.length} after ${starts} starts`);
      const consumer = fixture.events.consume({ filter, from: 'beginning', position: store });
      let batches = 0;
      for await (const batch of consumer) {
        seen.push(...batch.events().map(event => `${event.node}:${event.sequence}`));
        // Through text, as a store would keep it.
        position = JSON.parse(JSON.stringify(batch.position)) as ConsumerPosition;
        if (++batches > starts % 3 || seen.length === expected.length) break;
      }
      await consumer.close();
    }
    assert.deepEqual(seen.toSorted(), expected.toSorted(), JSON.stringify(filter));
  }
});

test('nodes of two clusters that have one name are two: each has its order, its place and its ids', async () => {
  await using fixture = await startFixture();
  const clusters = ['c1', 'c2'];
  const count = await publishInterleaved(fixture.js, ['n1', 'n2'], 20, { clusters });
  const all = clusters.flatMap(cluster => ['n1', 'n2'].flatMap(node => upTo(count).map(sequence => `${cluster}:${node}:${sequence}`)));
  const { history } = fixture.events;
  for (const order of [Order.oldest, Order.newest]) {
    const ids: string[] = [];
    for (let query = await history.resolve(order, {}, 0); ;) {
      const page = await history.page(query, 17, new AbortController().signal);
      ids.push(...page.events.map(json => (JSON.parse(json.toString()) as { id: string }).id));
      if (page.cursor === null) break;
      query = await history.resume(parseCursor(page.cursor)!, {});
    }
    assert.deepEqual(order === Order.oldest ? bySource(ids) : bySource(ids.toReversed()), all, order);
  }
  // One that keys by (cluster, exec_id), begun anew after every few batches, has each process of each cluster.
  let position: ConsumerPosition | undefined;
  const ids: string[] = [];
  const processes = new Map<string, string>();
  while (ids.length < all.length) {
    let batches = 0;
    const store: PositionStore = { load: async () => position };
    for await (const batch of fixture.events.consume({ from: 'beginning', position: store })) {
      for (const { id, cluster, process } of batch.events()) {
        ids.push(id!);
        processes.set(`${cluster} ${process!.exec_id}`, id!);
      }
      ({ position } = batch);
      if (++batches > 5 || ids.length === all.length) break;
    }
  }
  assert.deepEqual(bySource(ids), all);
  // The exec_ids themselves are equal in both.
  const execIds = new Set([...processes.keys()].map(key => key.split(' ')[1]));
  assert.equal(processes.size, execIds.size * 2);
});

/** Of each source in the order given, the sources by name. */
function bySource(ids: readonly string[]): string[] {
  const source = (id: string) => id.slice(0, id.lastIndexOf(':'));
  return ids.toSorted((a, b) => (source(a) < source(b) ? -1 : source(a) > source(b) ? 1 : 0));
}

test('a position in KV moves behind the work; a second consumer of its name is told so', { timeout: 60_000 }, async () => {
  await using fixture = await startFixture();
  const options = (): ConsumerOptions => ({ filter: { kind: only('exec') }, from: 'beginning', position: fixture.events.position('test') });
  for (let sequence = 1; sequence <= 20; sequence++) await publish(fixture.js, 'exec', batchOf('exec', [{ sequence }]));
  assert.deepEqual(sequencesOf(await take(fixture.events.consume(options()), 10)), upTo(10));
  assert.deepEqual(sequencesOf(await take(fixture.events.consume(options()), 10)), upTo(20).slice(10));

  const consumers = [fixture.events.consume(options()), fixture.events.consume(options())];
  let failure: unknown;
  const running = consumers.map(async consumer => {
    for await (const batch of consumer) batch.done();
  });
  for (const each of running) each.catch((error: unknown) => (failure = error));
  let sequence = 20;
  await waitFor(
    async () => {
      await publish(fixture.js, 'exec', batchOf('exec', [{ sequence: ++sequence }]));
      return failure !== undefined;
    },
    { what: 'one of two consumers to be told', timeoutMs: 30_000 },
  );
  assert.equal((failure as { code?: string }).code, 'BUCKET_CONFLICT');
  await Promise.all(consumers.map(consumer => consumer.close()));
  await Promise.allSettled(running);
});

test('work that is not done is given again', async () => {
  await using fixture = await startFixture();
  const position = () => fixture.events.position('test');
  for (let sequence = 1; sequence <= 4; sequence++) await publish(fixture.js, 'exec', batchOf('exec', [{ sequence }]));
  let given = 0;
  for await (const batch of fixture.events.consume({ from: 'beginning', position: position() })) {
    given++;
    if (batch.events()[0]!.sequence <= 2) batch.done();
    if (given === 4) break;
  }
  assert.deepEqual(sequencesOf(await take(fixture.events.consume({ position: position() }), 2)), [3, 4]);
});

test('parts of a batch that are delayed, repeated or never come', { timeout: 60_000 }, async () => {
  await using fixture = await startFixture();
  const consumer = fixture.events.consume({ from: 'beginning' });
  const received: number[] = [];
  const reading = (async () => {
    for await (const batch of consumer) received.push(...sequencesOf(batch.events()));
  })();
  const [execs, exits] = interleavedBatch(1, 1, 5, ['web']);
  await publish(fixture.js, 'exec', execs!.payload('n1'), 'shop', 'web', execs!.part);
  // Another node's batches do not wait for it.
  await publish(fixture.js, 'exec', batchOf('exec', [{ sequence: 100 }], { node: 'n2' }));
  await waitFor(() => received.length === 1, { what: 'the other node' });
  // The same part once more, as of an enricher that saw other pods.
  await publish(fixture.js, 'exec', execs!.payload('n1'), 'shop', 'other', execs!.part);
  await publish(fixture.js, 'exit', exits!.payload('n1'), 'shop', 'web', exits!.part);
  await waitFor(() => received.length === 11, { what: 'the batch' });
  assert.deepEqual(received, [100, ...upTo(10)]);
  // A part that never comes: the node's next batch says so.
  const [second] = interleavedBatch(2, 11, 5, ['web']);
  await publish(fixture.js, 'exec', second!.payload('n1'), 'shop', 'web', second!.part);
  await publish(fixture.js, 'exec', batchOf('exec', [{ sequence: 21 }], { node: 'n1' }));
  await waitFor(() => received.at(-1) === 21, { what: 'the next batch' });
  assert.deepEqual(received.slice(11), [...second!.sequences, 21]);
  // And where no other comes, it is not waited for for ever.
  const [third] = interleavedBatch(3, 22, 5, ['web']);
  await publish(fixture.js, 'exec', third!.payload('n1'), 'shop', 'web', third!.part);
  await waitFor(() => received.at(-1) === third!.sequences.at(-1), { what: 'the incomplete batch', timeoutMs: 30_000 });
  await consumer.close();
  await reading;
});

test('a batch of which the filter shows some parts is not held up by the others', async () => {
  await using fixture = await startFixture();
  const consumer = fixture.events.consume({ from: 'beginning', filter: { kind: only('exec', 'exit'), workload: only('web') } });
  const parts = interleavedBatch(1, 1, 6, ['web', 'db']);
  const store = ({ kind, payload, workload, part }: (typeof parts)[number]) =>
    publish(fixture.js, kind, payload('n1'), 'shop', workload, part);
  for (const part of parts.slice(0, 3)) await store(part);
  const reading = take(consumer, 6);
  // Its last part, which the filter does not show, is stored later.
  await store(parts[3]!);
  const shown = [...parts[0]!.sequences, ...parts[1]!.sequences];
  assert.deepEqual(
    sequencesOf(await reading),
    shown.toSorted((a, b) => a - b),
  );
});

test('what the stream discarded before it was read is told, and a stream made anew is read from its beginning', async () => {
  await using fixture = await startFixture();
  const position = () => fixture.events.position('test');
  const manager = await fixture.js.jetstreamManager();
  for (let sequence = 1; sequence <= 10; sequence++) await publish(fixture.js, 'exec', batchOf('exec', [{ sequence }]));
  await take(fixture.events.consume({ from: 'beginning', position: position() }), 3);
  await manager.streams.purge(STREAMS.events.name, { seq: 6 });
  const [loss, ...rest] = await take(fixture.events.consume({ position: position() }), 6);
  const said = loss!.loss as unknown as Record<string, unknown>;
  assert.deepEqual(
    [loss!.kind, said['reason'], said['first_stream_sequence'], said['last_stream_sequence']],
    ['loss', 'events_discarded', 4, 5],
  );
  assert.deepEqual(sequencesOf(rest), [6, 7, 8, 9, 10]);

  const { config } = await manager.streams.info(STREAMS.events.name);
  await manager.streams.delete(STREAMS.events.name);
  await manager.streams.add(config);
  for (let sequence = 1; sequence <= 20; sequence++) await publish(fixture.js, 'exec', batchOf('exec', [{ sequence }]));
  const [anew, ...all] = await take(fixture.events.consume({ position: position() }), 21);
  assert.equal(anew!.kind, 'loss');
  assert.deepEqual(sequencesOf(all), upTo(20));
});
