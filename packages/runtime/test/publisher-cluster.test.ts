import assert from 'node:assert/strict';
import { test } from 'node:test';
import { STREAMS } from '@tidegate/contracts';
import { createHost, startNatsCluster, testLogger, waitFor } from '@tidegate/testkit';
import { connectNats } from '../src/nats.ts';
import { createPublisher } from '../src/publisher.ts';
import { createStreamReaders } from '../src/stream-reader.ts';

const logger = testLogger();
const RAW = STREAMS.raw.name;
const NODES = 8;
const MOVES = 6;

test('a cluster whose leader moves and is killed: every message once, each subject in order', async () => {
  await using host = createHost();
  await using cluster = await startNatsCluster();
  const nc = await connectNats({ url: cluster.url, name: 'test', logger });
  host.defer(() => nc.close());
  await cluster.setUp(nc);
  const publisher = createPublisher(nc, { stream: RAW, windowMessages: 512, logger });
  const outcomes: Promise<unknown>[] = [];
  let isOver = false;
  const publishing = (async () => {
    while (!isOver) {
      await publisher.ready();
      const number = outcomes.length;
      outcomes.push(
        publisher.publish({ subject: `tidegate.raw.n${number % NODES}`, payload: Buffer.alloc(200), messageId: String(number) }),
      );
      if (number % 64 === 0) await new Promise(resolve => setImmediate(resolve));
    }
  })();
  const progress = async () => {
    const { acknowledged } = publisher.stats;
    await waitFor(() => publisher.stats.acknowledged > acknowledged + 500, { what: 'messages to be stored' });
  };
  for (let i = 0; i < MOVES; i++) {
    await progress();
    await nc.request(`$JS.API.STREAM.LEADER.STEPDOWN.${RAW}`);
  }
  await progress();
  const leader = await waitFor(() => cluster.leaderOf(nc, RAW), { what: 'a leader' });
  await leader.kill();
  await progress();
  await leader.restart();
  await progress();
  isOver = true;
  await publishing;
  await Promise.all(outcomes);
  const readers = await createStreamReaders(nc);
  host.defer(() => readers.close());
  const last = new Map<string, number>();
  const misplaced: string[] = [];
  let stored = 0;
  for await (const { subject, headers } of readers.open({ stream: RAW, start: { streamSequence: 1 } }).read({ follow: false })) {
    const number = Number(headers!.get('Nats-Msg-Id'));
    const before = last.get(subject) ?? -1;
    if (number <= before) misplaced.push(`${number} behind ${before}`);
    last.set(subject, number);
    stored++;
  }
  assert.deepEqual(misplaced, []);
  assert.equal(stored, outcomes.length);
});
