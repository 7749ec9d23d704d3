/** Run by clock-step.test.ts in a virtual machine, whose clock may be set. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { STREAMS } from '@tidegate/contracts';
import { jetstream } from '@nats-io/jetstream';
import { createHost, startNatsServer, testLogger, waitFor } from '@tidegate/testkit';
import { connectNats } from '../src/nats.ts';
import { createStreamReaders, type ReaderStart, type StreamPlace } from '../src/stream-reader.ts';
import { ensureStreams } from '../src/stream-setup.ts';

const STREAM = STREAMS.raw.name;
const MIB = 1024 * 1024;
const HOUR_S = 3_600;
const PATIENCE = { timeoutMs: 60_000 };

function stepClock(seconds: number): void {
  execFileSync('date', ['-s', `@${Math.round(Date.now() / 1000) + seconds}`]);
}

test('readers of a server whose clock steps miss nothing and read nothing twice', async () => {
  await using host = createHost();
  const server = await startNatsServer();
  host.defer(() => server.stop());
  const nc = await connectNats({ url: server.url, name: 'test', logger: testLogger() });
  host.defer(() => nc.close());
  await ensureStreams(nc, [{ ...STREAMS.raw, maxBytes: 16 * MIB }]);
  const readers = await createStreamReaders(nc);
  host.defer(() => {
    readers.close();
  });
  const places: StreamPlace[] = [];
  const follow = (start: ReaderStart) => {
    const sequences: number[] = [];
    const reader = readers.open({ stream: STREAM, start, maxAttempts: Infinity });
    void (async () => {
      for await (const { streamSequence, timeNs } of reader.read({ follow: true })) {
        sequences.push(streamSequence);
        places[streamSequence] ??= { streamSequence, timeMs: timeNs / 1e6 };
      }
    })();
    return sequences;
  };
  const js = jetstream(nc);
  let stored = 0;
  const store = async (count: number) => {
    for (let i = 0; i < count; i++) {
      stored++;
      await waitFor(() => js.publish('tidegate.raw.n', 'x', { msgID: `n:${stored}` }), { what: 'an ack', ...PATIENCE });
    }
  };
  const upTo = (last: number, first = 1) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

  const all = follow({ streamSequence: 1 });
  await store(20);
  // What was stored in between lies in the future for an hour and more.
  for (const seconds of [HOUR_S, -2 * HOUR_S, HOUR_S]) {
    stepClock(seconds);
    await store(20);
    await server.kill();
    await server.restart();
    await store(20);
  }
  await waitFor(() => all.length >= stored, { what: 'all messages', ...PATIENCE });
  assert.deepEqual(all, upTo(stored));
  const resumed = upTo(stored - 1).map(sequence => readers.sequenceAfter(STREAM, places[sequence]!));
  assert.deepEqual(await Promise.all(resumed), upTo(stored, 2));
});
