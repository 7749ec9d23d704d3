import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseDurationMs, parseTimeUs } from '../src/time-text.ts';

test('times are read as people write them', () => {
  const now = Date.UTC(2026, 0, 31, 12);
  const cases: Record<string, number | undefined> = {
    now: now * 1000,
    '15m': (now - 900_000) * 1000,
    '-15m': (now - 900_000) * 1000,
    '2h': (now - 7_200_000) * 1000,
    '1w': (now - 604_800_000) * 1000,
    '2026-01-31T11:59:59.123456Z': (now - 1000) * 1000 + 123_456,
    '2026-01-31T11:59:59.123456789Z': (now - 1000) * 1000 + 123_456,
    '2026-01-31t13:00:00+01:00': now * 1000,
    '2026-01-31T13:00:00 01:00': now * 1000,
    '2026-01-31': (now - 43_200_000) * 1000,
    '1.5h': (now - 5_400_000) * 1000,
    '2026-02-29T12:00:00Z': undefined,
    '2026-01-31T12:00:00': undefined,
    '2026-01-31T24:30:00Z': undefined,
    '2026-13-31T12:00:00Z': undefined,
    '15': undefined,
    '--15m': undefined,
    '': undefined,
    '1969-01-01T00:00:00Z': undefined,
    '999999999w': 0,
  };
  for (const [text, expected] of Object.entries(cases)) assert.equal(parseTimeUs(text, now), expected, text);
});

test('spans are read as people write them', () => {
  const cases = {
    '500ms': 500,
    '30s': 30_000,
    '0.25s': 250,
    '2d': 172_800_000,
    '-1s': undefined,
    '1': undefined,
    '1.s': undefined,
    s: undefined,
  };
  for (const [text, expected] of Object.entries(cases)) assert.equal(parseDurationMs(text), expected, text);
});
