import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BUCKETS, STREAMS } from '@tidegate/contracts';
import { probe } from '@tidegate/native';
import { bucketStream } from '@tidegate/runtime';
import { leaderKilled, leaderMoved } from '../src/chaos/faults.ts';
import { runChaos } from '../src/chaos/run.ts';

const { ok, missing } = probe();
const skip = ok ? false : missing.map(fault => fault.message).join(' ');

test('three nats-servers, leaders moved and killed under load: nothing is lost, nothing is there twice', { skip }, async () => {
  const streams = [STREAMS.raw.name, STREAMS.events.name, bucketStream(BUCKETS.enrichers.name)];
  const steps = [
    ...streams.map(leaderMoved),
    ...streams.map(leaderMoved),
    leaderKilled(STREAMS.raw.name, 5_000),
    ...streams.map(leaderMoved),
    leaderKilled(STREAMS.events.name, 5_000),
  ].map(fault => ({ afterMs: 200, ...fault }));
  const { faults, lost, told, markers } = await runChaos({ seed: 1, steps: () => steps, print: () => undefined });
  assert.deepEqual(faults, []);
  assert.deepEqual({ lost, told }, { lost: {}, told: [] });
  assert.ok(markers > 0);
});
