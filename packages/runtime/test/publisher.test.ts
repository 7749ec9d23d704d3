import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { STREAMS } from '@tidegate/contracts';
import { jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { createHost, startNatsServer, testLogger, waitFor, type TestNatsServer } from '@tidegate/testkit';
import { ACK_SPAN_MS } from '../src/ack-times.ts';
import { hasErrorCode } from '../src/errors.ts';
import { connectNats } from '../src/nats.ts';
import { createPublisher, type Publisher } from '../src/publisher.ts';
import { ensureStreams } from '../src/stream-setup.ts';

const logger = testLogger();
const raw = { ...STREAMS.raw, maxBytes: 256 * 1024 * 1024 };

async function connectTo(server: TestNatsServer): Promise<NatsConnection> {
  return connectNats({ url: server.url, name: 'test', logger });
}

/** Message ids of the stream, in its order. */
async function storedIds(nc: NatsConnection): Promise<string[]> {
  const manager = await jetstreamManager(nc);
  const { state } = await manager.streams.info(raw.name);
  const ids: string[] = [];
  if (state.messages === 0) return ids;
  const name = (await manager.consumers.add(raw.name, { ack_policy: 'none', inactive_threshold: 10e9 })).name;
  const consumer = await manager.jetstream().consumers.get(raw.name, name);
  while (ids.length < state.messages) {
    for await (const message of await consumer.fetch({ max_messages: 1_000, expires: 1_000 }))
      ids.push(message.headers!.get('Nats-Msg-Id'));
  }
  return ids;
}

/** Publishes `count` numbered messages as fast as the window allows; calls `midway` once when half of them are handed over. */
async function storm(publisher: Publisher, count: number, midway: () => void): Promise<void> {
  const outcomes: Promise<unknown>[] = [];
  for (let i = 0; i < count; i++) {
    if (!publisher.stats.hasRoom) await publisher.ready();
    if (i === count / 2) midway();
    outcomes.push(publisher.publish({ subject: 'tidegate.raw.n1', payload: Buffer.alloc(200, i), messageId: `n1:b:${i}` }));
  }
  await Promise.all(outcomes);
}

/** A signal stops the threads of a process one after the other: until then one of them may still answer. */
function isStopped(pid: number): boolean {
  return readdirSync(`/proc/${pid}/task`).every(task => /\) T /.test(readFileSync(`/proc/${pid}/task/${task}/stat`, 'utf8')));
}

for (const version of ['new', 'debian'] as const) {
  test(`${version} server killed and restarted mid-storm: every message once, in order`, async () => {
    await using host = createHost();
    await using server = await startNatsServer({ version });
    const nc = await connectTo(server);
    host.defer(() => nc.close());
    await ensureStreams(nc, [raw]);
    const publisher = createPublisher(nc, { stream: 'RAW', windowMessages: 512, logger });
    const count = 20_000;
    let restarted: Promise<void> | undefined;
    await storm(publisher, count, () => {
      restarted = server.kill().then(() => server.restart());
    });
    await restarted;
    const ids = await storedIds(nc);
    assert.deepEqual(
      ids,
      Array.from({ length: count }, (_, i) => `n1:b:${i}`),
    );
    assert.equal(publisher.stats.acknowledged, count);
    assert.equal(publisher.stats.pendingMessages, 0);
    assert.equal(publisher.stats.pendingBytes, 0);
    await publisher.close();
  });
}

test('publishes before the stream exists, and stores in order once it does', async () => {
  await using host = createHost();
  await using server = await startNatsServer();
  const nc = await connectTo(server);
  host.defer(() => nc.close());
  const publisher = createPublisher(nc, { stream: 'RAW', logger });
  const outcomes = Array.from({ length: 100 }, (_, i) =>
    publisher.publish({ subject: 'tidegate.raw.n1', payload: Buffer.from('x'), messageId: String(i) }),
  );
  await waitFor(() => !publisher.stats.flowing, { what: 'the publisher to notice that no stream answers' });
  await ensureStreams(nc, [raw]);
  await Promise.all(outcomes);
  assert.deepEqual(
    await storedIds(nc),
    Array.from({ length: 100 }, (_, i) => String(i)),
  );
  await publisher.close();
});

test('a repeated id is reported as a duplicate and stored once', async () => {
  await using host = createHost();
  await using server = await startNatsServer();
  const nc = await connectTo(server);
  host.defer(() => nc.close());
  await ensureStreams(nc, [raw]);
  const publisher = createPublisher(nc, { stream: 'RAW', logger });
  const message = { subject: 'tidegate.raw.n1', payload: Buffer.from('x'), messageId: 'same', headers: { 'Tidegate-Events': '3' } };
  const first = await publisher.publish(message);
  const second = await publisher.publish(message);
  assert.deepEqual(first, { sequence: 1, duplicate: false });
  assert.deepEqual(second, { sequence: 1, duplicate: true });
  await publisher.close();
});

