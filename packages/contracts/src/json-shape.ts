/** What a JSON value must look like, checked at the edge: all faults at once, each with its path. Members that are not named pass. */

/** Adds a fault for each thing that is wrong with `value`, which is found at `path`. */
export interface Shape<Value> {
  (value: unknown, path: string, faults: string[]): void;
  /** Never set: lets the compiler tell shapes apart. */
  readonly of?: Value;
}

/** A value that is not what it should be; the message lists every fault. */
export class ShapeError extends Error {
  override readonly name = 'ShapeError';
}

/** Longer values are shown by their beginning. */
const SHOWN_CHARACTERS = 60;

/** @throws {ShapeError} */
export function checkShape<Value>(shape: Shape<Value>, value: unknown): Value {
  const faults: string[] = [];
  shape(value, '', faults);
  if (faults.length > 0) throw new ShapeError(faults.join('; '));
  return value as Value;
}

export const text = leaf<string>('text', value => typeof value === 'string');
export const flag = leaf<boolean>('true or false', value => typeof value === 'boolean');
/** A whole number from 0 to 2^53 - 1. */
export const count = leaf<number>('a whole number', value => Number.isSafeInteger(value) && (value as number) >= 0);
/** RFC 3339. */
export const time = leaf<string>('a time', value => typeof value === 'string' && !Number.isNaN(Date.parse(value)));

/** One of some words. */
export function choice<Word extends string>(words: readonly Word[]): Shape<Word> {
  return leaf<Word>(`one of ${words.join(', ')}`, value => (words as readonly unknown[]).includes(value));
}

export function list<Value>(of: Shape<Value>): Shape<Value[]> {
  return (value, path, faults) => {
    if (Array.isArray(value)) value.forEach((each, i) => of(each, `${path}[${i}]`, faults));
    else faults.push(fault(path, 'a list', value));
  };
}

/** An object with names of any kind. */
export function table<Value>(of: Shape<Value>): Shape<Record<string, Value>> {
  return (value, path, faults) => {
    if (isObject(value)) for (const [name, each] of Object.entries(value)) of(each, join(path, name), faults);
    else faults.push(fault(path, 'an object', value));
  };
}

export function optional<Value>(of: Shape<Value>): Shape<Value | undefined> {
  return (value, path, faults) => {
    if (value !== undefined) of(value, path, faults);
  };
}

export function object<Value extends object>(members: { [Name in keyof Value]-?: Shape<Value[Name]> }): Shape<Value> {
  return (value, path, faults) => {
    if (!isObject(value)) faults.push(fault(path, 'an object', value));
    else for (const [name, of] of Object.entries<Shape<unknown>>(members)) of(value[name], join(path, name), faults);
  };
}

/** @param expected what `is` takes, for messages */
export function leaf<Value>(expected: string, is: (value: unknown) => boolean): Shape<Value> {
  return (value, path, faults) => {
    if (!is(value)) faults.push(fault(path, expected, value));
  };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function join(path: string, name: string): string {
  return path === '' ? name : `${path}.${name}`;
}

function fault(path: string, expected: string, got: unknown): string {
  const shown = got === undefined ? 'nothing' : JSON.stringify(got).slice(0, SHOWN_CHARACTERS);
  return `${path === '' ? 'the value' : path}: expected ${expected}, got ${shown}`;
}
