/** Reads EVENTS as history: any range of the stream, oldest or newest first, a node's events in the order of their numbers, in bounded pieces of work. */
import { STREAMS } from '@tidegate/contracts';
import type { StreamReaders } from '@tidegate/runtime';
import { BatchGatherer, type BatchGroup, type EventPlace } from './batch-order.ts';
import { filterDigest, formatCursor, Order, type Cursor } from './cursor.ts';
import { ApiError } from './errors.ts';
import { createMatcher, filterSubjects, type EventFilter } from './event-filter.ts';
import { EventMessage } from './event-message.ts';
import { WorkMeter } from './work-meter.ts';

/** A query, resolved to stream sequences: constant while pages of it are read. */
export interface HistoryQuery {
  order: Order;
  filter: EventFilter;
  /** Stream sequences covered, both included; first is above last when there is nothing. */
  first: number;
  last: number;
  /** Where to begin within them, as in Cursor. */
  start: number;
  reached: number | null;
  index: number | null;
}

export interface Page {
  /** JSON of each event. */
  events: Buffer[];
  /** null: the end is reached. */
  cursor: string | null;
  /** Events looked at. */
  scanned: number;
  complete: boolean;
}

export interface HistoryOptions {
  readers: StreamReaders;
  canFilterSeveral: () => boolean;
  onUnreadable: (message: EventMessage) => void;
}

export interface History {
  /**
   * @param lateMs how long after they happened events may have been stored
   * @throws {TidegateError} STREAM_UNAVAILABLE
   */
  resolve(order: Order, filter: EventFilter, lateMs: number): Promise<HistoryQuery>;
  /** @throws {ApiError} CURSOR_EXPIRED @throws {TidegateError} STREAM_UNAVAILABLE */
  resume(cursor: Cursor, filter: EventFilter): Promise<HistoryQuery>;
  /** One page: ends at the limit, at the end, or when its share of work is done. */
  page(query: HistoryQuery, limit: number, signal: AbortSignal): Promise<Page>;
  /** All matching events, JSON of each event of a batch at a time. */
  events(query: HistoryQuery, signal: AbortSignal): AsyncGenerator<Buffer[], void, undefined>;
  /** The messages that the query covers and that its subjects hold, in its order. */
  messages(query: HistoryQuery, signal: AbortSignal): AsyncGenerator<EventMessage, void, undefined>;
}

/** Clocks of nodes may be ahead of the server's by this much: events can be stored before they happened. */
export const CLOCK_SKEW_MS = 5_000;

/** JSON in one page. */
const MAX_PAGE_BYTES = 8 * 1024 ** 2;

/** Newest first reads windows of stream sequences; they grow while they bring little and shrink when they bring much. */
const Window = {
  first: 16,
  largest: 1 << 20,
  growBelowBytes: 1024 ** 2,
  shrinkAboveBytes: 4 * 1024 ** 2,
  maxBytes: 16 * 1024 ** 2,
} as const;

