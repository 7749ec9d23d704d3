/** Goes through what is wanted of a stream batch by batch, in one direction, and knows the place from which another walk goes on without a gap or a repetition. */
import { BatchGatherer, type BatchGroup, type EventPlace, type HeldGroup } from './batch-order.ts';
import type { StreamPlace } from '@tidegate/runtime';
import type { EventMessage } from './event-message.ts';

export const Order = { newest: 'newest', oldest: 'oldest' } as const;
export type Order = (typeof Order)[keyof typeof Order];

/**
 * A place in a walk. Batches of different nodes lie interleaved in the stream: where one of them is not whole, those of other nodes behind its beginning may
 * have been given already.
 */
export interface Place {
  /** Stream sequence at which reading goes on. */
  start: number;
  /** The message that was read last: tells whether the stream has lost its end since. */
  read?: StreamPlace | undefined;
  /** By source (`<cluster>:<node>`, or its key): up to this stream sequence everything was given. Only what reaches to `start` or beyond. */
  given: ReadonlyMap<string, number>;
  /** The batch of which not all events were given: its source, the stream sequence of its last message, and how many were. */
  partial?: { source: string; last: number; taken: number } | undefined;
}

export class BatchWalk {
  readonly #isOldest: boolean;
  readonly #keyOf: (source: string) => string;
  readonly #gatherer: BatchGatherer;
  #givenBefore: ReadonlyMap<string, number>;
  /** The batch of which an earlier walk took some, until it is met. */
  #begun: Place['partial'];
  readonly #given: Map<string, number>;
  /** The batch at hand, its events, and how many of them were taken. */
  #group: BatchGroup | undefined;
  #events: EventPlace[] = [];
  #taken = 0;
  /** Stream sequence to be read next. */
  #ahead: number;
  #read: StreamPlace | undefined;

  /** @param keyOf names a source in places */
  constructor(order: Order, place: Place, keyOf: (source: string) => string = source => source) {
    this.#isOldest = order === Order.oldest;
    this.#gatherer = new BatchGatherer(this.#isOldest);
    this.#keyOf = keyOf;
    this.#givenBefore = place.given;
    this.#begun = place.partial;
    this.#given = new Map(place.given);
    this.#ahead = place.start;
    this.#read = place.read;
  }

  /** Goes on to a message, of which these events are wanted. */
  add(message: EventMessage, indices: readonly number[]): void {
    if (this.#isBefore(message.sequence, this.#ahead)) this.#setBack();
    this.#ahead = this.#after(message.sequence);
    this.#read = { streamSequence: message.sequence, timeMs: Math.round(message.storedAtMs) };
    const given = this.#givenBefore.size === 0 ? undefined : this.#givenBefore.get(this.#keyOf(message.source));
    const isGiven = given !== undefined && !this.#isBefore(given, message.sequence);
    this.#gatherer.add(message, isGiven ? [] : indices);
  }

  /** Batches of which more may come, and that so many payload bytes were passed since. */
  held(passedBytes = 0): HeldGroup[] {
    return this.#gatherer.held(passedBytes);
  }

  /** Lets go of a batch if the walk is beyond its end. */
  settle(group: HeldGroup): void {
    if (group.end !== undefined && this.#isBefore(group.end, this.#ahead)) this.#gatherer.settle(group);
  }

  /** Lets go of a batch although more of it may come. */
  giveUp(group: HeldGroup): void {
    this.#gatherer.settle(group);
  }

  /** There is nothing that is wanted up to this stream sequence. */
  pass(sequence: number): void {
    if (!this.#isBefore(sequence, this.#ahead)) this.#ahead = this.#after(sequence);
  }

  /** There is nothing more, the last stream sequence being this. */
  end(last: number): void {
    this.pass(last);
    this.#gatherer.end();
  }

  /** The next event of a whole batch, again and again until it is taken. */
  next(): EventPlace | undefined {
    while (this.#taken === this.#events.length) {
      const events = this.nextBatch();
      if (!events) return undefined;
    }
    return this.#events[this.#taken];
  }

  take(): void {
    this.#taken++;
    this.#finish();
  }

  /** All events of the next whole batch, which count as taken with `takeBatch`. */
  nextBatch(): EventPlace[] | undefined {
    if (this.#taken < this.#events.length) return this.#events.slice(this.#taken);
    const group = this.#gatherer.take();
    if (!group) return undefined;
    const events = group.events();
    const begun = this.#begun;
    const isBegun = begun?.last === group.last && begun.source === this.#keyOf(group.source);
    if (isBegun) this.#begun = undefined;
    this.#group = group;
    this.#events = this.#isOldest ? events : events.toReversed();
    this.#taken = isBegun ? Math.min(begun.taken, events.length) : 0;
    this.#finish();
    return this.#events.slice(this.#taken);
  }

  takeBatch(): void {
    this.#taken = this.#events.length;
    this.#finish();
  }

  /** Whether everything up to `ahead` was given. */
  get isDone(): boolean {
    return this.#taken === this.#events.length && this.#gatherer.waiting().length === 0;
  }

  /** Stream sequence to be read next, by a walk that has nothing left to give. */
  get ahead(): number {
    return this.#ahead;
  }

  /** Where another walk would go on. */
  place(): Place {
    const isPartial = this.#taken < this.#events.length;
    const group = this.#group;
    const unfinished = [...this.#gatherer.waiting(), ...(isPartial ? [group!] : [])];
    const start = unfinished.reduce((earliest, { first }) => (this.#isBefore(first, earliest) ? first : earliest), this.#ahead);
    for (const [source, last] of this.#given) if (this.#isBefore(last, start)) this.#given.delete(source);
    const begun = this.#begun && !this.#isBefore(this.#begun.last, start) ? this.#begun : undefined;
    const partial = isPartial ? { source: this.#keyOf(group!.source), last: group!.last, taken: this.#taken } : begun;
    return { start, given: new Map(this.#given), ...(this.#read && { read: this.#read }), ...(partial && { partial }) };
  }

  /** The stream has lost its end: these sequences are of other messages now. */
  #setBack(): void {
    this.#givenBefore = new Map();
    this.#given.clear();
  }

  #finish(): void {
    if (this.#group && this.#taken === this.#events.length) this.#given.set(this.#keyOf(this.#group.source), this.#group.last);
  }

  #isBefore(a: number, b: number): boolean {
    return this.#isOldest ? a < b : a > b;
  }

  #after(sequence: number): number {
    return this.#isOldest ? sequence + 1 : sequence - 1;
  }
}
