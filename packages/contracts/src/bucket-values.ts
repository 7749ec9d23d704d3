/** How values of the key-value buckets are written, and what they must look like to be read. */
import { checkShape, count, object, optional, table, text, time, type Shape } from './json-shape.ts';

/** For those who read only. */
export interface BucketDecoder<Value> {
  /** Throws for what is no such value, saying all that is wrong with it. Bytes that it keeps it must copy. */
  decode(bytes: Uint8Array): Value;
  /** Values are not even sent by the server when many are read. */
  readonly keysOnly?: boolean;
}

export interface BucketCodec<Value> extends BucketDecoder<Value> {
  encode(value: Value): Uint8Array | string;
}

export function jsonCodec<Value>(shape: Shape<Value>): BucketCodec<Value> {
  return {
    encode: value => JSON.stringify(value),
    decode: bytes => checkShape(shape, JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString())),
  };
}

/** Values as they are. */
export const bytesCodec: BucketCodec<Uint8Array> = { encode: value => value, decode: bytes => bytes };

/** For those who ask only which keys there are. */
export const keysDecoder: BucketDecoder<true> = { decode: () => true, keysOnly: true };

/** Value of `member.<enricher>` in KV `enrichers`. */
export interface EnricherMember {
  /** RFC 3339. */
  startedAt: string;
  /** Mean milliseconds until EVENTS has stored a message of its, of the last seconds; absent: it has stored none. */
  ackMs?: number | undefined;
}

/** How far a node is enriched. */
export interface EnrichedPlace {
  /** Of RAW: all outputs of this message and of those before are stored. */
  streamSequence: number;
  /** When RAW stored that message, milliseconds since 1970; 0: none is done yet. */
  storedAtMs: number;
  /** Of the node's last batch. */
  batch: number;
  boot: string;
  /** Last of the node's sequence numbers that is accounted for. */
  lastSequence: number;
}

/** A message of EVENTS that was stored for a node. */
export interface StoredOutput {
  streamSequence: number;
  /** Of the batch that it came of. */
  boot: string;
  batch: number;
}

/** Value of `cursor.<node token>` in KV `enrichers`. */
export interface EnricherCursor extends EnrichedPlace {
  /** Id of the enricher that has the node; empty: none. */
  owner: string;
  /** The last one: where EVENTS does not hold it any more, it has lost its end. */
  output?: StoredOutput | undefined;
  /** Where to begin again then: all up to here is on NATS's disk. */
  synced?: EnrichedPlace | undefined;
}

export const enricherMemberCodec = jsonCodec(object<EnricherMember>({ startedAt: text, ackMs: optional(count) }));
const enrichedPlace = { streamSequence: count, storedAtMs: count, batch: count, boot: text, lastSequence: count };
export const enricherCursorCodec = jsonCodec(
  object<EnricherCursor>({
    ...enrichedPlace,
    owner: text,
    output: optional(object<StoredOutput>({ streamSequence: count, boot: text, batch: count })),
    synced: optional(object<EnrichedPlace>(enrichedPlace)),
  }),
);

/** Value of `<consumer>` in KV `positions`: how far a consumer of EVENTS has done its work. */
export interface ConsumerPosition {
  /** When the stream was made, RFC 3339: one that was made anew counts from 1 again. */
  created: string;
  /** Stream sequence at which reading goes on. */
  next: number;
  /** The message read last, and when it was stored, milliseconds since 1970: tells whether the stream has lost its end since. */
  read?: { streamSequence: number; timeMs: number } | undefined;
  /** Nodes of which more is done than that: up to which stream sequence, by `<cluster>:<node>`. */
  given: Record<string, number>;
}

export const consumerPositionCodec = jsonCodec(
  object<ConsumerPosition>({
    created: time,
    next: count,
    read: optional(object({ streamSequence: count, timeMs: count })),
    given: table(count),
  }),
);
