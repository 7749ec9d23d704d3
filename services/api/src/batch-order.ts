/**
 * Events in the order of their sequence numbers. The enricher stores one batch of a node as several messages, one a subject, so that read message by
 * message all execs of a batch would come before its exits. They stand close together in EVENTS, with other nodes' messages between them.
 */
import type { EventMessage, MessageNumbers } from './event-message.ts';

/** One event of a message. */
export interface EventPlace {
  message: EventMessage;
  index: number;
}

/** What is wanted of one batch. */
export interface BatchGroup {
  /** Stream sequences of the message met first and of the one met last, which is the group's name. */
  readonly first: number;
  readonly last: number;
  /** Payload bytes of its messages. */
  readonly bytes: number;
  /** In the order of their sequence numbers. */
  events(): EventPlace[];
}

/** Messages of one batch are stored within this of each other. */
const BATCH_SPAN_MS = 1_000;
/** Payload bytes that may be passed over while more of a batch is waited for. */
const MAX_GAP_BYTES = 4 * 1024 ** 2;
/** As much as an enricher makes of one batch; only messages that no enricher made are more. */
const MAX_GROUP_BYTES = 64 * 1024 ** 2;

/**
 * Gathers messages by batch while a stream is gone through, in either direction. Which messages make a group depends on the messages alone, not on where
 * the going through began.
 */
export class BatchGatherer {
  /** By node; the one met longest ago first. */
  readonly #open = new Map<string, OpenGroup>();
  readonly #closed: OpenGroup[] = [];
  #passedBytes = 0;

  /** Goes on to a message, of which these events are wanted. */
  add(message: EventMessage, indices: readonly number[]): void {
    this.#passedBytes += message.size;
    for (const [node, group] of this.#open) {
      const isNear =
        Math.abs(message.storedAtMs - group.latestMs) <= BATCH_SPAN_MS && this.#passedBytes - group.passedBytes <= MAX_GAP_BYTES;
      if (isNear) break;
      this.#close(node, group);
    }
    if (indices.length === 0) return;
    const { node, boot, batch } = message.batch!;
    const id = `${boot}:${batch}`;
    const known = this.#open.get(node);
    const isSame = known?.id === id && known.bytes + message.size <= MAX_GROUP_BYTES;
    if (known && !isSame) this.#close(node, known);
    // Moved to the end of the map.
    this.#open.delete(node);
    const group = isSame ? known : new OpenGroup(id, message.sequence);
    group.add(message, indices, this.#passedBytes);
    // A message that is of no batch, as the enricher makes of losses, stands alone.
    if (batch === 0) this.#closed.push(group);
    else this.#open.set(node, group);
  }

  /** Nothing can be added to this node's group any more, or need not be waited for. */
  settle(node: string): void {
    const group = this.#open.get(node);
    if (group) this.#close(node, group);
  }

  /** Gives up waiting where nothing came for `gapMs`, or `holdMs` after the first message. */
  expire(gapMs: number, holdMs: number): void {
    const nowMs = performance.now();
    for (const [node, group] of this.#open)
      if (nowMs - group.latestMetMs >= gapMs || nowMs - group.firstMetMs >= holdMs) this.#close(node, group);
  }

  /** Nothing comes any more. */
  end(): void {
    for (const [node, group] of this.#open) this.#close(node, group);
  }

  /** The next group that is complete. */
  take(): BatchGroup | undefined {
    return this.#closed.shift();
  }

  /** Groups not taken yet. */
  waiting(): BatchGroup[] {
    return [...this.#closed, ...this.#open.values()];
  }

  /** Whether a batch may have more to come. */
  get isHolding(): boolean {
    return this.#open.size > 0;
  }

  #close(node: string, group: OpenGroup): void {
    this.#open.delete(node);
    this.#closed.push(group);
  }
}

class OpenGroup implements BatchGroup {
  readonly id: string;
  readonly first: number;
  last: number;
  bytes = 0;
  /** When its latest message was stored. */
  latestMs = 0;
  /** When its messages were met here. */
  readonly firstMetMs = performance.now();
  latestMetMs = 0;
  /** Payload bytes that had been passed when its latest message was added. */
  passedBytes = 0;
  readonly #events: EventPlace[] = [];
  #messages = 0;

  constructor(id: string, first: number) {
    this.id = id;
    this.first = this.last = first;
  }

  add(message: EventMessage, indices: readonly number[], passedBytes: number): void {
    for (const index of indices) this.#events.push({ message, index });
    this.last = message.sequence;
    this.bytes += message.size;
    this.latestMs = message.storedAtMs;
    this.latestMetMs = performance.now();
    this.passedBytes = passedBytes;
    this.#messages++;
  }

  events(): EventPlace[] {
    // Within a message they are in order.
    return this.#messages === 1 ? this.#events : this.#events.sort(bySequence);
  }
}

/** Events without a number, which tell of losses of the batch, come first. */
function bySequence(a: EventPlace, b: EventPlace): number {
  return a.message.nodeSequence(a.index) - b.message.nodeSequence(b.index);
}

/** Nodes whose latest batch is remembered; beyond, the one heard of longest ago is forgotten. */
const MAX_NODES = 20_000;

/**
 * Tells while all of EVENTS arrives when what has arrived of a batch has no hole: then nothing that belongs before its highest number can still come, for
 * a node numbers without gaps. Where events were lost there is a hole for good, and only time tells.
 */
export class BatchProgress {
  readonly #latest = new Map<string, MessageNumbers>();

  /** Whether, with this message, its batch is whole up to its highest number. */
  add(message: EventMessage): boolean {
    const numbers = message.numbers();
    if (!numbers) return true;
    let batch = this.#latest.get(numbers.node);
    if (batch?.batchId === numbers.batchId) {
      batch.first = Math.min(batch.first, numbers.first);
      batch.last = Math.max(batch.last, numbers.last);
      batch.count += numbers.count;
    } else {
      batch = numbers;
      this.#latest.delete(numbers.node);
      this.#latest.set(numbers.node, batch);
      if (this.#latest.size > MAX_NODES) this.#latest.delete(this.#latest.keys().next().value!);
    }
    return batch.count === 0 || batch.count === batch.last - batch.first + 1;
  }
}
