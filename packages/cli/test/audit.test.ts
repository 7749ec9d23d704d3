import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Kind, LossReason, encodeBatch, type Event } from '@tidegate/contracts';
import { createAudit, isClean, uncovered, type BatchPart } from '../src/audit.ts';
import { SequenceSet } from '../src/sequence-set.ts';

/** Mulberry32: the same permutations in every run. */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const result = [...items];
  for (let i = result.length - 1; i > 0; i--) {
    const other = Math.floor(random() * (i + 1));
    [result[i], result[other]] = [result[other]!, result[i]!];
  }
  return result;
}

function exec(sequence: number): Event {
  return { kind: Kind.KIND_EXEC, sequence, exec: {} };
}

function loss(sequence: number, count: number, first: number, last: number, reason = LossReason.LOSS_REASON_RING_FULL): Event {
  return { kind: Kind.KIND_LOSS, sequence, loss: { reason, count, firstSequence: first, lastSequence: last } };
}

function message(batch: number, events: Event[], more: { node?: string; boot?: string; recorded?: boolean } = {}): Uint8Array {
  return encodeBatch({ node: 'a', boot: 'x', batch, ...more, events });
}

function audited(messages: readonly Uint8Array[]) {
  const audit = createAudit();
  for (const payload of messages) audit.add(payload, undefined, 'within');
  return audit.result();
}

