/**
 * Events in the order of their sequence numbers. The enricher stores one batch of a node as several messages, one a subject, with other nodes' messages
 * between them, so that read message by message all execs of a batch would come before its exits. Each message says which part of how many it is: when all are
 * there, or a later batch of the node is, the batch is whole. Where a filter keeps parts from being seen, or parts are missing, somebody has to look
 * (batch-search.ts) or to give up waiting.
 */
import type { EventMessage } from './event-message.ts';

/** One event of a message. */
export interface EventPlace {
  message: EventMessage;
  index: number;
}

/** What is wanted of one batch. */
export interface BatchGroup {
  /** `<cluster>:<node>`. */
  readonly source: string;
  /** `<boot>:<batch>`. */
  readonly batchId: string;
  /** Stream sequences of its message met first and of the one met last. */
  readonly first: number;
  readonly last: number;
  /** Payload bytes of its messages. */
  readonly bytes: number;
  /** In the order of their sequence numbers, each number once. */
  events(): EventPlace[];
}

/** As much as an enricher makes of one batch; only messages that no enricher made are more. */
const MAX_GROUP_BYTES = 64 * 1024 ** 2;

/** Gathers messages by batch while a stream is gone through, in one direction. */
export class BatchGatherer {
  readonly #isAscending: boolean;
  /** By source; the one begun longest ago first. */
  readonly #open = new Map<string, OpenGroup>();
  readonly #closed: OpenGroup[] = [];
  #passedBytes = 0;

  constructor(isAscending: boolean) {
    this.#isAscending = isAscending;
  }

  /** Goes on to a message, of which these events are wanted. */
  add(message: EventMessage, indices: readonly number[]): void {
    this.#passedBytes += message.size;
    const { headers, source } = message;
    const batchId = headers ? `${headers.boot}:${headers.batch}` : '';
    let group = this.#open.get(source);
    if (group && (group.batchId !== batchId || group.bytes > MAX_GROUP_BYTES)) {
      this.#close(group);
      group = undefined;
    }
    // Alone: what no enricher of this version stored, and what is of no batch.
    const isAlone = !headers || headers.batch === 0 || headers.parts === 1;
    if (!group) {
      if (isAlone && indices.length === 0) return;
      // Parts are stored in order: those before the one met first were passed before the walk began, or are not shown by the filter.
      const expected = isAlone ? 1 : this.#isAscending ? headers.parts - headers.part + 1 : headers.part;
      group = new OpenGroup(source, batchId, headers?.parts ?? 1, expected);
      this.#open.set(source, group);
    }
    group.add(message, indices, this.#passedBytes);
    if (group.isWhole) this.#close(group);
  }

  /** Nothing can be added to this group any more, or need not be waited for. */
  settle(group: BatchGroup): void {
    if (this.#open.get(group.source) === group) this.#close(group as OpenGroup);
  }

  /** Nothing comes any more. */
  end(): void {
    for (const group of this.#open.values()) this.#close(group);
  }

  /** The next group that is whole. */
  take(): BatchGroup | undefined {
    return this.#closed.shift();
  }

  /** Groups not taken yet. */
  waiting(): BatchGroup[] {
    return [...this.#closed, ...this.held()];
  }

  /** Groups that may have more to come and that at least this many payload bytes were passed since, the one begun longest ago first. */
  held(passedBytes = 0): HeldGroup[] {
    const held: HeldGroup[] = [];
    for (const [source, group] of this.#open) {
      if (this.#passedBytes - group.metAtBytes < passedBytes) break;
      if (group.isWanted) held.push(group);
      else this.#open.delete(source);
    }
    return held;
  }

  #close(group: OpenGroup): void {
    this.#open.delete(group.source);
    if (group.isWanted) this.#closed.push(group);
  }
}

/** A group of which parts have not been seen. */
export interface HeldGroup extends BatchGroup {
  /** Into how many messages the enricher made the batch. */
  readonly parts: number;
  /** When its latest message was met here, by performance.now(). */
  readonly metAtMs: number;
  /** Stream sequence beyond which no more of it comes, when somebody looked. */
  end: number | undefined;
}

class OpenGroup implements HeldGroup {
  readonly source: string;
  readonly batchId: string;
  readonly parts: number;
  first = 0;
  last = 0;
  bytes = 0;
  metAtMs = 0;
  /** Payload bytes that had been passed when its latest message was met. */
  metAtBytes = 0;
  end: number | undefined;
  /** How many parts come, with the one met first. */
  readonly #expected: number;
  readonly #seen = new Set<number>();
  readonly #events: EventPlace[] = [];
  #messages = 0;

  constructor(source: string, batchId: string, parts: number, expected: number) {
    this.source = source;
    this.batchId = batchId;
    this.parts = parts;
    this.#expected = expected;
  }

  /** Whether it holds anything that is asked for. */
  get isWanted(): boolean {
    return this.#messages > 0;
  }

  get isWhole(): boolean {
    return this.#seen.size >= this.#expected;
  }

  add(message: EventMessage, indices: readonly number[], passedBytes: number): void {
    this.#seen.add(message.headers?.part ?? 1);
    this.metAtMs = performance.now();
    this.metAtBytes = passedBytes;
    if (indices.length === 0) return;
    for (const index of indices) this.#events.push({ message, index });
    if (this.#messages++ === 0) this.first = message.sequence;
    this.last = message.sequence;
    this.bytes += message.size;
  }

  events(): EventPlace[] {
    // Within a message they are in order. A number comes twice where two enrichers saw different pods, and so made different messages.
    if (this.#messages === 1) return this.#events;
    return this.#events
      .sort(bySequence)
      .filter((event, i, events) => i === 0 || sequenceOf(event) === 0 || bySequence(events[i - 1]!, event) !== 0);
  }
}

/** Events without a number, which tell of losses before the batch, come first. */
function bySequence(a: EventPlace, b: EventPlace): number {
  return sequenceOf(a) - sequenceOf(b);
}

function sequenceOf({ message, index }: EventPlace): number {
  return message.nodeSequence(index);
}
