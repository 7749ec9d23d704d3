/**
 * A consumer of EVENTS: what a filter wants, batch by batch, a node's events in the order of their numbers, from a position on and then as they come. Over lost
 * connections, restarts and kills nothing is missing; what was given after the position that was last stored is given again.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { STREAMS, type EventJson } from '@tidegate/contracts';
import type { StreamReader, StreamReaders } from '@tidegate/runtime';
import type { EventPlace } from './batch-order.ts';
import type { BatchSearch } from './batch-search.ts';
import { BatchWalk, Order } from './batch-walk.ts';
import { createMatcher, filterSubjects, only, type EventFilter } from './event-filter.ts';
import { EventMessage } from './event-message.ts';
import { readerLossEvent } from './loss-json.ts';
import { placeOf, positionOf, resumePlace, type ConsumerPosition, type PositionStore, type ResumedPlace } from './position.ts';
import type { Scope } from './scope.ts';

/** Where a consumer begins that has no position yet. */
export type ConsumerStart = 'beginning' | 'now' | { timeMs: number };

export interface ConsumerOptions {
  /** Default: all events. */
  filter?: EventFilter;
  /** What it may see at all. */
  scope?: Scope;
  /** Left out: nothing is remembered. */
  position?: PositionStore;
  /** Default: now. */
  from?: ConsumerStart;
  /** Ends when all was given that there is, instead of following. */
  follow?: boolean;
}

/** What a filter wants of one batch of a node. */
export interface ConsumedBatch {
  /** '': a loss of this consumer alone. */
  readonly node: string;
  readonly size: number;
  /** Where the consumer goes on when the work on this batch and on all before is stored. */
  readonly position: ConsumerPosition;
  /** In the order of their numbers. */
  events(): EventJson[];
  /** The JSON text of each, made faster than from `events`. */
  lines(): Buffer[];
  /** Each event as its message and its index therein: the encoded batch, subject and headers. */
  places(): readonly EventPlace[];
  /** The work on this batch is stored: the position may move. It is written within a second. */
  done(): void;
}

export interface EventConsumer extends AsyncIterable<ConsumedBatch> {
  /** Messages that wait in the stream behind the one read last. */
  readonly pending: number;
  /** Writes the position of what is done, and ends the iteration. */
  close(): Promise<void>;
}

export interface ConsumerDeps {
  readers: StreamReaders;
  search: BatchSearch;
  canFilterSeveral: () => boolean;
  onUnreadable: (message: EventMessage) => void;
}

/** Positions are written this often at most: what is done again after a kill. */
const SAVE_INTERVAL_MS = 1_000;
/** While a filter keeps parts of a batch from being seen, the batch is looked for when nothing came for so long, and after so many bytes. */
const SEARCH_AFTER_MS = 50;
const SEARCH_AFTER_BYTES = 1024 ** 2;
/** A batch of which a part is missing is given after so long; while an enricher is taken over from, nothing else comes of the node either. */
const HOLD_MS = 10_000;
/** Whether the stream discarded something unread is asked this often at most. */
const DISCARD_CHECK_MS = 1_000;

export function createConsumer(options: ConsumerOptions, deps: ConsumerDeps): EventConsumer {
  return new Consumer(options, deps);
}

class Consumer implements EventConsumer {
  pending = 0;
  readonly #options: ConsumerOptions;
  readonly #deps: ConsumerDeps;
  readonly #subjects: readonly string[];
  readonly #saver: PositionSaver | undefined;
  readonly #closing = new AbortController();
  #reader: StreamReader | undefined;
  #created = '';
  #checkedAtMs = -Infinity;
  /** Beginning of what was read past since the stream was last asked for its bounds. */
  #unchecked: number | undefined;

