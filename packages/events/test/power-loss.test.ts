import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { BUCKETS, type EventJson } from '@tidegate/contracts';
import { createHost, waitFor } from '@tidegate/testkit';
import { batchOf, publish, publishInsistently } from '@tidegate/testkit/event-messages';
import { sequencesOf, startFixture, take, upTo } from './fixture.ts';

const skip = process.getuid?.() === 0 ? false : 'a disk whose power is cut is mounted, which needs root';
const exec = (sequence: number) => batchOf('exec', [{ sequence }]);

test('EVENTS loses its end when NATS loses power: who had read it misses nothing of what takes its place', { skip }, async () => {
  await using host = createHost();
  const disk = host.disk();
  await using fixture = await startFixture('new', { storeDir: disk.folder });
  const { js, events, server } = fixture;
  const position = () => events.position('test');
  const followed: EventJson[] = [];
  const follower = events.consume({ from: 'beginning' });
  const following = (async () => {
    for await (const batch of follower) followed.push(...batch.events());
  })();
  for (const sequence of upTo(5)) await publish(js, 'exec', exec(sequence));
  disk.sync();
  for (const sequence of [6, 7, 8, 9, 10]) await publish(js, 'exec', exec(sequence));
  assert.deepEqual(sequencesOf(await take(events.consume({ from: 'beginning', position: position() }), 10)), upTo(10));
  await waitFor(() => followed.length === 10, { what: 'the follower' });
  // The worst case: the position is on the disk, and what it is a position of is not.
  execFileSync('find', [join(disk.folder, 'jetstream/$G/streams', `KV_${BUCKETS.positions.name}`), '-exec', 'sync', '{}', '+']);

  await server.kill();
  disk.cutPower();
  await server.restart();
  for (const sequence of [11, 12, 13]) await publishInsistently(js, 'exec', exec(sequence), `again:${sequence}`);
  assert.deepEqual(sequencesOf(await take(events.consume({ position: position() }), 3)), [11, 12, 13]);
  await waitFor(() => followed.length === 13, { what: 'the follower to go on' });
  assert.deepEqual(sequencesOf(followed), upTo(13));
  await follower.close();
  await following;
});
