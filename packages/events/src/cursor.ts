/** Where a page ended, as opaque text. It holds all that the next page needs, so that an age in `from` means the same on every page. */
import { createHash, hash } from 'node:crypto';
import { Order, type Place } from './batch-walk.ts';
import type { EventFilter } from './event-filter.ts';

export interface Cursor extends Place {
  order: Order;
  /** Stream sequences that the whole query covers, both included. */
  first: number;
  last: number;
  /** Interval of event times; null: open. */
  fromUs: number | null;
  toUs: number | null;
  /** Of the filters: a cursor continues the query it came from and no other. */
  digest: string;
}

const VERSION = 3;
/** A page passes over too little for more: MAX_PASSED_BYTES of history.ts, in messages of one small event. */
const MAX_CURSOR_LENGTH = 12 * 1024;
const DIGEST_LENGTH = 12;
/** Of a node's name, so much stands in a cursor: 48 bits. */
const NODE_KEY_LENGTH = 8;
const NODE_KEY = /^[\w-]{8}$/;

/** A node's name in a cursor. */
export function nodeKey(node: string): string {
  return hash('sha256', node, 'base64url').slice(0, NODE_KEY_LENGTH);
}

export function formatCursor({ order, first, last, start, given, partial, fromUs, toUs, digest }: Cursor): string {
  // Nearby sequences: told as distances they are short.
  const givenText = [...given].map(([node, sequence]) => `${node}${Math.abs(sequence - start).toString(36)}`).join(' ');
  const partialText = partial ? `${partial.node}${Math.abs(partial.last - start).toString(36)} ${partial.taken}` : '';
  const fields = [VERSION, order, first, last, start, givenText, partialText, fromUs, toUs, digest];
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
  if (!Array.isArray(fields) || fields.length !== 10 || fields[0] !== VERSION) return undefined;
  const [, order, first, last, start, givenText, partialText, fromUs, toUs, digest] = fields as unknown[];
  if (order !== Order.newest && order !== Order.oldest) return undefined;
  if (!isCount(first) || !isCount(last) || !isCount(start) || typeof digest !== 'string') return undefined;
  if (!isCountOrNull(fromUs) || !isCountOrNull(toUs) || typeof givenText !== 'string' || typeof partialText !== 'string') return undefined;
  const direction = order === Order.oldest ? 1 : -1;
  const given = new Map<string, number>();
  for (const entry of givenText === '' ? [] : givenText.split(' ')) {
    const place = parsePlace(entry, start, direction);
    if (!place) return undefined;
    given.set(place.node, place.sequence);
  }
  const partial = partialText === '' ? undefined : parsePartial(partialText, start, direction);
  if (partialText !== '' && !partial) return undefined;
  return { order, first, last, start, given, partial, fromUs, toUs, digest };
}

export function filterDigest(filter: EventFilter): string {
  const { fromUs: _fromUs, toUs: _toUs, ...rest } = filter;
  const canonical = JSON.stringify(Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1)));
  return createHash('sha256').update(canonical).digest('base64url').slice(0, DIGEST_LENGTH);
}

function parsePartial(text: string, start: number, direction: 1 | -1): Place['partial'] {
  const [entry = '', count = '', ...rest] = text.split(' ');
  const place = parsePlace(entry, start, direction);
  const taken = /^\d{1,9}$/.test(count) ? Number(count) : undefined;
  return place && taken !== undefined && rest.length === 0 ? { node: place.node, last: place.sequence, taken } : undefined;
}

function parsePlace(entry: string, start: number, direction: 1 | -1): { node: string; sequence: number } | undefined {
  const node = entry.slice(0, NODE_KEY_LENGTH);
  const distance = /^[\da-z]{1,10}$/.test(entry.slice(NODE_KEY_LENGTH)) ? parseInt(entry.slice(NODE_KEY_LENGTH), 36) : NaN;
  const sequence = start + direction * distance;
  return NODE_KEY.test(node) && isCount(sequence) ? { node, sequence } : undefined;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCountOrNull(value: unknown): value is number | null {
  return value === null || isCount(value);
}
