/** Drops the events of low priority from an encoded batch, leaving a loss event that counts them. For a spool that is full. */
import { leadingNumbers, walkFields, WireCursor } from './batch-walk.ts';
import { isDataKind } from './kinds.ts';
import { BatchField, encodeBatch, EventField, Kind, LossReason } from './schema.ts';

export interface ThinnedBatch {
  /** Same id, same tables, fewer events, one loss event more; the input itself when there was nothing to drop. */
  payload: Uint8Array;
  dropped: number;
  /** Events left, the loss event included. */
  events: number;
}

/**
 * @param payload an encoded, not compressed EventBatch
 * @throws {BatchError} when it is not one
 */
export function thinBatch(payload: Uint8Array): ThinnedBatch {
  const cursor = new WireCursor(payload);
  const numbers = new Float64Array(EventField.ktimeNs + 1);
  const kept: Uint8Array[] = [];
  const byKind: Record<number, number> = {};
  let dropped = 0;
  let events = 0;
  let first = Infinity;
  let last = 0;
  let fromKtimeNs = Infinity;
  let toKtimeNs = 0;
  walkFields(payload, (field, _wireType, start, body, end) => {
    if (field === BatchField.events) {
      leadingNumbers(cursor, body, end, numbers);
      const kind = numbers[EventField.kind]!;
      if (isDataKind(kind)) {
        dropped++;
        byKind[kind] = (byKind[kind] ?? 0) + 1;
        first = Math.min(first, numbers[EventField.sequence]!);
        last = Math.max(last, numbers[EventField.sequence]!);
        fromKtimeNs = Math.min(fromKtimeNs, numbers[EventField.ktimeNs]!);
        toKtimeNs = Math.max(toKtimeNs, numbers[EventField.ktimeNs]!);
        return;
      }
      events++;
    }
    kept.push(payload.subarray(start, end));
  });
  if (dropped === 0) return { payload, dropped, events };
  const loss = encodeBatch({
    events: [
      {
        kind: Kind.KIND_LOSS,
        ktimeNs: toKtimeNs,
        loss: {
          reason: LossReason.LOSS_REASON_SPOOL_FULL,
          count: dropped,
          firstSequence: first,
          lastSequence: last,
          fromKtimeNs,
          toKtimeNs,
          byKind,
        },
      },
    ],
  });
  return { payload: Buffer.concat([...kept, loss]), dropped, events: events + 1 };
}
