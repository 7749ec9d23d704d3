/** Points in time and spans as people write them, in options and in query parameters: RFC 3339, a date, `now`, or an age such as `15m` or `-15m`. */

/** For people. */
export const TIME_EXPECTED = 'an RFC 3339 time such as 2026-01-31T12:00:00Z, a date (its begin in UTC), or an age such as 15m, 2h or 7d';
export const DURATION_EXPECTED = 'a duration such as 500ms, 30s, 15m, 2h or 1d';

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };
/** A '+' of an offset that was not escaped in a URL arrives as a space. */
const RFC3339 = /^(\d{4}-\d\d-\d\d)(?:[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+ -]\d\d:\d\d))?$/;
const DURATION = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d|w)$/;

/**
 * @returns microseconds since 1970; undefined when the text is no time
 */
export function parseTimeUs(text: string, nowMs: number): number | undefined {
  if (text === 'now') return Math.floor(nowMs) * 1000;
  const durationMs = parseDurationMs(text.replace(/^-/, ''));
  if (durationMs !== undefined) return Math.max(0, Math.floor(nowMs - durationMs)) * 1000;
  const match = RFC3339.exec(text);
  if (!match) return undefined;
  const [, date = '', clock = '00:00:00', fraction = '', zone = 'Z'] = match;
  const wholeMs = Date.parse(`${date}T${clock}${zone.replace(' ', '+').toUpperCase()}`);
  return isCalendarDate(date) && wholeMs >= 0 ? wholeMs * 1000 + Number(fraction.padEnd(6, '0').slice(0, 6)) : undefined;
}

/** `90s`, `1.5h`; undefined when the text is none. */
export function parseDurationMs(text: string): number | undefined {
  const match = DURATION.exec(text);
  return match ? Math.round(Number(match[1]) * UNIT_MS[match[2]!]!) : undefined;
}

/** Date.parse takes 31 February for 3 March. */
function isCalendarDate(date: string): boolean {
  const ms = Date.parse(`${date}T00:00:00Z`);
  return !Number.isNaN(ms) && new Date(ms).toISOString().startsWith(date);
}
