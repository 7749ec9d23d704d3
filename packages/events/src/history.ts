/** Reads EVENTS as history: any range of the stream, oldest or newest first, a node's events in the order of their numbers, in bounded pieces of work. */
import { STREAMS } from '@tidegate/contracts';
import { TidegateError, type StreamReaders } from '@tidegate/runtime';
import type { BatchSearch } from './batch-search.ts';
import { BatchWalk, Order, type Place } from './batch-walk.ts';
import { filterDigest, formatCursor, sourceKey, type Cursor } from './cursor.ts';
import { createMatcher, filterSubjects, type EventFilter } from './event-filter.ts';
import { EventMessage } from './event-message.ts';
import type { Scope } from './scope.ts';
import { WorkMeter } from './work-meter.ts';

/** A query, resolved to stream sequences: constant while pages of it are read. */
export interface HistoryQuery {
  order: Order;
  filter: EventFilter;
  /** When the stream was made, RFC 3339. */
  created: string;
  /** What the reader may see at all. */
  scope?: Scope | undefined;
  /** Stream sequences covered, both included; first is above last when there is nothing. */
  first: number;
  last: number;
  /** Where to begin within them. */
  place: Place;
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
  search: BatchSearch;
  canFilterSeveral: () => boolean;
  onUnreadable: (message: EventMessage) => void;
}

export interface History {
  /**
   * @param lateMs how long after they happened events may have been stored
   * @throws {TidegateError} STREAM_UNAVAILABLE
   */
  resolve(order: Order, filter: EventFilter, lateMs: number): Promise<HistoryQuery>;
  /** @throws {TidegateError} CURSOR_EXPIRED, STREAM_UNAVAILABLE */
  resume(cursor: Cursor, filter: EventFilter): Promise<HistoryQuery>;
  /** One page: ends at the limit, at the end, or when its share of work is done. */
  page(query: HistoryQuery, limit: number, signal: AbortSignal): Promise<Page>;
  /** All matching events, JSON of each event of a batch at a time. */
  events(query: HistoryQuery, signal: AbortSignal): AsyncGenerator<Buffer[], void, undefined>;
  /** The messages that the query covers and that its subjects hold, in its order. */
  messages(query: Omit<HistoryQuery, 'created'>, signal: AbortSignal): AsyncGenerator<EventMessage, void, undefined>;
}

/** Clocks of nodes may be ahead of the server's by this much: events can be stored before they happened. */
export const CLOCK_SKEW_MS = 5_000;

/**
 * Payload bytes that are passed over while more of a batch may come; then it is looked for. Little for a page, whose cursor names the nodes that are ahead of what
 * is waited for; more where all is wanted, for then the node's next batch comes soon.
 */
const MAX_PASSED_BYTES = { page: 128 * 1024, all: 8 * 1024 ** 2 } as const;

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

