/** Checks a command's options, collecting every fault, so that a user corrects them all at once. */
import { TidegateError } from '@tidegate/runtime';

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

export interface OptionFaults {
  add(field: string, expected: string, got: string): void;
  /** A time: RFC 3339, or so long ago (15m). undefined stays undefined. */
  time(field: string, text: string | undefined, nowMs: number): Date | undefined;
  durationMs(field: string, text: string | undefined): number | undefined;
  integer(field: string, text: string | undefined, range: { min: number; max: number }): number | undefined;
  oneOf<Value extends string>(field: string, text: string | undefined, values: readonly Value[]): Value | undefined;
  /** @throws {TidegateError} INVALID_ARGUMENT when there was any */
  check(): void;
}

export function createOptionFaults(): OptionFaults {
  const faults: { field: string; expected: string; got: string }[] = [];
  const add = (field: string, expected: string, got: string) => void faults.push({ field, expected, got: JSON.stringify(got) });
  return {
    add,
    time(field, text, nowMs) {
      if (text === undefined) return undefined;
      if (text === 'now') return new Date(nowMs);
      const durationMs = parseDurationMs(text.replace(/^-/, ''));
      if (durationMs !== undefined && durationMs <= nowMs) return new Date(nowMs - durationMs);
      const timeMs = /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(text) : NaN;
      if (!Number.isNaN(timeMs)) return new Date(timeMs);
      add(field, 'a time ago like 30s, 15m, 2h or 1d, or a date like 2026-01-31T12:00:00Z', text);
      return undefined;
    },
    durationMs(field, text) {
      if (text === undefined) return undefined;
      const durationMs = parseDurationMs(text);
      if (durationMs === undefined) add(field, 'a duration like 500ms, 30s, 15m, 2h or 1d', text);
      return durationMs;
    },
    integer(field, text, { min, max }) {
      if (text === undefined) return undefined;
      const value = /^-?\d{1,16}$/.test(text) ? Number(text) : NaN;
      if (value >= min && value <= max) return value;
      add(field, `a whole number from ${min} to ${max}`, text);
      return undefined;
    },
    oneOf(field, text, values) {
      if (text === undefined) return undefined;
      const value = values.find(each => each === text);
      if (value === undefined) add(field, `one of ${values.join(', ')}`, text);
      return value;
    },
    check() {
      if (faults.length === 0) return;
      const [first] = faults;
      if (faults.length === 1) throw new TidegateError('INVALID_ARGUMENT', 'an option is wrong', first);
      const lines = faults.map(({ field, expected, got }) => `\n  ${field}: expected ${expected}, got ${got}`);
      throw new TidegateError('INVALID_ARGUMENT', `${faults.length} options are wrong:${lines.join('')}`);
    },
  };
}

function parseDurationMs(text: string): number | undefined {
  const match = /^(\d{1,12}(?:\.\d{1,3})?)(ms|s|m|h|d)$/.exec(text);
  return match ? Math.round(Number(match[1]) * UNIT_MS[match[2]!]!) : undefined;
}
