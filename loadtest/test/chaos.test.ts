import assert from 'node:assert/strict';
import { test } from 'node:test';
import { probe } from '@tidegate/native';
import { NatsRole } from '@tidegate/runtime';
import { drawSteps, paused, powerCut, seededRandom, stuttering } from '../src/chaos/faults.ts';
import { judge } from '../src/chaos/markers.ts';
import { runChaos } from '../src/chaos/run.ts';

const SEED = 7;
const FAULTS_MS = 20_000;

const { ok, missing } = probe();
const skip = ok ? false : missing.map(fault => fault.message).join(' ');

test('faults drawn from a seed: nothing is lost in silence, nothing is there twice', { skip }, async () => {
  const steps: string[] = [];
  const { faults } = await runChaos({
    seed: SEED,
    steps: (stage, random) => drawSteps(stage, random, FAULTS_MS),
    print: line => steps.push(line),
  });
  assert.deepEqual(faults, [], `npm run bench -- chaos --seed ${SEED} --minutes ${FAULTS_MS / 60_000}\n${steps.join('\n')}`);
});

test('a seed draws the same numbers again', () => {
  const [one, other] = [seededRandom(SEED), seededRandom(SEED)];
  for (let i = 0; i < 100; i++) assert.equal(one(), other());
});

test('markers are judged by the losses at their place alone', () => {
  const found = [0, 1, 3, 4, 6, 6].map(number => ({ number, sequence: 10 * (number + 1) }));
  assert.deepEqual(judge(found, [{ first: 25, last: 29 }], 8), { twice: [6], silent: [5, 7], told: [2] });
});

test('nats-servers that are slow, an enricher that stands still for 10 s: nothing is lost, nothing is there twice', { skip }, async () => {
  const { faults, lost } = await runChaos({
    seed: SEED,
    steps: ({ servers, services }) => {
      const enricher = services.find(({ role }) => role === NatsRole.enricher)!;
      return [stuttering(servers, 8_000), paused(enricher, 10_000)].map(fault => ({ afterMs: 500, ...fault }));
    },
    print: () => undefined,
  });
  assert.deepEqual(faults, []);
  assert.deepEqual(lost, {});
});

test(
  'the power of one nats-server and then of all three is cut: nothing is lost in silence, nothing is there twice',
  { skip },
  async () => {
    const { faults } = await runChaos({
      seed: SEED,
      steps: ({ servers }) => [
        { afterMs: 3_000, ...powerCut([servers[0]!], 2_000) },
        { afterMs: 5_000, ...powerCut(servers, 2_000) },
      ],
      print: () => undefined,
    });
    assert.deepEqual(faults, []);
  },
);
