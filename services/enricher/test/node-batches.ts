/** Batches of a node that follow one another, and whether all of them came out. */
import assert from 'node:assert/strict';
import { rawBatch, type RawBatch } from './batches.ts';
import type { Audit, Stage } from './stage.ts';

export const EVENTS_PER_BATCH = 50;

/** Batches `from`..`to` (numbers) of a node, one after the other without a gap. */
export function batchesOf(node: string, from: number, to: number, pods: readonly string[] = []): RawBatch[] {
  return Array.from({ length: to - from + 1 }, (_, i) =>
    rawBatch({ node, batch: from + i, first: (from + i - 1) * EVENTS_PER_BATCH + 1, events: EVENTS_PER_BATCH, pods }),
  );
}

export function assertClean(audit: Audit, node: string, batches: number): void {
  const found = audit.get(node);
  assert.ok(found, `nothing of ${node}`);
  assert.deepEqual(
    { events: found.sequences.length, duplicates: found.duplicates, gaps: found.gaps, unordered: found.unordered, losses: found.losses },
    { events: batches * EVENTS_PER_BATCH, duplicates: [], gaps: [], unordered: [], losses: [] },
  );
}

/** Waits until the nodes are enriched, and asserts that of each all is there, once and in order. */
export async function assertEnriched(stage: Stage, nodes: readonly string[], batches: number): Promise<void> {
  await stage.enriched(nodes);
  const audit = await stage.audit();
  for (const node of nodes) assertClean(audit, node, batches);
}
