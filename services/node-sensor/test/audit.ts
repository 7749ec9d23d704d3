import assert from 'node:assert/strict';
import { zstdDecompressSync } from 'node:zlib';
import { RawHeader, STREAMS, decodeBatch, lossReasonName, parseSequences, rawSubject, type EventBatch } from '@tidegate/contracts';
import { jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { waitFor } from '@tidegate/testkit';

/** What RAW holds of a node, checked number by number. */
export interface RawAudit {
  batches: EventBatch[];
  /** Numbers of events that are there. */
  present: Set<number>;
  /** Missing numbers by reason of the loss event that covers them. */
  lost: Record<string, number>;
  last: number;
}

const PAGE_MESSAGES = 500;

/**
 * Reads all of a node's messages and asserts that every number from `first` on is there exactly once, or covered by exactly one loss event, whose
 * count is right, and that the messages follow one another without a jump.
 */
export async function auditRaw(nc: NatsConnection, node: string, first = 1): Promise<RawAudit> {
  const audit: RawAudit = { batches: [], present: new Set(), lost: {}, last: first - 1 };
  const losses: { first: number; last: number; count: number; reason: string }[] = [];
  for await (const message of rawMessages(nc, node)) {
    const range = parseSequences(message.headers!.get(RawHeader.sequences));
    assert.ok(range, 'a message says which numbers it accounts for');
    assert.equal(range.first, audit.last + 1, 'messages follow one another');
    audit.last = range.last;
    const isPacked = message.headers!.get(RawHeader.encoding) === 'zstd';
    const batch = decodeBatch(isPacked ? zstdDecompressSync(message.data) : message.data);
    assert.equal(message.headers!.get(RawHeader.events), String(batch.events.length));
    audit.batches.push(batch);
    for (const { sequence, loss } of batch.events) {
      if (loss?.count) {
        losses.push({ first: loss.firstSequence!, last: loss.lastSequence!, count: loss.count, reason: lossReasonName(loss.reason!) });
      }
      if (!sequence) continue; // found later: without a number of its own
      assert.ok(!audit.present.has(sequence), `number ${sequence} is there once`);
      audit.present.add(sequence);
    }
  }
  const covered = new Set<number>();
  for (const { first, last, count, reason } of losses) {
    let missing = 0;
    for (let sequence = first; sequence <= last; sequence++) {
      if (audit.present.has(sequence)) continue;
      assert.ok(!covered.has(sequence), `number ${sequence} is lost once`);
      covered.add(sequence);
      missing++;
    }
    assert.equal(missing, count, `the loss event of ${first}-${last} (${reason}) counts what is missing`);
    audit.lost[reason] = (audit.lost[reason] ?? 0) + missing;
  }
  for (let sequence = first; sequence <= audit.last; sequence++) {
    assert.ok(audit.present.has(sequence) || covered.has(sequence), `number ${sequence} is there or covered`);
  }
  return audit;
}

async function* rawMessages(nc: NatsConnection, node: string) {
  const manager = await jetstreamManager(nc, { checkAPI: false });
  // This connection may still be on its way back from a server that was restarted.
  const { name, num_pending: total } = await waitFor(
    () => manager.consumers.add(STREAMS.raw.name, { ack_policy: 'none', filter_subject: rawSubject(node) }),
    { what: 'RAW to answer the test' },
  );
  const consumer = await manager.jetstream().consumers.get(STREAMS.raw.name, name);
  for (let received = 0; received < total;) {
    for await (const message of await consumer.fetch({ max_messages: PAGE_MESSAGES, expires: 2_000 })) {
      received++;
      yield message;
      if (received === total) break;
    }
  }
  await manager.consumers.delete(STREAMS.raw.name, name);
}
