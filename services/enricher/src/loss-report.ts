/** Loss events that the enricher finds itself: numbers that never reached it, and messages it could not read. They have no sequence number of their own. */
import { decodeBatch, encodeBatch, type EventBatch, eventSubject, HOST_NAMESPACE, Kind, type LossReason } from '@tidegate/contracts';
import type { BatchIndex } from './batch-index.ts';
import type { SequenceRange } from './raw-message.ts';
import type { Output } from './splice.ts';

export interface LossReport {
  node: string;
  boot: string;
  /** Batch whose first part the loss is, because it came to light with it; 0: none. */
  batch: number;
  cluster: string;
  recorded: boolean;
  reason: LossReason;
  /** undefined: how many is not known, and their numbers neither. */
  range: SequenceRange | undefined;
  /** Nanoseconds since 1970: when RAW stored the message that showed it. Not the reader's clock, so that a repetition gives the same bytes. */
  timeNs: number;
}

/** The loss as a message of EVENTS. */
export function lossOutput({ node, boot, batch, cluster, recorded, reason, range, timeNs }: LossReport): Output {
  const payload = encodeBatch({
    node,
    boot,
    batch,
    cluster,
    wallOffsetNs: timeNs,
    recorded,
    events: [
      {
        kind: Kind.KIND_LOSS,
        loss: range ? { reason, count: range.last - range.first + 1, firstSequence: range.first, lastSequence: range.last } : { reason },
      },
    ],
  });
  return {
    subject: eventSubject(Kind.KIND_LOSS, HOST_NAMESPACE, node),
    kind: Kind.KIND_LOSS,
    payload,
    events: 1,
    firstSequence: 0,
    lastSequence: 0,
    name: `loss:${range ? `${range.first}-${range.last}` : ''}`,
  };
}

/** Ranges of numbers that the batch's own loss events account for, in their order. Decodes the batch: for the rare jump only. */
export function lossRanges(index: BatchIndex): SequenceRange[] {
  if (!index.eventKind.subarray(0, index.events).includes(Kind.KIND_LOSS)) return [];
  let batch: EventBatch;
  try {
    batch = decodeBatch(index.bytes);
  } catch {
    return []; // A loss event that cannot be decoded accounts for nothing.
  }
  const ranges: SequenceRange[] = [];
  for (const event of batch.events) {
    const firstSequence = event.loss?.firstSequence ?? 0;
    const lastSequence = event.loss?.lastSequence ?? 0;
    if (firstSequence > 0 && lastSequence >= firstSequence) ranges.push({ first: firstSequence, last: lastSequence });
  }
  return ranges.sort((a, b) => a.first - b.first);
}

/** The parts of `range` that none of `covered` (sorted by first) holds. */
export function uncovered(range: SequenceRange, covered: readonly SequenceRange[]): SequenceRange[] {
  const parts: SequenceRange[] = [];
  let next = range.first;
  for (const { first, last } of covered) {
    if (first > range.last) break;
    if (first > next) parts.push({ first: next, last: first - 1 });
    next = Math.max(next, last + 1);
  }
  if (next <= range.last) parts.push({ first: next, last: range.last });
  return parts;
}
