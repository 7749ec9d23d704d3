/** One message of EVENTS, decoded at most once however many clients it goes to. */
import {
  createEventReader,
  decodeBatch,
  parseEventHeaders,
  parseEventSubject,
  type EventBatch,
  type EventHeaders,
  type EventJson,
  type EventReader,
} from '@tidegate/contracts';
import type { StreamMessage } from '@tidegate/runtime';
import { isInScope, visibility, type Scope } from './scope.ts';

const UNKNOWN_PLACE = { kind: '', namespace: '', workload: '' };

export class EventMessage {
  /** Of the stream. */
  readonly sequence: number;
  readonly storedAtMs: number;
  /** Payload bytes. */
  readonly size: number;
  /** The subject's parts. */
  readonly place: { kind: string; namespace: string; workload: string };
  /** What the enricher says of it; undefined: no enricher stored it. */
  readonly headers: EventHeaders | undefined;
  readonly payload: Uint8Array;
  /** Whether the reader may see its events. */
  readonly isInScope: boolean;
  readonly #scope: Scope | undefined;
  readonly #messageId: string;
  #batch: EventBatch | null | undefined;
  #reader: EventReader | undefined;
  #json: (Buffer | undefined)[] = [];

  /** @param scope of the reader it is for */
  constructor(message: StreamMessage, scope?: Scope) {
    this.sequence = message.streamSequence;
    this.storedAtMs = message.timeNs / 1e6;
    this.size = message.data.length;
    this.place = parseEventSubject(message.subject) ?? UNKNOWN_PLACE;
    this.headers = parseEventHeaders(name => message.headers?.get(name));
    this.payload = message.data;
    this.isInScope = isInScope(scope, this.headers?.cluster ?? '', this.place.namespace);
    this.#scope = scope;
    this.#messageId = message.headers?.get('Nats-Msg-Id') ?? '';
  }

  /** '': no enricher stored it. */
  get node(): string {
    return this.headers?.node ?? '';
  }

  /** Whose batches it is one of. */
  get source(): string {
    return sourceOf(this.headers);
  }

  /** null: the payload is not an EventBatch. */
  get batch(): EventBatch | null {
    if (this.#batch === undefined) {
      try {
        this.#batch = decodeBatch(this.payload);
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
    return batch ? (this.#reader ??= createEventReader(batch, this.place, visibility(this.#scope))) : undefined;
  }

  /** Whether the encoded bytes hold this text, without decoding them. */
  includes(text: Buffer): boolean {
    return Buffer.from(this.payload.buffer, this.payload.byteOffset, this.payload.byteLength).includes(text);
  }

  /** The node's own number of an event; 0: none. */
  nodeSequence(index: number): number {
    return this.batch!.events[index]!.sequence ?? 0;
  }

  /** Unique for ever; undefined: of a batch that has not passed an enricher. */
  id(index: number): string | undefined {
    const { batch, reader } = this;
    // A loss that the enricher found has no number of its own: it is the only event of its message.
    return reader!.idOf(batch!.events[index]!) ?? (this.#messageId === '' ? undefined : `${batch!.cluster}:${this.#messageId}`);
  }

  event(index: number): EventJson {
    const json = this.reader!.toJson(this.batch!.events[index]!);
    const id = this.id(index);
    if (id !== undefined) json.id ??= id;
    return json;
  }

  /** JSON text of one event, made once. */
  json(index: number): Buffer {
    return (this.#json[index] ??= Buffer.from(this.#text(index)));
  }

  #text(index: number): string {
    const event = this.batch!.events[index]!;
    return this.reader!.idOf(event) === undefined ? JSON.stringify(this.event(index)) : this.reader!.toText(event);
  }

  timeUs(index: number): number {
    return this.reader!.timeUs(this.batch!.events[index]!);
  }
}

/**
 * `<cluster>:<node>`: whose batches are put in order by their numbers. Nodes of two clusters may have one name.
 * @param headers undefined: no enricher stored the message
 */
export function sourceOf(headers: EventHeaders | undefined): string {
  return headers ? `${headers.cluster}:${headers.node}` : '';
}
