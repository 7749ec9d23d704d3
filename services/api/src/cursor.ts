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
  /** Stream sequence at which reading goes on. */
  start: number;
  /**
   * The batch reached, by the stream sequence of the message of it that is met last: what is complete before it was given already. null: all that
   * is met from `start` on was not given yet.
   */
  reached: number | null;
  /** Of the batch reached, the first of its wanted events that was not given; null: all were. */
  index: number | null;
  /** Interval of event times; null: open. */
  fromUs: number | null;
  toUs: number | null;
  /** Of the filters: a cursor continues the query it came from and no other. */
  digest: string;
}

const VERSION = 2;
const MAX_CURSOR_LENGTH = 512;
const DIGEST_LENGTH = 12;

export function formatCursor({ order, first, last, start, reached, index, fromUs, toUs, digest }: Cursor): string {
  return Buffer.from(JSON.stringify([VERSION, order, first, last, start, reached, index, fromUs, toUs, digest])).toString('base64url');
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
  const [, order, first, last, start, reached, index, fromUs, toUs, digest] = fields as unknown[];
  if (order !== Order.newest && order !== Order.oldest) return undefined;
  if (!isCount(first) || !isCount(last) || !isCount(start) || typeof digest !== 'string') return undefined;
  if (!isCountOrNull(reached) || !isCountOrNull(index) || !isCountOrNull(fromUs) || !isCountOrNull(toUs)) return undefined;
  return { order, first, last, start, reached, index, fromUs, toUs, digest };
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
