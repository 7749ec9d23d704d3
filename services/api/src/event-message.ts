/** One message of EVENTS, decoded at most once however many clients it goes to. */
import {
  createEventReader,
  decodeBatch,
  parseEventSubject,
  type Event,
  type EventBatch,
  type EventJson,
  type EventReader,
} from '@tidegate/contracts';
import type { StreamMessage } from './stream-reader.ts';

const UNKNOWN_PLACE = { kind: '', namespace: '', workload: '' };

export class EventMessage {
  readonly sequence: number;
  readonly storedAtMs: number;
  /** Payload bytes. */
  readonly size: number;
  /** The subject's parts. */
  readonly place: { kind: string; namespace: string; workload: string };
  readonly #payload: Uint8Array;
  #batch: EventBatch | null | undefined;
  #reader: EventReader | undefined;
  #json: (Buffer | undefined)[] = [];

  constructor(message: StreamMessage) {
    this.sequence = message.sequence;
    this.storedAtMs = message.storedAtMs;
    this.size = message.data.length;
    this.place = parseEventSubject(message.subject) ?? UNKNOWN_PLACE;
    this.#payload = message.data;
  }

  /** null: the payload is not an EventBatch. */
  get batch(): EventBatch | null {
    if (this.#batch === undefined) {
      try {
        this.#batch = decodeBatch(this.#payload);
      } catch {
        this.#batch = null;
      }
    }
    return this.#batch;
  }

  /** It was looked into, and is not an EventBatch. */
  get isUnreadable(): boolean {
    return this.#batch === null;
  }

  get eventCount(): number {
    return this.#batch?.events.length ?? 0;
  }

  get reader(): EventReader | undefined {
    const batch = this.batch;
    return batch ? (this.#reader ??= createEventReader(batch, this.place)) : undefined;
  }

  /** Whether the encoded bytes hold this text, without decoding them. */
  includes(text: Buffer): boolean {
    return Buffer.from(this.#payload.buffer, this.#payload.byteOffset, this.#payload.byteLength).includes(text);
  }

  event(index: number): EventJson {
    return this.reader!.toJson(this.batch!.events[index]!);
  }

  /** JSON text of one event, made once. */
  json(index: number): Buffer {
    return (this.#json[index] ??= Buffer.from(JSON.stringify(this.event(index))));
  }

  timeUs(index: number): number {
    return eventTimeUs(this.batch!, this.batch!.events[index]!);
  }
}

/** Microseconds since 1970, cut as the JSON's `time` is. */
export function eventTimeUs(batch: EventBatch, event: Event): number {
  return Math.floor(batch.wallOffsetNs / 1000) + Math.floor((event.ktimeNs ?? 0) / 1000);
}
