import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ownerOf } from '../src/assignment.ts';

const NODES = Array.from({ length: 5_000 }, (_, i) => `ip-10-0-${i >> 8}-${i & 255}`);
const MEMBERS = ['enricher-a', 'enricher-b', 'enricher-c', 'enricher-d'];

test('nodes are spread evenly, and the order of members does not matter', () => {
  const counts = new Map<string, number>();
  for (const node of NODES) {
    const owner = ownerOf(node, MEMBERS);
    assert.equal(ownerOf(node, MEMBERS.toReversed()), owner);
    counts.set(owner, (counts.get(owner) ?? 0) + 1);
  }
  for (const member of MEMBERS) assert.ok(Math.abs(counts.get(member)! - 1_250) < 150, `${member}: ${counts.get(member)}`);
});

test('when a member dies only its own nodes move', () => {
  const left = MEMBERS.slice(1);
  for (const node of NODES) {
    const before = ownerOf(node, MEMBERS);
    if (before !== MEMBERS[0]) assert.equal(ownerOf(node, left), before);
  }
});