  constructor(options: ConsumerOptions, deps: ConsumerDeps) {
    this.#options = options;
    this.#deps = deps;
    const namespaces = options.scope?.namespaces;
    const filter = options.filter ?? {};
    // What is out of scope need not even be read.
    this.#subjects = filterSubjects(
      namespaces && !filter.namespace ? { ...filter, namespace: only(...namespaces) } : filter,
      deps.canFilterSeveral(),
    );
    const { position } = options;
    if (position?.save)
      this.#saver = new PositionSaver(
        to => position.save!(to),
        () => this.#reader?.close(),
      );
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#reader?.close();
    await this.#saver?.close();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ConsumedBatch, void, undefined> {
    const { filter = {}, scope, follow = true } = this.#options;
    const { readers, search, onUnreadable } = this.#deps;
    const { place, discarded } = await this.#begin();
    if (this.#closing.signal.aborted) return;
    const walk = new BatchWalk(Order.oldest, place);
    if (discarded) yield this.#lossBatch(discarded, walk);
    const match = createMatcher(filter);
    const reader = readers.open({
      stream: STREAMS.events.name,
      start: { streamSequence: place.start },
      subjects: this.#subjects,
      maxAttempts: Infinity,
    });
    this.#reader = reader;
    const messages = reader.read({ follow });
    let next = messages.next();
    try {
      for (;;) {
        const result = await this.#nextOrIdle(next, walk);
        if (result === 'idle') await this.#settleHeld(walk);
        else if (result.done === true) break;
        else {
          const message = new EventMessage(result.value, scope);
          this.pending = result.value.pending;
          const missing = await this.#discardedBefore(message.sequence, walk.ahead);
          if (missing) yield this.#lossBatch(missing, walk);
          walk.add(message, match(message));
          if (message.isUnreadable) onUnreadable(message);
          next = messages.next();
          if (this.#subjects.length > 0) await search.settleAhead(walk, SEARCH_AFTER_BYTES);
        }
        yield* this.#wholeBatches(walk);
        // Where nothing is wanted, too: what was looked at need not be looked at again.
        if (walk.isDone) this.#saver?.pass(positionOf(walk.place(), this.#created));
      }
      if (!this.#closing.signal.aborted) {
        walk.end(reader.position);
        yield* this.#wholeBatches(walk);
      }
    } finally {
      reader.close();
      await this.#saver?.close();
    }
    this.#saver?.throwFailure();
  }

  *#wholeBatches(walk: BatchWalk): Generator<ConsumedBatch, void, undefined> {
    for (let events = walk.nextBatch(); events; events = walk.nextBatch()) {
      walk.takeBatch();
      if (events.length === 0) continue;
      const position = positionOf(walk.place(), this.#created);
      const saver = this.#saver;
      saver?.throwFailure();
      const number = saver?.begin() ?? 0;
      const places = events;
      yield {
        node: places[0]!.message.node,
        size: places.length,
        position,
        events: () => places.map(({ message, index }) => message.event(index)),
        lines: () => places.map(({ message, index }) => message.json(index)),
        places: () => places,
        done: () => saver?.done(number, position),
      };
    }
  }

  /** The next message; or `idle` when batches are held up and nothing has come for a while. */
  async #nextOrIdle<Message>(next: Promise<Message>, walk: BatchWalk): Promise<Message | 'idle'> {
    if (walk.held().length === 0) return next;
    const timer = new AbortController();
    const idle = delay(SEARCH_AFTER_MS, 'idle' as const, { signal: timer.signal }).catch(() => 'idle' as const);
    try {
      return await Promise.race([next, idle]);
    } finally {
      timer.abort();
    }
  }

  async #settleHeld(walk: BatchWalk): Promise<void> {
    const nowMs = performance.now();
    for (const group of walk.held()) if (nowMs - group.metAtMs >= HOLD_MS) walk.giveUp(group);
    if (this.#subjects.length === 0) return;
    // At the end of the stream: what is stored up to where the batch ends has been read.
    await this.#deps.search.settleAhead(walk).catch(() => undefined);
    for (const group of walk.held()) if (group.end !== undefined) walk.giveUp(group);
  }

  /** Where to begin, and what the stream has discarded since the position was stored. */
  async #begin(): Promise<ResumedPlace> {
    const { position: store, from = 'now' } = this.#options;
    const { readers } = this.#deps;
    const stored = await store?.load();
    const stream = await readers.bounds(STREAMS.events.name);
    const { first, last, created } = stream;
    this.#created = created;
    const fresh = async (start: number | Promise<number>) => ({
      place: { start: await start, given: new Map<string, number>() },
      discarded: undefined,
    });
    if (!stored) {
      if (from === 'beginning') return fresh(first);
      return from === 'now' ? fresh(last + 1) : fresh(readers.sequenceAt(STREAMS.events.name, from.timeMs));
    }
    return resumePlace(readers, stream, placeOf(stored), stored.created);
  }

  /**
   * What the stream discarded before it was read. Without a filter a jump says so; with one, everything between may simply not match: then only a stream that
   * now begins behind it is telling.
   */
  async #discardedBefore(sequence: number, ahead: number): Promise<readonly [number, number] | undefined> {
    if (sequence <= ahead) return undefined;
    if (this.#subjects.length === 0) return [ahead, sequence - 1];
    this.#unchecked ??= ahead;
    const nowMs = performance.now();
    if (nowMs - this.#checkedAtMs < DISCARD_CHECK_MS) return undefined;
    this.#checkedAtMs = nowMs;
    const from = this.#unchecked;
    this.#unchecked = undefined;
    const { first } = await this.#deps.readers.bounds(STREAMS.events.name);
    return first > from ? [from, Math.min(first, sequence) - 1] : undefined;
  }

  #lossBatch(streamSequences: readonly [number, number], walk: BatchWalk): ConsumedBatch {
    const nowUs = Date.now() * 1000;
    const event = readerLossEvent({ reason: 'events_discarded', count: 0, fromUs: nowUs, toUs: nowUs, streamSequences });
    const position = positionOf(walk.place(), this.#created);
    const number = this.#saver?.begin() ?? 0;
    return {
      node: '',
      size: 1,
      position,
      events: () => [event],
      lines: () => [Buffer.from(JSON.stringify(event))],
      places: () => [],
      done: () => this.#saver?.done(number, position),
    };
  }
}

