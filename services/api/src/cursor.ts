/** Where a page ended, as opaque text. It holds all that the next page needs, so that an age in `from` means the same on every page. */
import { createHash } from 'node:crypto';
import type { EventFilter } from './event-filter.ts';

export const Order = { newest: 'newest', oldest: 'oldest' } as const;
export type Order = (typeof Order)[keyof typeof Order];

export interface Cursor {
  order: Order;
  /** Stream sequences that the whole query covers, both included. */
  first: number;
  last: number;
  /** The message to go on with, and the first of its events to look at; null: all of them. */
  sequence: number;
  index: number | null;
  /** Interval of event times; null: open. */
  fromUs: number | null;
  toUs: number | null;
  /** Of the filters: a cursor continues the query it came from and no other. */
  digest: string;
}

const VERSION = 1;
const MAX_CURSOR_LENGTH = 512;
const DIGEST_LENGTH = 12;

export function formatCursor({ order, first, last, sequence, index, fromUs, toUs, digest }: Cursor): string {
  return Buffer.from(JSON.stringify([VERSION, order, first, last, sequence, index, fromUs, toUs, digest])).toString('base64url');
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
  if (!Array.isArray(fields) || fields.length !== 9 || fields[0] !== VERSION) return undefined;
  const [, order, first, last, sequence, index, fromUs, toUs, digest] = fields as unknown[];
  if (order !== Order.newest && order !== Order.oldest) return undefined;
  if (!isCount(first) || !isCount(last) || !isCount(sequence) || typeof digest !== 'string') return undefined;
  if (!isCountOrNull(index) || !isCountOrNull(fromUs) || !isCountOrNull(toUs)) return undefined;
  return { order, first, last, sequence, index, fromUs, toUs, digest };
}

export function filterDigest(filter: EventFilter): string {
  const { fromUs: _fromUs, toUs: _toUs, ...rest } = filter;
  const canonical = JSON.stringify(Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1)));
  return createHash('sha256').update(canonical).digest('base64url').slice(0, DIGEST_LENGTH);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCountOrNull(value: unknown): value is number | null {
  return value === null || isCount(value);
}