export function createHistory({ readers, canFilterSeveral, onUnreadable }: HistoryOptions): History {
  const stream = STREAMS.events.name;

  async function resolve(order: Order, filter: EventFilter, lateMs: number): Promise<HistoryQuery> {
    const { fromUs, toUs } = filter;
    const [bounds, first, end] = await Promise.all([
      readers.bounds(stream),
      fromUs === undefined ? 0 : readers.sequenceAt(stream, Math.max(0, fromUs / 1000 - CLOCK_SKEW_MS)),
      toUs === undefined ? Infinity : readers.sequenceAt(stream, toUs / 1000 + lateMs),
    ]);
    const range = { first: Math.max(first, bounds.first), last: Math.min(end - 1, bounds.last) };
    return { order, filter, ...range, start: order === Order.oldest ? range.first : range.last, reached: null, index: null };
  }

  async function resume(cursor: Cursor, filter: EventFilter): Promise<HistoryQuery> {
    const { order, first, last, start, reached, index, fromUs, toUs } = cursor;
    const bounds = await readers.bounds(stream);
    if (start < bounds.first && order === Order.oldest && start <= last)
      throw new ApiError('CURSOR_EXPIRED', `the stream now begins at ${bounds.first}, after the cursor's ${start}`);
    const interval = { ...(fromUs !== null && { fromUs }), ...(toUs !== null && { toUs }) };
    // Clamped: a cursor is the client's, and no work may depend on how large its numbers are.
    const range = { first: Math.max(first, bounds.first), last: Math.min(last, bounds.last) };
    return { order, filter: { ...filter, ...interval }, ...range, start: Math.min(start, bounds.last + 1), reached, index };
  }

  function messages(query: HistoryQuery, signal: AbortSignal): AsyncGenerator<EventMessage, void, undefined> {
    const subjects = filterSubjects(query.filter, canFilterSeveral());
    const range = query.order === Order.oldest ? { first: query.start, last: query.last } : { first: query.first, last: query.start };
    return query.order === Order.oldest ? forward(range, subjects, signal) : backward(range, subjects, signal);
  }

  /** Ascending. */
  async function* forward({ first, last }: Range, subjects: string[], signal: AbortSignal): AsyncGenerator<EventMessage, void, undefined> {
    if (first > last) return;
    const reader = readers.open({ stream, start: { streamSequence: first }, subjects, last });
    const abort = () => reader.close();
    signal.addEventListener('abort', abort);
    try {
      for await (const message of reader.read({ follow: false })) {
        const decodable = new EventMessage(message);
        yield decodable;
        if (decodable.isUnreadable) onUnreadable(decodable);
      }
    } finally {
      signal.removeEventListener('abort', abort);
      reader.close();
    }
  }

  /** Descending. */
  async function* backward({ first, last }: Range, subjects: string[], signal: AbortSignal): AsyncGenerator<EventMessage, void, undefined> {
    let size: number = Window.first;
    let high = last;
    while (high >= first && !signal.aborted) {
      const low = Math.max(first, high - size + 1);
      const { window, bytes } = await readWindow({ first: low, last: high }, subjects, signal);
      if (!window) {
        size = Math.max(1, size >> 3);
        continue;
      }
      for (const message of window.reverse()) yield message;
      high = low - 1;
      if (bytes < Window.growBelowBytes) size = Math.min(size * 4, Window.largest);
      else if (bytes > Window.shrinkAboveBytes) size = Math.max(1, size >> 1);
    }
  }

  /** No window: it holds too much. */
  async function readWindow(
    { first, last }: Range,
    subjects: string[],
    signal: AbortSignal,
  ): Promise<{ window?: EventMessage[]; bytes: number }> {
    const window: EventMessage[] = [];
    let bytes = 0;
    for await (const message of forward({ first, last }, subjects, signal)) {
      window.push(message);
      bytes += message.size;
      if (bytes > Window.maxBytes && first < last) return { bytes };
    }
    return { window, bytes };
  }

  async function page(query: HistoryQuery, limit: number, signal: AbortSignal): Promise<Page> {
    const match = createMatcher(query.filter);
    const work = new WorkMeter();
    const walk = new BatchWalk(query);
    const events: Buffer[] = [];
    let scanned = 0;
    let pageBytes = 0;
    /** Takes what is complete; true when the page is full. */
    const fill = (): boolean => {
      for (let next = walk.next(); next; next = walk.next()) {
        const json = next.message.json(next.index);
        if (events.length > 0 && pageBytes + json.length > MAX_PAGE_BYTES) return true;
        events.push(json);
        pageBytes += json.length;
        walk.take();
        if (events.length === limit) return true;
      }
      return false;
    };
    const result = (): Page => {
      const cursor = walk.cursor();
      return { events, cursor, scanned, complete: cursor === null };
    };
    for await (const message of messages(query, signal)) {
      walk.add(message, match(message));
      scanned += message.eventCount;
      work.count(message);
      if (fill() || work.isSpent) return result();
    }
    walk.end();
    fill();
    return result();
  }

  async function* events(query: HistoryQuery, signal: AbortSignal): AsyncGenerator<Buffer[], void, undefined> {
    const match = createMatcher(query.filter);
    const walk = new BatchWalk(query);
    const complete = () => {
      const lines: Buffer[] = [];
      for (let next = walk.next(); next; next = walk.next()) {
        lines.push(next.message.json(next.index));
        walk.take();
      }
      return lines;
    };
    for await (const message of messages(query, signal)) {
      walk.add(message, match(message));
      const lines = complete();
      if (lines.length > 0) yield lines;
    }
    walk.end();
    const lines = complete();
    if (lines.length > 0) yield lines;
  }

  return { resolve, resume, page, events, messages };
}