test('what cannot succeed is refused for good, and does not hold up the rest', async () => {
  await using host = createHost();
  await using server = await startNatsServer({ config: { max_payload: 4_096 } });
  const nc = await connectTo(server);
  host.defer(() => nc.close());
  await ensureStreams(nc, [raw, { ...STREAMS.events, maxBytes: 64 * 1024 * 1024 }]);
  const publisher = createPublisher(nc, { stream: 'RAW', logger });
  const tooLarge = publisher.publish({ subject: 'tidegate.raw.n1', payload: Buffer.alloc(8_192), messageId: '1' });
  const otherStream = publisher.publish({ subject: 'tidegate.events.exec._host.n1', payload: Buffer.alloc(1), messageId: '2' });
  const good = publisher.publish({ subject: 'tidegate.raw.n1', payload: Buffer.alloc(1), messageId: '3' });
  await assert.rejects(tooLarge, error => hasErrorCode(error, 'PUBLISH_TOO_LARGE'));
  await assert.rejects(otherStream, error => hasErrorCode(error, 'PUBLISH_REJECTED'));
  assert.equal((await good).duplicate, false);
  await publisher.close();
});

test('a full stream is waited for', async () => {
  await using host = createHost();
  await using server = await startNatsServer();
  const nc = await connectTo(server);
  host.defer(() => nc.close());
  const manager = await jetstreamManager(nc);
  await manager.streams.add({ name: 'RAW', subjects: ['tidegate.raw.*'], max_msgs: 2, discard: 'new' });
  const publisher = createPublisher(nc, { stream: 'RAW', logger });
  const outcomes = [1, 2, 3].map(id => publisher.publish({ subject: 'tidegate.raw.n1', payload: Buffer.alloc(1), messageId: String(id) }));
  await waitFor(() => publisher.stats.pendingMessages === 1 && !publisher.stats.flowing, { what: 'the third message to wait' });
  await manager.streams.purge('RAW');
  assert.equal((await Promise.all(outcomes)).length, 3);
  await publisher.close();
});

test('the window and the queue are bounded, and close rejects what is unacked', async () => {
  await using host = createHost();
  await using server = await startNatsServer();
  const nc = await connectTo(server);
  host.defer(() => nc.close());
  const publisher = createPublisher(nc, { stream: 'RAW', windowMessages: 2, logger });
  const publish = () => publisher.publish({ subject: 'tidegate.raw.n1', payload: Buffer.alloc(1), messageId: 'x' });
  const held = Array.from({ length: 8 }, publish);
  await assert.rejects(publish(), error => hasErrorCode(error, 'PUBLISH_QUEUE_FULL'));
  assert.equal(publisher.stats.hasRoom, false);
  const ready = publisher.ready();
  const closed = publisher.close({ drainTimeoutMs: 100 });
  for (const outcome of [...held, ready]) await assert.rejects(outcome, error => hasErrorCode(error, 'PUBLISH_CLOSED'));
  await closed;
  await publisher.close();
});

test('a server that is stopped in short turns is told by how long acks take, and forgotten when it is well again', async t => {
  await using host = createHost();
  await using server = await startNatsServer();
  const nc = await connectTo(server);
  host.defer(() => nc.close());
  await ensureStreams(nc, [raw]);
  const publisher = createPublisher(nc, { stream: 'RAW', logger });
  host.defer(() => publisher.close());
  assert.equal(publisher.ackMs(), undefined);
  const publish = (id: string) => publisher.publish({ subject: 'tidegate.raw.n1', payload: Buffer.alloc(200), messageId: id });
  const turns = 5;
  for (let turn = 0; turn < turns; turn++) {
    process.kill(server.pid, 'SIGSTOP');
    await waitFor(() => isStopped(server.pid), { what: 'the server to stand still' });
    const stored = publish(`n1:b:${turn}`);
    await delay(300);
    process.kill(server.pid, 'SIGCONT');
    await stored;
  }
  assert.equal((await storedIds(nc)).length, turns, 'all are stored, and once');
  // A timer may be a millisecond early.
  assert.ok(publisher.ackMs()! >= 299, `acks are said to take ${publisher.ackMs()} ms`);

  const nowMs = performance.now();
  t.mock.method(performance, 'now', () => nowMs + 2 * ACK_SPAN_MS);
  assert.equal(publisher.ackMs(), undefined);
});
