/** Losses of one reader alone, in the shape of an event: it was too slow, or the stream discarded something before it had it. No stream holds them. */
import { formatTimeUs, type EventJson, type LossJson } from '@tidegate/contracts';

export interface ReaderLoss {
  reason: 'slow_client' | 'events_discarded';
  /** Events that matched and were dropped; 0: not known. */
  count: number;
  /** When they happened, microseconds since 1970. */
  fromUs: number;
  toUs: number;
  /** First and last stream sequence of what is missing. */
  streamSequences?: readonly [number, number];
}

/** What such a loss says more: no node's clock and no node's numbers tell of it. */
export interface ReaderLossJson extends LossJson {
  from: string;
  to: string;
  first_stream_sequence?: number;
  last_stream_sequence?: number;
}

export function readerLossEvent({ reason, count, fromUs, toUs, streamSequences }: ReaderLoss): EventJson {
  const loss: ReaderLossJson = {
    reason,
    count,
    first_sequence: 0,
    last_sequence: 0,
    from_ktime_ns: '0',
    to_ktime_ns: '0',
    by_kind: {},
    from: formatTimeUs(fromUs),
    to: formatTimeUs(toUs),
    ...(streamSequences && { first_stream_sequence: streamSequences[0], last_stream_sequence: streamSequences[1] }),
  };
  const nowhere = { cluster: '', node: '', boot: '', sequence: 0, ktime_ns: '0', namespace: '', workload: '' };
  return { time: formatTimeUs(toUs), kind: 'loss', ...nowhere, loss };
}

export function readerLossJson(loss: ReaderLoss): Buffer {
  return Buffer.from(JSON.stringify(readerLossEvent(loss)));
}