/** Writes the newest position that is done, now and then and at the end. */
class PositionSaver {
  readonly #write: (position: ConsumerPosition) => Promise<void>;
  readonly #onFailure: () => void;
  #latest: ConsumerPosition | undefined;
  #saved: ConsumerPosition | undefined;
  /** Batches given so far, and the newest that is done. */
  #given = 0;
  #done = 0;
  #saving: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #failure: unknown;
  #isClosed = false;

  constructor(write: (position: ConsumerPosition) => Promise<void>, onFailure: () => void) {
    this.#write = write;
    this.#onFailure = onFailure;
  }

  /** A batch is given. Returns its number. */
  begin(): number {
    return ++this.#given;
  }

  /** The batch of this number and all before are done. */
  done(number: number, position: ConsumerPosition): void {
    if (number <= this.#done) return;
    this.#done = number;
    this.#move(position);
  }

  /** There was nothing more up to here. */
  pass(position: ConsumerPosition): void {
    if (this.#done === this.#given) this.#move(position);
  }

  throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure as Error;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    await this.#saving;
    await this.#save();
  }

  #move(position: ConsumerPosition): void {
    this.#latest = position;
    if (!this.#isClosed) this.#timer ??= setTimeout(() => void this.#save(), SAVE_INTERVAL_MS);
  }

  #save(): Promise<void> {
    const position = this.#latest;
    if (!position || position === this.#saved || this.#failure !== undefined) {
      this.#timer = undefined;
      return Promise.resolve();
    }
    return (this.#saving ??= this.#write(position)
      .then(
        () => {
          this.#saved = position;
        },
        (error: unknown) => this.#fail(error),
      )
      .finally(() => {
        this.#saving = undefined;
        this.#timer = undefined;
        if (this.#latest !== this.#saved && !this.#isClosed && this.#failure === undefined) this.#move(this.#latest!);
      }));
  }

  #fail(error: unknown): void {
    this.#failure = error;
    this.#onFailure();
  }
}
