/**
 * How far a consumer's work is stored: not the acks of a JetStream consumer, which anybody who may read could move, but a value that is the consumer's own. It is
 * written after the work, in KV by compare-and-set, or together with the work where that can be one step.
 */
import { BUCKETS, STREAMS, consumerPositionCodec, type ConsumerPosition } from '@tidegate/contracts';
import type { Buckets, StreamBounds, StreamReaders } from '@tidegate/runtime';
import type { Place } from './batch-walk.ts';

export type { ConsumerPosition } from '@tidegate/contracts';

/** Where a consumer keeps its position. */
export interface PositionStore {
  /** undefined: it never had one. */
  load(): Promise<ConsumerPosition | undefined>;
  /**
   * Called for one position at a time, in order, after `done`. Rejects when another has written in the meantime: then this consumer ends. Left out where the
   * position is stored together with the work.
   */
  save?(position: ConsumerPosition): Promise<void>;
}

/**
 * A position in KV `positions`. Of two consumers of one name that run at the same time one is told so by BUCKET_CONFLICT.
 * @param name what the consumer is for; one or more subject tokens with dots between
 */
export function bucketPosition(buckets: Buckets, name: string): PositionStore {
  const bucket = buckets.open(BUCKETS.positions, consumerPositionCodec);
  let revision = 0;
  return {
    async load() {
      const entry = await bucket.get(name);
      ({ revision } = entry);
      return entry.value;
    },
    async save(position) {
      revision = await bucket.update(name, position, revision);
    },
  };
}

export function positionOf({ start, read, given }: Place, created: string): ConsumerPosition {
  return { created, next: start, ...(read && { read }), given: Object.fromEntries(given) };
}

export function placeOf({ next, read, given }: ConsumerPosition): Place {
  return { start: next, read, given: new Map(Object.entries(given)) };
}

export interface ResumedPlace {
  place: Place;
  /** First and last stream sequence of what can be read no more; of a stream that was made anew nobody knows, and both are where the place was. */
  discarded: readonly [number, number] | undefined;
}

/**
 * Where to go on in EVENTS, which may have discarded what was not read, have lost its end, or have been made anew.
 * @param stream its bounds
 * @param created when the stream of the place was made
 * @throws {TidegateError} STREAM_UNAVAILABLE
 */
export async function resumePlace(readers: StreamReaders, stream: StreamBounds, place: Place, created: string): Promise<ResumedPlace> {
  const { start, read } = place;
  if (created !== stream.created) return { place: { start: stream.first, given: new Map() }, discarded: [start, start] };
  const next = read ? await readers.sequenceAfter(STREAMS.events.name, read) : Infinity;
  // What was read of the lost end is stored again, under other sequences.
  if (read && next <= read.streamSequence) return { place: { start: Math.min(start, next), given: new Map() }, discarded: undefined };
  if (start >= stream.first) return { place, discarded: undefined };
  return { place: { ...place, start: stream.first }, discarded: [start, stream.first - 1] };
}
