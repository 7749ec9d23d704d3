import assert from 'node:assert/strict';
import { test } from 'node:test';
import { STREAMS } from '@tidegate/contracts';
import { jetstream, type JetStreamClient } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { createHost, startNatsServer, testLogger, waitFor, type Host, type TestNatsServer } from '@tidegate/testkit';
import { hasErrorCode } from '../src/errors.ts';
import { connectNats } from '../src/nats.ts';
import { createStreamReaders, type StreamMessage, type StreamReader, type StreamReaders } from '../src/stream-reader.ts';
import { ensureStreams } from '../src/stream-setup.ts';

const STREAM = STREAMS.raw.name;
const VERSIONS = ['new', 'debian'] as const;

interface Scene {
  host: Host;
  server: TestNatsServer;
  nc: NatsConnection;
  js: JetStreamClient;
  readers: StreamReaders;
  [Symbol.asyncDispose](): Promise<void>;
}

async function setScene(version: (typeof VERSIONS)[number] = 'new'): Promise<Scene> {
  const host = createHost();
  const server = await startNatsServer({ version });
  host.defer(() => server.stop());
  const nc = await connectNats({ url: server.url, name: 'test', logger: testLogger() });
  host.defer(() => nc.close());
  await ensureStreams(nc, [STREAMS.raw]);
  const readers = await createStreamReaders(nc);
  host.defer(async () => readers.close());
  return { host, server, nc, js: jetstream(nc), readers, [Symbol.asyncDispose]: () => host[Symbol.asyncDispose]() };
}

/** Stores messages that hold their numbers, `first` to `last`, each once however often it has to be sent. */
async function store({ js }: Scene, first: number, last: number, { node = 'n', bytes = 10 } = {}): Promise<void> {
  for (let number = first; number <= last; number++) {
    const payload = Buffer.alloc(bytes);
    payload.writeUInt32BE(number);
    await waitFor(() => js.publish(`tidegate.raw.${node}`, payload, { msgID: `${node}:${number}`, timeout: 500 }), { what: 'an ack' });
  }
}

const numberOf = (message: StreamMessage) => Buffer.from(message.data).readUInt32BE();
const upTo = (last: number, first = 1) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

async function readToEnd(reader: StreamReader): Promise<number[]> {
  const numbers: number[] = [];
  for await (const message of reader.read({ follow: false })) numbers.push(numberOf(message));
  return numbers;
}

/** Numbers as they arrive. */
function follow({ host }: Scene, reader: StreamReader): number[] {
  const numbers: number[] = [];
  const reading = (async () => {
    for await (const message of reader.read({ follow: true })) numbers.push(numberOf(message));
  })();
  host.defer(async () => {
    reader.close();
    await reading;
  });
  return numbers;
}

