/** Checks a command's options, collecting every fault, so that a user corrects them all at once. */
import { accessSync, constants, existsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { getSystemErrorMessage } from 'node:util';
import { DURATION_EXPECTED, parseDurationMs, parseTimeUs, TIME_EXPECTED } from '@tidegate/contracts';
import { TidegateError } from '@tidegate/runtime';

export interface OptionFaults {
  /** @param got undefined: nothing was given */
  add(field: string, expected: string, got: string | undefined): void;
  /** Microseconds since 1970 of a time, or of so long ago (15m). undefined stays undefined. */
  timeUs(field: string, text: string | undefined, nowMs: number): number | undefined;
  durationMs(field: string, text: string | undefined): number | undefined;
  integer(field: string, text: string | undefined, range: { min: number; max: number }): number | undefined;
  /** A file that is there and can be read. */
  readableFile(field: string, path: string, expected: string): void;
  /** A file that is not there yet, in a folder that is. */
  newFile(field: string, path: string, expected: string): void;
  oneOf<Value extends string>(field: string, text: string | undefined, values: readonly Value[]): Value | undefined;
  /** @throws {TidegateError} INVALID_ARGUMENT when there was any */
  check(): void;
}

export function createOptionFaults(): OptionFaults {
  const faults: { field: string; expected: string; got: string }[] = [];
  const add: OptionFaults['add'] = (field, expected, got) =>
    void faults.push({ field, expected, got: got === undefined ? 'nothing' : JSON.stringify(got) });
  return {
    add,
    timeUs(field, text, nowMs) {
      const timeUs = text === undefined ? undefined : parseTimeUs(text, nowMs);
      if (text !== undefined && timeUs === undefined) add(field, TIME_EXPECTED, text);
      return timeUs;
    },
    durationMs(field, text) {
      const durationMs = text === undefined ? undefined : parseDurationMs(text);
      if (text !== undefined && durationMs === undefined) add(field, DURATION_EXPECTED, text);
      return durationMs;
    },
    integer(field, text, { min, max }) {
      if (text === undefined) return undefined;
      const value = /^-?\d{1,16}$/.test(text) ? Number(text) : NaN;
      if (value >= min && value <= max) return value;
      add(field, `a whole number from ${min} to ${max}`, text);
      return undefined;
    },
    readableFile(field, path, expected) {
      if (path === '') return;
      try {
        accessSync(path, constants.R_OK);
        if (statSync(path).isDirectory()) add(field, expected, `${path}: a folder`);
      } catch (error) {
        add(field, expected, `${path}: ${reasonOf(error)}`);
      }
    },
    newFile(field, path, expected) {
      if (path === '') return;
      try {
        if (existsSync(path)) add(field, expected, `${path}: it exists`);
        else accessSync(dirname(path), constants.W_OK);
      } catch (error) {
        add(field, expected, `${path}: its folder: ${reasonOf(error)}`);
      }
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

function reasonOf(error: unknown): string {
  const { errno, message } = error as NodeJS.ErrnoException;
  return errno === undefined ? message : getSystemErrorMessage(errno);
}
