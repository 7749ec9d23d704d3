import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectSocket } from 'node:net';
import { test } from 'node:test';
import type { NatsConnection } from '@nats-io/nats-core';
import { STREAMS, type EventJson } from '@tidegate/contracts';
import { openEvents } from '@tidegate/events';
import { connectNats } from '@tidegate/runtime';
import { createHost, testLogger, waitFor, type Host } from '@tidegate/testkit';
import { publishInterleaved } from '@tidegate/testkit/event-messages';
import { FEED_ID_HEADER } from '../src/index.ts';
import { NODES, startStage } from './stage.ts';

const logger = testLogger();

interface Heard {
  nc: NatsConnection;
  ids: string[];
  losses: EventJson[];
  events: EventJson[];
}

/** Somebody who never signed in. */
async function listen(host: Host, url: string, subject: string): Promise<Heard> {
  const nc = await connectNats({ url, name: 'listener', logger });
  host.defer(() => nc.close());
  const heard: Heard = { nc, ids: [], losses: [], events: [] };
  nc.subscribe(subject, {
    callback: (error, message) => {
      if (error) throw error;
      const event = message.json<EventJson>();
      heard.events.push(event);
      if (event.kind === 'loss') heard.losses.push(event);
      else heard.ids.push(message.headers?.get(FEED_ID_HEADER) ?? '');
    },
  });
  await nc.flush();
  return heard;
}

for (const version of ['new', 'debian'] as const) {
  test(`${version} server: the feed sleeps until somebody listens, however narrowly, and sleeps again`, async () => {
    await using host = createHost();
    const stage = await startStage(host, version);
    await stage.startConnectors();
    const { listeners, faults } = await waitFor(() => stage.status(), { what: 'its report', timeoutMs: 20_000 });
    assert.deepEqual([listeners, faults], [0, []]);
    await publishInterleaved(stage.js, NODES, 2);
    assert.equal(await stage.isAwake(), false);
    assert.equal(await stage.position(), undefined);

    const narrow = await listen(host, stage.server.url, 'tidegate.feed.exec.*.db');
    await waitFor(() => stage.isAwake(), { what: 'the feed to wake up', timeoutMs: 20_000 });
    await waitFor(() => stage.position(), { what: 'its position', timeoutMs: 10_000 });
    await publishInterleaved(stage.js, NODES, 2, { firstBatch: 3, firstSequence: 101 });
    await waitFor(() => narrow.events.length > 0, { what: 'an event', timeoutMs: 20_000 });
    for (const event of narrow.events) {
      assert.equal(event.kind, 'exec');
      assert.equal(event.workload, 'db');
      assert.ok(event.sequence >= 101, 'it begins at the end');
    }
    assert.equal(narrow.ids[0], narrow.events[0]!.id);

    const awake = await waitFor(
      async () => {
        const status = await stage.status();
        return status?.published === narrow.events.length && status;
      },
      { what: 'the report to tell all that was handed over', timeoutMs: 20_000 },
    );
    assert.deepEqual([awake.listeners, awake.pending, awake.skipped, awake.faults], [1, 0, 0, []]);

    await narrow.nc.close();
    await waitFor(async () => !(await stage.isAwake()) && (await stage.position()) === undefined, {
      what: 'the feed to sleep',
      timeoutMs: 30_000,
    });
    await waitFor(async () => (await stage.status())?.listeners === 0, { what: 'the report that nobody listens', timeoutMs: 20_000 });
  });
}

