/** One message of EVENTS, decoded at most once however many clients it goes to. */
import {
  BatchField,
  createEventReader,
  decodeBatch,
  EventField,
  leadingNumbers,
  parseEventSubject,
  walkFields,
  WireCursor,
  type EventBatch,
  type EventJson,
  type EventReader,
} from '@tidegate/contracts';
import type { StreamMessage } from '@tidegate/runtime';

const UNKNOWN_PLACE = { kind: '', namespace: '', workload: '' };

/** Which sequence numbers of which batch a message holds. */
export interface MessageNumbers {
  node: string;
  /** `<boot>:<batch>`. */
  batchId: string;
  /** Lowest and highest, and how many. */
  first: number;
  last: number;
  count: number;
}

export class EventMessage {
  /** Of the stream. */
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
    this.sequence = message.streamSequence;
    this.storedAtMs = message.timeNs / 1e6;
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

  /** Found without decoding; undefined when the payload is not an EventBatch. */
  numbers(): MessageNumbers | undefined {
    try {
      return readNumbers(this.#payload);
    } catch {
      return undefined;
    }
  }

  /** The node's own number of an event; 0: none. */
  nodeSequence(index: number): number {
    return this.batch!.events[index]!.sequence ?? 0;
  }

  event(index: number): EventJson {
    return this.reader!.toJson(this.batch!.events[index]!);
  }

  /** JSON text of one event, made once. */
  json(index: number): Buffer {
    return (this.#json[index] ??= Buffer.from(JSON.stringify(this.event(index))));
  }

  timeUs(index: number): number {
    return this.reader!.timeUs(this.batch!.events[index]!);
  }
}

/** @throws {BatchError} */
function readNumbers(payload: Uint8Array): MessageNumbers {
  const cursor = new WireCursor(payload);
  const leading = new Float64Array(EventField.sequence + 1);
  const numbers = { node: '', batchId: '', first: Infinity, last: 0, count: 0 };
  let boot = '';
  let batch = 0;
  const text = (start: number, end: number) => Buffer.from(payload.buffer, payload.byteOffset + start, end - start).toString();
  walkFields(payload, (field, _wireType, _start, body, end) => {
    switch (field) {
      case BatchField.node:
        numbers.node = text(body, end);
        return;
      case BatchField.boot:
        boot = text(body, end);
        return;
      case BatchField.batch:
        cursor.offset = body;
        batch = cursor.varint();
        return;
      case BatchField.events: {
        leadingNumbers(cursor, body, end, leading);
        const sequence = leading[EventField.sequence]!;
        if (sequence === 0) return;
        numbers.first = Math.min(numbers.first, sequence);
        numbers.last = Math.max(numbers.last, sequence);
        numbers.count++;
      }
    }
  });
  numbers.batchId = `${boot}:${batch}`;
  return numbers;
}
