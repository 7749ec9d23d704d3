import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { STREAMS } from '@tidegate/contracts';
import { jetstreamManager } from '@nats-io/jetstream';
import { createHost, startNatsServer, testLogger, waitFor } from '@tidegate/testkit';
import { connectNats } from '../src/nats.ts';
import { createPublisher } from '../src/publisher.ts';
import { ensureStreams } from '../src/stream-setup.ts';

const MIB = 1024 ** 2;
const MESSAGES = 400;
const PAYLOAD_BYTES = 100 * 1024;

test('a full disk under the stream: publishing waits, and every message is stored once when there is room again', async t => {
  if (process.getuid?.() !== 0) return t.skip('mounting a small tmpfs needs root');
  await using host = createHost();
  const storeDir = host.folder();
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', storeDir]);
  host.defer(() => void execFileSync('umount', [storeDir]));
  // The server is told of more room than the disk has: else it refuses the stream's limit at once.
  await using server = await startNatsServer({ storeDir, config: { jetstream: { store_dir: storeDir, max_file_store: 512 * MIB } } });
  const nc = await connectNats({ url: server.url, name: 'test', logger: testLogger() });
  host.defer(() => nc.close());
  await ensureStreams(nc, [{ ...STREAMS.raw, maxBytes: 128 * MIB }]);
  const publisher = createPublisher(nc, { stream: STREAMS.raw.name, windowBytes: 2 * MIB, logger: testLogger() });
  const outcomes: Promise<unknown>[] = [];
  const publishing = (async () => {
    for (let i = 0; i < MESSAGES; i++) {
      await publisher.ready();
      outcomes.push(publisher.publish({ subject: 'tidegate.raw.n1', payload: Buffer.alloc(PAYLOAD_BYTES, i), messageId: `n1:b:${i}` }));
    }
  })();
  await waitFor(() => !publisher.stats.flowing, { what: 'the disk to be full', timeoutMs: 60_000 });
  assert.ok(publisher.stats.pendingBytes <= 2 * MIB + PAYLOAD_BYTES, `${publisher.stats.pendingBytes} bytes are held`);
  assert.ok(publisher.stats.acknowledged < MESSAGES);
  execFileSync('mount', ['-o', 'remount,size=256m', storeDir]);
  // A server that met a full disk switches JetStream off until it is started again.
  await server.restart();
  await publishing;
  await Promise.all(outcomes);
  const { state } = await (await jetstreamManager(nc)).streams.info(STREAMS.raw.name);
  assert.equal(state.messages, MESSAGES);
  await publisher.close();
});
