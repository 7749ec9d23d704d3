/**
 * Where a page ended, or how far somebody has followed, as opaque text. It holds all that is needed to go on, so that an age in `from` means the same on every page.
 */
import { createHash, hash } from 'node:crypto';
import type { StreamPlace } from '@tidegate/runtime';
import { Order, type Place } from './batch-walk.ts';
import type { EventFilter } from './event-filter.ts';

export interface Cursor extends Place {
  order: Order;
  /** When the stream was made, RFC 3339: one that was made anew counts from 1 again. */
  created: string;
  /** Stream sequences that the whole query covers, both included. */
  first: number;
  last: number;
  /** Interval of event times; null: open. */
  fromUs: number | null;
  toUs: number | null;
  /** Of the filters: a cursor continues the query it came from and no other. */
  digest: string;
}

const VERSION = 5;
/** A page passes over too little for more: MAX_PASSED_BYTES of history.ts, in messages of one small event. */
export const MAX_CURSOR_LENGTH = 12 * 1024;
const DIGEST_LENGTH = 12;
/** Of a source's name, so much stands in a cursor: 48 bits. */
const SOURCE_KEY_LENGTH = 8;
const SOURCE_KEY = /^[\w-]{8}$/;
/** Of the year 9999, the last that RFC 3339 has. */
const MAX_TIME_MS = Date.UTC(9999, 0);
const CREATED = /^[\d:.TZ+-]{20,40}$/;

/** A source's name in a cursor. */
export function sourceKey(source: string): string {
  return hash('sha256', source, 'base64url').slice(0, SOURCE_KEY_LENGTH);
}

export function formatCursor({ order, created, first, last, start, read, given, partial, fromUs, toUs, digest }: Cursor): string {
  // Nearby sequences: told as distances they are short.
  const givenText = [...given].map(([source, sequence]) => `${source}${Math.abs(sequence - start).toString(36)}`).join(' ');
  const partialText = partial ? `${partial.source}${Math.abs(partial.last - start).toString(36)} ${partial.taken}` : '';
  const fields = [
    VERSION,
    order,
    created,
    first,
    last,
    start,
    read ? [read.streamSequence, read.timeMs] : null,
    givenText,
    partialText,
    fromUs,
    toUs,
    digest,
  ];
  return Buffer.from(JSON.stringify(fields)).toString('base64url');
}

/** undefined: not one of ours. */
export function parseCursor(text: string): Cursor | undefined {
  if (text.length > MAX_CURSOR_LENGTH) return undefined;
  let fields: unknown;
  try {
    fields = JSON.parse(Buffer.from(text, 'base64url').toString());
  } catch {
    return undefined;
  }
  if (!Array.isArray(fields) || fields.length !== 12 || fields[0] !== VERSION) return undefined;
  const [, order, created, first, last, start, readPair, givenText, partialText, fromUs, toUs, digest] = fields as unknown[];
  if (order !== Order.newest && order !== Order.oldest) return undefined;
  if (typeof created !== 'string' || !CREATED.test(created)) return undefined;
  if (!isCount(first) || !isCount(last) || !isCount(start) || typeof digest !== 'string') return undefined;
  if (!isCountOrNull(fromUs) || !isCountOrNull(toUs) || typeof givenText !== 'string' || typeof partialText !== 'string') return undefined;
  const read = parseRead(readPair);
  if (readPair !== null && !read) return undefined;
  const direction = order === Order.oldest ? 1 : -1;
  const given = new Map<string, number>();
  for (const entry of givenText === '' ? [] : givenText.split(' ')) {
    const place = parsePlace(entry, start, direction);
    if (!place) return undefined;
    given.set(place.source, place.sequence);
  }
  const partial = partialText === '' ? undefined : parsePartial(partialText, start, direction);
  if (partialText !== '' && !partial) return undefined;
  return { order, created, first, last, start, read, given, partial, fromUs, toUs, digest };
}

export function filterDigest(filter: EventFilter): string {
  const { fromUs: _fromUs, toUs: _toUs, ...rest } = filter;
  const canonical = JSON.stringify(Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1)));
  return createHash('sha256').update(canonical).digest('base64url').slice(0, DIGEST_LENGTH);
}

function parseRead(pair: unknown): StreamPlace | undefined {
  if (!Array.isArray(pair) || pair.length !== 2) return undefined;
  const [streamSequence, timeMs] = pair as unknown[];
  return isCount(streamSequence) && isCount(timeMs) && timeMs <= MAX_TIME_MS ? { streamSequence, timeMs } : undefined;
}

function parsePartial(text: string, start: number, direction: 1 | -1): Place['partial'] {
  const [entry = '', count = '', ...rest] = text.split(' ');
  const place = parsePlace(entry, start, direction);
  const taken = /^\d{1,9}$/.test(count) ? Number(count) : undefined;
  return place && taken !== undefined && rest.length === 0 ? { source: place.source, last: place.sequence, taken } : undefined;
}

function parsePlace(entry: string, start: number, direction: 1 | -1): { source: string; sequence: number } | undefined {
  const source = entry.slice(0, SOURCE_KEY_LENGTH);
  const distance = /^[\da-z]{1,10}$/.test(entry.slice(SOURCE_KEY_LENGTH)) ? parseInt(entry.slice(SOURCE_KEY_LENGTH), 36) : NaN;
  const sequence = start + direction * distance;
  return SOURCE_KEY.test(source) && isCount(sequence) ? { source, sequence } : undefined;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCountOrNull(value: unknown): value is number | null {
  return value === null || isCount(value);
}