for (const version of VERSIONS) {
  test(`reads from any start to the end, goes on from there, and ends at a last sequence (${version} server)`, async () => {
    await using scene = await setScene(version);
    const { readers } = scene;
    const { created, first, last } = await readers.bounds(STREAM);
    assert.deepEqual([first, last], [1, 0]);
    assert.ok(Math.abs(Date.parse(created) - Date.now()) < 60_000);
    await store(scene, 1, 300);
    const middleMs = Date.now() + 1;
    await waitFor(() => Date.now() > middleMs, { what: 'the clock' });
    await store(scene, 301, 600);
    const bounds = await readers.bounds(STREAM);
    assert.deepEqual([bounds.first, bounds.last, bounds.created], [1, 600, created]);
    assert.ok(bounds.lastStoredAtMs >= middleMs && bounds.lastStoredAtMs <= bounds.nowMs + 1);
    assert.equal(await readers.sequenceAt(STREAM, middleMs), 301);
    assert.equal(await readers.sequenceAt(STREAM, Date.now() + 60_000), 601);

    assert.deepEqual(await readToEnd(readers.open({ stream: STREAM, start: { timeMs: middleMs } })), upTo(600, 301));
    assert.deepEqual(await readToEnd(readers.open({ stream: STREAM, start: { streamSequence: 11 }, last: 20 })), upTo(20, 11));
    assert.deepEqual(await readToEnd(readers.open({ stream: STREAM, start: { streamSequence: 700 } })), []);
    const reader = readers.open({ stream: STREAM, start: { streamSequence: 1 } });
    assert.deepEqual(await readToEnd(reader), upTo(600));
    await store(scene, 601, 603);
    assert.deepEqual(await readToEnd(reader), upTo(603, 601));
    assert.equal(reader.position, 603);
    const later = follow(scene, reader);
    await store(scene, 604, 610);
    await waitFor(() => later.length === 7, { what: 'what is stored later' });
    assert.deepEqual(later, upTo(610, 604));
  });

  test(`the last message of each subject, then everything; headers only (${version} server)`, async () => {
    await using scene = await setScene(version);
    const { readers } = scene;
    await store(scene, 1, 50, { node: 'a' });
    await store(scene, 1, 20, { node: 'b' });
    const subjects = ['tidegate.raw.*'];
    const reader = readers.open({ stream: STREAM, start: 'last-per-subject', subjects });
    assert.deepEqual(await readToEnd(reader), [50, 20]);
    const later = follow(scene, reader);
    await store(scene, 21, 22, { node: 'b' });
    await store(scene, 51, 51, { node: 'a' });
    await waitFor(() => later.length === 3, { what: 'what is stored later' });
    assert.deepEqual(later, [21, 22, 51]);

    const headersOnly = readers.open({ stream: STREAM, start: 'last-per-subject', subjects: ['tidegate.raw.a'], headersOnly: true });
    for await (const { data, headers } of headersOnly.read({ follow: false })) {
      assert.equal(data.length, 0);
      assert.equal(headers!.get('Nats-Msg-Id'), 'a:51');
      assert.equal(headers!.get('Nats-Msg-Size'), '10');
    }
  });

  test(`a server killed and restarted again and again leaves no gap and no duplicate (${version} server)`, async () => {
    await using scene = await setScene(version);
    const { readers, server } = scene;
    const maxAttempts = Infinity;
    const all = follow(scene, readers.open({ stream: STREAM, start: { streamSequence: 1 }, maxAttempts }));
    const some = follow(
      scene,
      readers.open({ stream: STREAM, start: 'last-per-subject', subjects: ['tidegate.raw.n'], windowBytes: () => 1_000, maxAttempts }),
    );
    for (let round = 0; round < 3; round++) {
      await store(scene, round * 200 + 1, round * 200 + 100);
      await Promise.all([store(scene, round * 200 + 101, round * 200 + 200), server.kill().then(() => server.restart())]);
    }
    await waitFor(() => all.at(-1) === 600 && some.at(-1) === 600, { what: 'the last message', timeoutMs: 30_000 });
    assert.deepEqual(all, upTo(600));
    assert.deepEqual(some, upTo(600, some[0]));
  });

  test(`a deleted consumer is made again where it was; a stream made anew is read from its beginning (${version} server)`, async () => {
    await using scene = await setScene(version);
    const { manager, open } = scene.readers;
    const numbers = follow(scene, open({ stream: STREAM, start: { streamSequence: 1 }, maxAttempts: Infinity }));
    for (let round = 0; round < 3; round++) {
      await store(scene, round * 10 + 1, round * 10 + 10);
      await waitFor(() => numbers.length === round * 10 + 10, { what: 'the messages' });
      for await (const consumer of manager.consumers.list(STREAM)) await manager.consumers.delete(STREAM, consumer.name);
    }
    assert.deepEqual(numbers, upTo(30));
    await manager.streams.delete(STREAM);
    await ensureStreams(scene.nc, [STREAMS.raw]);
    await store(scene, 101, 105);
    await waitFor(() => numbers.length === 35, { what: 'messages of the new stream', timeoutMs: 30_000 });
    assert.deepEqual(numbers.slice(30), upTo(105, 101));
  });

  test(`what is read ahead stays within the window, and a message larger than it comes alone (${version} server)`, async () => {
    await using scene = await setScene(version);
    const sizes = [100, 100_000, 300_000, 100, 100, 20_000, 900_000, 100];
    for (const [i, bytes] of [...sizes, ...sizes, ...sizes].entries()) await store(scene, i + 1, i + 1, { bytes });
    const windowBytes = 50_000;
    const windows: number[] = [];
    const reader = scene.readers.open({
      stream: STREAM,
      start: { streamSequence: 1 },
      windowBytes: () => {
        windows.push(reader.position);
        return windowBytes;
      },
    });
    const positions: number[] = [];
    for await (const message of reader.read({ follow: false })) {
      positions.push(message.streamSequence);
      assert.equal(numberOf(message), positions.length);
    }
    assert.equal(positions.length, 24);
    // 100 KB, 300 KB and 900 KB each need a pull that brings nothing and one of their own.
    assert.ok(windows.length >= 9, `${windows.length} pulls`);

    // A reader that is held up holds up its pulls.
    let isOpen = false;
    const gate = Promise.withResolvers<void>();
    const held = scene.readers.open({
      stream: STREAM,
      start: { streamSequence: 1 },
      windowBytes: async () => {
        if (isOpen) await gate.promise;
        isOpen = true;
        return 1_000;
      },
    });
    const numbers = follow(scene, held);
    await waitFor(() => numbers.length === 1, { what: 'the first window' });
    await store(scene, 25, 30);
    assert.deepEqual(numbers, [1]);
    gate.resolve();
    await waitFor(() => numbers.length === 30, { what: 'the rest' });
    assert.deepEqual(numbers, upTo(30));
  });
}

test('where there is no stream reading gives up with its reason, after as many attempts as were asked for', async () => {
  await using scene = await setScene();
  for (const maxAttempts of [1, 2]) {
    const reader = scene.readers.open({ stream: 'NONE', start: { streamSequence: 1 }, maxAttempts });
    await assert.rejects(readToEnd(reader), error => hasErrorCode(error, 'STREAM_UNAVAILABLE') && /stream not found/.test(error.message));
  }
  await assert.rejects(scene.readers.bounds('NONE'), error => hasErrorCode(error, 'STREAM_UNAVAILABLE'));
});

test('closing ends reading, also what is opened later, and leaves no consumer', async () => {
  await using scene = await setScene();
  const { readers, nc } = scene;
  await store(scene, 1, 10);
  const numbers = follow(scene, readers.open({ stream: STREAM, start: { streamSequence: 1 } }));
  await waitFor(() => numbers.length === 10, { what: 'the messages' });
  readers.close();
  assert.deepEqual(await readToEnd(readers.open({ stream: STREAM, start: { streamSequence: 1 } })), []);
  const { manager } = await createStreamReaders(nc);
  await waitFor(async () => (await manager.streams.info(STREAM)).state.consumer_count === 0, { what: 'the consumer to be gone' });
});