interface Range {
  first: number;
  last: number;
}

/** Goes through the events of a query batch by batch, in its direction and from where its cursor stands, and knows the cursor for where it got to. */
class BatchWalk {
  readonly #query: HistoryQuery;
  readonly #isOldest: boolean;
  readonly #gatherer = new BatchGatherer();
  /** Batches up to this one were given before. */
  #skipTo: number | null;
  /** The batch at hand, its events, and how many of them were taken. */
  #group: BatchGroup | undefined;
  #events: EventPlace[] = [];
  #taken = 0;
  /** Stream sequence of the message farthest along, of all batches at hand so far. */
  #farthest: number;
  /** Stream sequence to be read next. */
  #ahead: number;

  constructor(query: HistoryQuery) {
    this.#query = query;
    this.#isOldest = query.order === Order.oldest;
    this.#skipTo = query.reached;
    this.#ahead = query.start;
    this.#farthest = this.#before(query.start);
  }

  add(message: EventMessage, indices: readonly number[]): void {
    this.#ahead = this.#after(message.sequence);
    this.#gatherer.add(message, indices);
  }

  /** There are no more messages. */
  end(): void {
    this.#ahead = this.#after(this.#isOldest ? this.#query.last : this.#query.first);
    this.#gatherer.end();
  }

  /** The next event of a complete batch, again and again until it is taken. */
  next(): EventPlace | undefined {
    while (this.#taken === this.#events.length) {
      const group = this.#gatherer.take();
      if (!group) return undefined;
      const isReached = group.last === this.#skipTo;
      const isGiven = this.#skipTo !== null && !(isReached && this.#query.index !== null);
      const events = isGiven ? [] : group.events();
      this.#group = group;
      this.#events = this.#isOldest ? events : events.toReversed();
      this.#taken = isReached && !isGiven ? Math.min(this.#query.index!, events.length) : 0;
      this.#farthest = this.#isBefore(this.#farthest, group.last) ? group.last : this.#farthest;
      if (isReached) this.#skipTo = null;
    }
    return this.#events[this.#taken];
  }

  take(): void {
    this.#taken++;
  }

  /** null: all was given. */
  cursor(): string | null {
    const { order, first, last, filter, start, reached, index } = this.#query;
    const base = { order, first, last, fromUs: filter.fromUs ?? null, toUs: filter.toUs ?? null, digest: filterDigest(filter) };
    if (this.#skipTo !== null) return formatCursor({ ...base, start, reached, index });
    const isPartial = this.#taken < this.#events.length;
    const unfinished = [...this.#gatherer.waiting(), ...(isPartial ? [this.#group!] : [])];
    const from = unfinished.reduce((earliest, group) => (this.#isBefore(group.first, earliest) ? group.first : earliest), this.#ahead);
    if (unfinished.length === 0 && this.#isBefore(this.#isOldest ? last : first, from)) return null;
    if (isPartial) return formatCursor({ ...base, start: from, reached: this.#group!.last, index: this.#taken });
    // What is read again may hold batches that were given: then it must be read from far enough back to tell.
    if (!this.#group || this.#isBefore(this.#farthest, from)) return formatCursor({ ...base, start: from, reached: null, index: null });
    const { last: lastGiven } = this.#group;
    return formatCursor({ ...base, start: this.#isBefore(lastGiven, from) ? lastGiven : from, reached: lastGiven, index: null });
  }

  #isBefore(a: number, b: number): boolean {
    return this.#isOldest ? a < b : a > b;
  }

  #after(sequence: number): number {
    return this.#isOldest ? sequence + 1 : sequence - 1;
  }

  #before(sequence: number): number {
    return this.#isOldest ? sequence - 1 : sequence + 1;
  }
}