function numbers(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

test('a complete range is clean in any order and any grouping', () => {
  const random = randomNumbers(1);
  for (let round = 0; round < 50; round++) {
    const sequences = shuffled(numbers(70_000, 71_000 + round), random);
    const messages: Uint8Array[] = [];
    for (let at = 0; at < sequences.length;) {
      const size = 1 + Math.floor(random() * 40);
      messages.push(message(messages.length + 1, sequences.slice(at, at + size).map(exec)));
      at += size;
    }
    const [node] = audited(shuffled(messages, random));
    assert.deepEqual(
      { ...node, lost: {} },
      { ...node, lost: {}, first: 70_000, last: 71_000 + round, events: 1_001 + round, gapNumbers: 0, duplicates: 0 },
    );
  }
});

test('random streams with losses are clean, and one event taken away is a gap', () => {
  const random = randomNumbers(2);
  for (let round = 0; round < 200; round++) {
    const { messages, droppable } = randomStream(random);
    const clean = audited(shuffled(messages, random));
    assert.equal(clean[0]!.gapNumbers, 0, `round ${round}: ${JSON.stringify(clean)}`);
    assert.ok(isClean(clean));
    if (droppable.length === 0) continue;
    const dropped = droppable[Math.floor(random() * droppable.length)]!;
    const broken = audited(
      shuffled(
        messages.filter(each => each !== dropped),
        random,
      ),
    );
    assert.equal(broken[0]!.gapNumbers, 1, `round ${round}`);
    assert.ok(!isClean(broken));
  }
});

/** Numbers 1..n: kept, lost whole (own number right after), or thinned (loss without a number over a range of kept and lost ones). */
function randomStream(random: () => number) {
  const messages: Uint8Array[] = [message(1, [exec(1)])];
  const droppable: Uint8Array[] = [];
  let next = 2;
  for (let part = 0; part < 30; part++) {
    const size = 1 + Math.floor(random() * 20);
    const choice = random();
    if (choice < 0.5) {
      for (const sequence of numbers(next, next + size - 1)) {
        const payload = message(next, [exec(sequence)]);
        messages.push(payload);
        droppable.push(payload);
      }
      next += size;
    } else if (choice < 0.75) {
      messages.push(message(next, [loss(next + size, size, next, next + size - 1)]));
      next += size + 1;
    } else {
      const lost = numbers(next, next + size - 1).filter(() => random() < 0.5);
      for (const sequence of numbers(next, next + size - 1)) if (!lost.includes(sequence)) messages.push(message(next, [exec(sequence)]));
      if (lost.length > 0) messages.push(message(next, [loss(0, lost.length, lost[0]!, lost.at(-1)!, LossReason.LOSS_REASON_SPOOL_FULL)]));
      next += size;
    }
  }
  messages.push(message(next, [exec(next)]));
  return { messages, droppable };
}

test('a loss covers no more numbers than it says', () => {
  const [node] = audited([message(1, [exec(1)]), message(2, [loss(6, 3, 2, 5), exec(7)])]);
  assert.equal(node!.missing, 4);
  assert.equal(node!.gapNumbers, 1);
  assert.deepEqual(node!.gaps, [{ first: 5, last: 5 }]);
  assert.deepEqual(node!.lost, { ring_full: 3 });
});

test('overlapping losses share the numbers out as well as it can be done', () => {
  const runs = [{ first: 1, last: 10 }];
  assert.deepEqual(
    uncovered(runs, [
      { first: 1, last: 10, count: 5 },
      { first: 1, last: 5, count: 5 },
    ]),
    [],
  );
  assert.deepEqual(
    uncovered(runs, [
      { first: 1, last: 5, count: 9 },
      { first: 4, last: 10, count: 5 },
    ]),
    [],
  );
  assert.deepEqual(
    uncovered(runs, [
      { first: 1, last: 4, count: 4 },
      { first: 7, last: 10, count: 4 },
    ]),
    [{ first: 5, last: 6 }],
  );
});

test('the number left uncovered is the least possible, compared with trying every assignment', () => {
  const random = randomNumbers(3);
  for (let round = 0; round < 300; round++) {
    const missing = numbers(1, 9).filter(() => random() < 0.6);
    const losses = Array.from({ length: 4 }, () => {
      const first = 1 + Math.floor(random() * 9);
      return { first, last: first + Math.floor(random() * 4), count: 1 + Math.floor(random() * 3) };
    });
    const left = uncovered(
      missing.map(number => ({ first: number, last: number })),
      losses,
    ).reduce((sum, run) => sum + run.last - run.first + 1, 0);
    assert.equal(
      left,
      fewestUncovered(
        missing,
        losses.map(each => ({ ...each })),
      ),
      JSON.stringify({ missing, losses }),
    );
  }
});

function fewestUncovered(missing: readonly number[], losses: { first: number; last: number; count: number }[]): number {
  const [number, ...rest] = missing;
  if (number === undefined) return 0;
  let best = 1 + fewestUncovered(rest, losses);
  for (const each of losses) {
    if (best === 0 || each.count === 0 || number < each.first || number > each.last) continue;
    each.count--;
    best = Math.min(best, fewestUncovered(rest, losses));
    each.count++;
  }
  return best;
}

test('duplicates are counted, and a repeated loss counts once', () => {
  const repeated = message(2, [loss(4, 2, 2, 3)]);
  const unnumbered = message(2, [loss(0, 1, 5, 5)]);
  const [node] = audited([message(1, [exec(1)]), repeated, repeated, unnumbered, unnumbered, message(3, [exec(6), exec(6)])]);
  assert.equal(node!.duplicates, 2);
  assert.deepEqual(node!.lost, { ring_full: 3 });
  assert.equal(node!.gapNumbers, 0);
});

test('losses at the ends belong to the range, also several in a row; a loss further off does not', () => {
  const ends = audited([
    message(1, [loss(0, 4, 3, 6)]),
    message(2, [loss(0, 3, 7, 9)]),
    message(3, [exec(10)]),
    message(4, [loss(0, 2, 11, 12)]),
  ]);
  assert.deepEqual([ends[0]!.first, ends[0]!.last, ends[0]!.gapNumbers], [3, 12, 0]);
  const far = audited([message(1, [exec(100), loss(0, 5, 10, 14, LossReason.LOSS_REASON_RAW_DISCARDED)])]);
  assert.deepEqual([far[0]!.first, far[0]!.gapNumbers], [100, 0]);
});

test('nodes are audited apart, recorded plays each by themselves', () => {
  const nodes = audited([
    message(1, [exec(5)], { node: 'b' }),
    message(1, [exec(5)]),
    message(1, [exec(1)], { node: 'b-recorded', boot: 'one', recorded: true }),
    message(1, [exec(1)], { node: 'b-recorded', boot: 'two', recorded: true }),
  ]);
  assert.deepEqual(
    nodes.map(node => [node.node, node.recordedBoot, node.duplicates]),
    [
      ['a', undefined, 0],
      ['b', undefined, 0],
      ['b-recorded', 'one', 0],
      ['b-recorded', 'two', 0],
    ],
  );
});

const FIRST: BatchPart = { part: 1, parts: 2 };
const SECOND: BatchPart = { part: 2, parts: 2 };

test("a batch that the window's edges cut is no gap, wherever it is cut, and belongs where it begins", () => {
  // Three batches of two messages, whose numbers interleave as subjects do.
  const messages = [
    message(1, [exec(1), exec(3)]),
    message(1, [exec(2), exec(4)]),
    message(2, [exec(5), exec(8)]),
    message(2, [exec(6), exec(7)]),
    message(3, [exec(9), exec(11)]),
    message(3, [exec(10), exec(12)]),
  ];
  for (let from = 0; from < messages.length; from++) {
    for (let to = from + 1; to <= messages.length; to++) {
      const audit = createAudit({ startsTorn: from > 0 });
      for (let i = from; i < messages.length; i++) audit.add(messages[i]!, i % 2 === 0 ? FIRST : SECOND, i < to ? 'within' : 'after');
      assert.deepEqual(audit.unsettled(), []);
      const [node] = audit.result();
      const [first, last] = [Math.ceil(from / 2) * 4 + 1, Math.ceil(to / 2) * 4];
      if (first > last) assert.equal(node, undefined);
      else assert.deepEqual([node!.gapNumbers, node!.duplicates, node!.first, node!.last], [0, 0, first, last], `window ${from}..${to}`);
    }
  }
});

test('a batch that lacks a part is unsettled until that or another batch comes', () => {
  const audit = createAudit();
  audit.add(message(1, [exec(1)]), undefined, 'within');
  assert.deepEqual(audit.unsettled(), []);
  audit.add(message(2, [exec(4)]), FIRST, 'within');
  assert.deepEqual(audit.unsettled(), ['a']);
  audit.add(message(2, [exec(4)]), FIRST, 'within');
  assert.deepEqual(audit.unsettled(), ['a'], 'a repetition is no part');
  audit.add(message(2, [exec(2), exec(3)]), SECOND, 'after');
  assert.deepEqual(audit.unsettled(), []);
  audit.add(message(3, [exec(9)]), FIRST, 'after');
  assert.deepEqual(audit.unsettled(), []);
  assert.equal(audit.result()[0]!.last, 4);
  const followed = createAudit();
  followed.add(message(2, [exec(4)]), FIRST, 'within');
  followed.add(message(3, [exec(9)]), FIRST, 'after');
  assert.deepEqual(followed.unsettled(), []);
});

test('header fields appended to a batch count instead of the earlier ones', () => {
  const payload = Buffer.concat([message(1, [exec(1)]), encodeBatch({ node: 'a-recorded', boot: 'play', batch: 7, recorded: true })]);
  const [node] = audited([payload]);
  assert.deepEqual([node!.node, node!.recordedBoot], ['a-recorded', 'play']);
});

test('a sequence set keeps exact runs over chunk borders and wide holes', () => {
  const random = randomNumbers(4);
  const set = new SequenceSet();
  const model = new Set<number>();
  for (let i = 0; i < 20_000; i++) {
    const number = Math.floor(random() * 140_000) + 60_000;
    assert.equal(set.add(number), !model.has(number));
    model.add(number);
  }
  for (const number of numbers(65_536, 131_071)) if (set.add(number)) model.add(number);
  assert.equal(set.add(2 ** 52), true);
  const missing = [...set.missing(60_000, 200_000)].flatMap(run => numbers(run.first, run.last));
  assert.deepEqual(
    missing,
    numbers(60_000, 200_000).filter(number => !model.has(number)),
  );
  assert.deepEqual(
    [...set.missing(2 ** 52 - 1, 2 ** 52 + 1)],
    [
      { first: 2 ** 52 - 1, last: 2 ** 52 - 1 },
      { first: 2 ** 52 + 1, last: 2 ** 52 + 1 },
    ],
  );
});

test('numbers that cannot be a sequence are refused instead of filling memory', () => {
  const set = new SequenceSet();
  assert.throws(() => {
    for (let i = 0; i < 40_000; i++) set.add(i * 100_000);
  }, /AUDIT_TOO_SCATTERED|too far apart/);
});