test('who listens without sign-in gets the text of the API, may not speak on the feed, and needs no client', async () => {
  await using host = createHost();
  const stage = await startStage(host);
  await stage.startConnectors();
  const events = await openEvents(stage.admin, { logger });
  host.defer(() => events.close());

  const { hostname, port } = new URL(stage.server.url);
  const socket = connectSocket(Number(port), hostname);
  host.defer(() => void socket.destroy());
  let received = '';
  socket.on('data', (chunk: Buffer) => (received += chunk.toString()));
  socket.write('CONNECT {}\r\nSUB tidegate.feed.> 1\r\n');
  await waitFor(() => stage.isAwake(), { what: 'the feed to wake up', timeoutMs: 20_000 });
  await publishInterleaved(stage.js, NODES, 1);
  const texts = await waitFor(
    () => {
      const lines = received.split('\r\n').filter(line => line.startsWith('{"id"'));
      return lines.length >= 4 ? lines : undefined;
    },
    { what: 'events', timeoutMs: 20_000 },
  );
  const stored = new Set<string>();
  for await (const batch of events.consume({ from: 'beginning', follow: false }))
    for (const event of batch.events()) stored.add(JSON.stringify(event));
  for (const text of texts) assert.ok(stored.has(text), text);

  const stranger = await listen(host, stage.server.url, 'tidegate.events.>');
  const refusals: string[] = [];
  void (async () => {
    for await (const status of stranger.nc.status()) if (status.type === 'error') refusals.push(status.error.message);
  })();
  stranger.nc.publish('tidegate.feed.exec._host.n1', '{}');
  await waitFor(() => refusals.length > 0, { what: 'a refusal', timeoutMs: 10_000 });
  assert.match(refusals[0]!, /permissions violation for publish to "tidegate\.feed\.exec\._host\.n1"/i);
});

test('the connectors are killed under load and stopped while the stream goes on: nothing is missing', async () => {
  await using host = createHost();
  const stage = await startStage(host);
  let child = await stage.startConnectors();
  const listener = await listen(host, stage.server.url, 'tidegate.feed.>');
  await waitFor(() => stage.isAwake(), { what: 'the feed to wake up', timeoutMs: 20_000 });
  let expected = 0;
  for (let round = 0; round < 5; round++) {
    const before = listener.ids.length;
    const writing = publishInterleaved(stage.js, NODES, 20, { firstBatch: 1 + round * 20, firstSequence: 1 + expected });
    await waitFor(() => listener.ids.length > before, { what: 'the feed to go on', timeoutMs: 30_000 });
    child.kill('SIGKILL');
    await once(child, 'exit');
    expected += await writing;
    child = await stage.startConnectors();
  }
  child.kill('SIGSTOP');
  expected += await publishInterleaved(stage.js, NODES, 20, { firstBatch: 101, firstSequence: 1 + expected });
  child.kill('SIGCONT');
  await waitFor(() => new Set(listener.ids).size >= expected * NODES.length, { what: 'all events', timeoutMs: 60_000 });
  assert.equal(new Set(listener.ids).size, expected * NODES.length);
  assert.equal(listener.losses.length, 0);
});

test('what the stream discarded while the connectors stood still is told', async () => {
  await using host = createHost();
  const stage = await startStage(host, 'new', { maxBytes: 64 * 1024 });
  const child = await stage.startConnectors();
  const listener = await listen(host, stage.server.url, 'tidegate.feed.>');
  await waitFor(() => stage.isAwake(), { what: 'the feed to wake up', timeoutMs: 20_000 });
  let count = await publishInterleaved(stage.js, NODES, 4);
  await waitFor(() => listener.ids.length >= count * NODES.length, { what: 'events', timeoutMs: 20_000 });
  child.kill('SIGSTOP');
  // More messages than one pull asks for (4,096): those are on their way already.
  count += await publishInterleaved(stage.js, NODES, 600, { firstBatch: 5, firstSequence: 1 + count });
  child.kill('SIGCONT');
  const loss = await waitFor(() => listener.losses[0], { what: 'the loss', timeoutMs: 60_000 });
  const { reason, first_stream_sequence: first, last_stream_sequence: last } = loss.loss as unknown as Record<string, unknown>;
  assert.equal(reason, 'events_discarded');
  assert.ok(Number(first) > 0 && Number(last) >= Number(first));
  const { state } = await (await stage.js.jetstreamManager()).streams.info(STREAMS.events.name);
  assert.ok(Number(last) < state.last_seq);
  // What the stream still has comes, up to its end.
  await waitFor(() => NODES.every(node => listener.events.some(event => event.node === node && event.sequence === count)), {
    what: 'the newest events',
    timeoutMs: 30_000,
  });
});