export function createHistory({ readers, search, canFilterSeveral, onUnreadable }: HistoryOptions): History {
  const stream = STREAMS.events.name;

  /** Looks for the ends of batches that hold up the walk, and lets go of those that it has passed. */
  async function settle(walk: BatchWalk, { order, first }: HistoryQuery, passedBytes: number): Promise<void> {
    for (const group of walk.held(passedBytes)) {
      group.end ??= order === Order.oldest ? ((await search.endAhead(group)) ?? Infinity) : await search.endBehind(group, first);
      walk.settle(group);
    }
  }

  async function resolve(order: Order, filter: EventFilter, lateMs: number): Promise<HistoryQuery> {
    const { fromUs, toUs } = filter;
    const [bounds, first, end] = await Promise.all([
      readers.bounds(stream),
      fromUs === undefined ? 0 : readers.sequenceAt(stream, Math.max(0, fromUs / 1000 - CLOCK_SKEW_MS)),
      toUs === undefined ? Infinity : readers.sequenceAt(stream, toUs / 1000 + lateMs),
    ]);
    const range = { first: Math.max(first, bounds.first), last: Math.min(end - 1, bounds.last) };
    return {
      order,
      filter,
      created: bounds.created,
      ...range,
      place: { start: order === Order.oldest ? range.first : range.last, given: new Map() },
    };
  }

  async function resume(cursor: Cursor, filter: EventFilter): Promise<HistoryQuery> {
    const { order, created, first, last, start, given, partial, fromUs, toUs } = cursor;
    const bounds = await readers.bounds(stream);
    if (created !== bounds.created)
      throw new TidegateError('CURSOR_EXPIRED', `the stream was made anew at ${bounds.created}, after the cursor`);
    if (start < bounds.first && order === Order.oldest && start <= last)
      throw new TidegateError('CURSOR_EXPIRED', `the stream now begins at ${bounds.first}, after the cursor's ${start}`);
    const interval = { ...(fromUs !== null && { fromUs }), ...(toUs !== null && { toUs }) };
    // Clamped: a cursor is the client's, and no work may depend on how large its numbers are.
    const range = { first: Math.max(first, bounds.first), last: Math.min(last, bounds.last) };
    return {
      order,
      filter: { ...filter, ...interval },
      created,
      ...range,
      place: { start: Math.min(start, bounds.last + 1), given, partial },
    };
  }

  function messages(query: Omit<HistoryQuery, 'created'>, signal: AbortSignal): AsyncGenerator<EventMessage, void, undefined> {
    const reading: Reading = { subjects: filterSubjects(query.filter, canFilterSeveral()), scope: query.scope, signal };
    const { start } = query.place;
    const range = query.order === Order.oldest ? { first: start, last: query.last } : { first: query.first, last: start };
    return query.order === Order.oldest ? forward(range, reading) : backward(range, reading);
  }

  /** Ascending. */
  async function* forward({ first, last }: Range, { subjects, scope, signal }: Reading): AsyncGenerator<EventMessage, void, undefined> {
    if (first > last) return;
    const reader = readers.open({ stream, start: { streamSequence: first }, subjects, last });
    const abort = () => reader.close();
    signal.addEventListener('abort', abort);
    try {
      for await (const message of reader.read({ follow: false })) {
        const decodable = new EventMessage(message, scope);
        yield decodable;
        if (decodable.isUnreadable) onUnreadable(decodable);
      }
    } finally {
      signal.removeEventListener('abort', abort);
      reader.close();
    }
  }

  /** Descending. */
  async function* backward({ first, last }: Range, reading: Reading): AsyncGenerator<EventMessage, void, undefined> {
    let size: number = Window.first;
    let high = last;
    while (high >= first && !reading.signal.aborted) {
      const low = Math.max(first, high - size + 1);
      const { window, bytes } = await readWindow({ first: low, last: high }, reading);
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
  async function readWindow({ first, last }: Range, reading: Reading): Promise<{ window?: EventMessage[]; bytes: number }> {
    const window: EventMessage[] = [];
    let bytes = 0;
    for await (const message of forward({ first, last }, reading)) {
      window.push(message);
      bytes += message.size;
      if (bytes > Window.maxBytes && first < last) return { bytes };
    }
    return { window, bytes };
  }

  async function page(query: HistoryQuery, limit: number, signal: AbortSignal): Promise<Page> {
    const match = createMatcher(query.filter);
    const work = new WorkMeter();
    const walk = new BatchWalk(query.order, query.place, sourceKey);
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
      const { first, last, order, filter, created } = query;
      const isComplete = walk.isDone && (order === Order.oldest ? walk.ahead > last : walk.ahead < first);
      const interval = { fromUs: filter.fromUs ?? null, toUs: filter.toUs ?? null };
      const cursor = () => formatCursor({ ...walk.place(), order, created, first, last, ...interval, digest: filterDigest(filter) });
      return { events, cursor: isComplete ? null : cursor(), scanned, complete: isComplete };
    };
    for await (const message of messages(query, signal)) {
      walk.add(message, match(message));
      scanned += message.eventCount;
      work.count(message);
      const { isSpent } = work;
      await settle(walk, query, isSpent ? 0 : MAX_PASSED_BYTES.page);
      if (fill() || isSpent) return result();
    }
    walk.end(endOf(query));
    fill();
    return result();
  }

  async function* events(query: HistoryQuery, signal: AbortSignal): AsyncGenerator<Buffer[], void, undefined> {
    const match = createMatcher(query.filter);
    const walk = new BatchWalk(query.order, query.place, sourceKey);
    const complete = () => {
      const lines: Buffer[] = [];
      for (let batch = walk.nextBatch(); batch; batch = walk.nextBatch()) {
        for (const { message, index } of batch) lines.push(message.json(index));
        walk.takeBatch();
      }
      return lines;
    };
    for await (const message of messages(query, signal)) {
      walk.add(message, match(message));
      await settle(walk, query, MAX_PASSED_BYTES.all);
      const lines = complete();
      if (lines.length > 0) yield lines;
    }
    walk.end(endOf(query));
    const lines = complete();
    if (lines.length > 0) yield lines;
  }

  return { resolve, resume, page, events, messages };
}

interface Reading {
  subjects: string[];
  scope: Scope | undefined;
  signal: AbortSignal;
}

interface Range {
  first: number;
  last: number;
}

/** The last stream sequence of a query, in its direction. */
function endOf({ order, first, last }: HistoryQuery): number {
  return order === Order.oldest ? last : first;
}
