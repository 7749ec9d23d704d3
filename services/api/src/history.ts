/** Reads EVENTS as history: any range of the stream, oldest or newest first, in bounded pieces of work. */
import { STREAMS } from '@tidegate/contracts';
import { filterDigest, formatCursor, Order, type Cursor } from './cursor.ts';
import { ApiError } from './errors.ts';
import { createMatcher, filterSubjects, type EventFilter } from './event-filter.ts';
import { EventMessage } from './event-message.ts';
import type { StreamReader, StreamReaders } from './stream-reader.ts';
import { WorkMeter } from './work-meter.ts';

/** A query, resolved to stream sequences: constant while pages of it are read. */
export interface HistoryQuery {
  order: Order;
  filter: EventFilter;
  /** Stream sequences covered, both included; first is above last when there is nothing. */
  first: number;
  last: number;
  /** Where to begin within them. */
  sequence: number;
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
   * @throws {ApiError} STREAM_UNAVAILABLE
   */
  resolve(order: Order, filter: EventFilter, lateMs: number): Promise<HistoryQuery>;
  /** @throws {ApiError} CURSOR_EXPIRED, STREAM_UNAVAILABLE */
  resume(cursor: Cursor, filter: EventFilter): Promise<HistoryQuery>;
  /** One page: ends at the limit, at the end, or when its share of work is done. */
  page(query: HistoryQuery, limit: number, signal: AbortSignal): Promise<Page>;
  /** All matching events, JSON of each event of a message at a time. */
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
const MAX_BATCH = 256;

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
    return { order, filter, ...range, sequence: order === Order.oldest ? range.first : range.last, index: null };
  }

  async function resume(cursor: Cursor, filter: EventFilter): Promise<HistoryQuery> {
    const { order, first, last, sequence, index, fromUs, toUs } = cursor;
    const bounds = await readers.bounds(stream);
    if (sequence < bounds.first && order === Order.oldest && sequence <= last)
      throw new ApiError('CURSOR_EXPIRED', `the stream now begins at ${bounds.first}, after the cursor's ${sequence}`);
    const interval = { ...(fromUs !== null && { fromUs }), ...(toUs !== null && { toUs }) };
    // Clamped: a cursor is the client's, and no work may depend on how large its numbers are.
    const range = { first: Math.max(first, bounds.first), last: Math.min(last, bounds.last) };
    return { order, filter: { ...filter, ...interval }, ...range, sequence: Math.min(sequence, bounds.last + 1), index };
  }

  function messages(query: HistoryQuery, signal: AbortSignal): AsyncGenerator<EventMessage, void, undefined> {
    const subjects = filterSubjects(query.filter, canFilterSeveral());
    const range = query.order === Order.oldest ? { first: query.sequence, last: query.last } : { first: query.first, last: query.sequence };
    return query.order === Order.oldest ? forward(range, subjects, signal) : backward(range, subjects, signal);
  }

  async function* forward({ first, last }: Range, subjects: string[], signal: AbortSignal): AsyncGenerator<EventMessage, void, undefined> {
    if (first > last) return;
    const reader = readers.open({ stream, start: { sequence: first }, subjects, maxBatch: Math.min(MAX_BATCH, last - first + 1) });
    yield* bounded(reader, last, signal);
  }

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
    const reader = readers.open({ stream, start: { sequence: first }, subjects, maxBatch: Math.min(MAX_BATCH, last - first + 1) });
    const window: EventMessage[] = [];
    let bytes = 0;
    for await (const message of bounded(reader, last, signal)) {
      window.push(message);
      bytes += message.size;
      if (bytes > Window.maxBytes && first < last) return { bytes };
    }
    return { window, bytes };
  }

  /** What the reader gives up to a sequence; closes the reader. */
  async function* bounded(reader: StreamReader, last: number, signal: AbortSignal): AsyncGenerator<EventMessage, void, undefined> {
    const abort = () => reader.close();
    signal.addEventListener('abort', abort);
    try {
      for await (const message of reader.read({ wait: false })) {
        if (message.sequence > last) return;
        const decodable = new EventMessage(message);
        yield decodable;
        if (decodable.isUnreadable) onUnreadable(decodable);
        if (message.sequence === last) return;
      }
    } finally {
      signal.removeEventListener('abort', abort);
      reader.close();
    }
  }

  async function page(query: HistoryQuery, limit: number, signal: AbortSignal): Promise<Page> {
    const match = createMatcher(query.filter);
    const isOldest = query.order === Order.oldest;
    const work = new WorkMeter();
    const events: Buffer[] = [];
    let scanned = 0;
    let pageBytes = 0;
    const endAt = (sequence: number, index: number | null): Page => {
      const isEnd = index === null && (isOldest ? sequence > query.last : sequence < query.first);
      return { events, cursor: isEnd ? null : cursorAt(query, sequence, index), scanned, complete: isEnd };
    };
    for await (const message of messages(query, signal)) {
      const indices = inOrder(match(message), query, message);
      for (const [nth, index] of indices.entries()) {
        const json = message.json(index);
        if (events.length > 0 && pageBytes + json.length > MAX_PAGE_BYTES) return endAt(message.sequence, index);
        events.push(json);
        pageBytes += json.length;
        if (events.length === limit) {
          const next = indices[nth + 1];
          scanned += message.eventCount;
          return next === undefined ? endAt(message.sequence + (isOldest ? 1 : -1), null) : endAt(message.sequence, next);
        }
      }
      scanned += message.eventCount;
      work.count(message);
      if (work.isSpent) return endAt(message.sequence + (isOldest ? 1 : -1), null);
    }
    return endAt(isOldest ? query.last + 1 : query.first - 1, null);
  }

  async function* events(query: HistoryQuery, signal: AbortSignal): AsyncGenerator<Buffer[], void, undefined> {
    const match = createMatcher(query.filter);
    for await (const message of messages(query, signal)) {
      const indices = inOrder(match(message), query, message);
      if (indices.length > 0) yield indices.map(index => message.json(index));
    }
  }

  return { resolve, resume, page, events, messages };
}

interface Range {
  first: number;
  last: number;
}

/** Indices in the query's direction, without those before its beginning. */
function inOrder(indices: number[], { order, sequence, index: start }: HistoryQuery, message: EventMessage): number[] {
  const isOldest = order === Order.oldest;
  const wanted =
    start === null || message.sequence !== sequence ? indices : indices.filter(index => (isOldest ? index >= start : index <= start));
  return isOldest ? wanted : wanted.reverse();
}

function cursorAt({ order, first, last, filter }: HistoryQuery, sequence: number, index: number | null): string {
  return formatCursor({
    order,
    first,
    last,
    sequence,
    index,
    fromUs: filter.fromUs ?? null,
    toUs: filter.toUs ?? null,
    digest: filterDigest(filter),
  });
}
