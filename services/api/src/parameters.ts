/** Query strings: one table says what a parameter means, how it is checked and how it is documented. */
import type { Selection } from '@tidegate/events';
import { Type, type ObjectSchema } from './json-schema.ts';
import { faultsError, type Fault } from './errors.ts';

/** One parameter: `parse` gets its texts (one, or several where lists are allowed) and gives undefined for what it does not take. */
export interface Parameter<T> {
  description: string;
  example: string;
  expected: string;
  /** Several values, with commas or by repeating the parameter. */
  isList: boolean;
  /** Characters of one value; default: MAX_VALUE_LENGTH. */
  maxLength?: number;
  parse(texts: readonly string[]): T | undefined;
}

export type ParameterTable = Readonly<Record<string, Parameter<unknown>>>;

export type ParameterValues<Table extends ParameterTable> = {
  [Name in keyof Table]?: Table[Name] extends Parameter<infer T> ? T : never;
};

interface Description {
  description: string;
  example: string;
  expected: string;
  maxLength?: number;
}

/** Longest value of a parameter, and most values of a list. */
export const MAX_VALUE_LENGTH = 1024;
export const MAX_LIST_VALUES = 64;
/** Of a faulty value, so much is repeated in the answer. */
const SHOWN_VALUE_LENGTH = 80;

/** A parameter with one value. */
export function single<T>(description: Description, parse: (text: string) => T | undefined): Parameter<T> {
  return { ...description, isList: false, parse: ([text]) => (text === undefined ? undefined : parse(text)) };
}

/** A parameter with one or more values, each with ! before it to leave it out. No value may be asked for both ways. */
export function selection<T>(
  { description, example, expected }: Description,
  parse: (text: string) => T | undefined,
): Parameter<Selection<T>> {
  return {
    description: `${description} A value with ! before it is left out.`,
    example,
    expected: `${expected}, each with or without ! before it and none both ways`,
    isList: true,
    parse: texts => {
      const [except, only] = [texts.filter(isNegated).map(text => text.slice(1)), texts.filter(text => !isNegated(text))].map(some => [
        ...new Set(some.map(text => (text === '' ? undefined : parse(text)))),
      ]);
      if ([...except!, ...only!].includes(undefined) || only!.some(value => except!.includes(value))) return undefined;
      return { only: only as T[], except: except as T[] };
    },
  };
}

function isNegated(text: string): boolean {
  return text.startsWith('!');
}

/** One of some words. */
export function choice<const Word extends string>(description: Omit<Description, 'expected'>, words: readonly Word[]): Parameter<Word> {
  return single({ ...description, expected: `one of ${words.join(', ')}` }, text => words.find(word => word === text));
}

export function integer(description: Omit<Description, 'expected'>, minimum: number, maximum: number): Parameter<number> {
  return single({ ...description, expected: `an integer from ${minimum} to ${maximum}` }, text => integerOf(text, minimum, maximum));
}

export function integerOf(text: string, minimum: number, maximum: number): number | undefined {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
  return value >= minimum && value <= maximum ? value : undefined;
}

/**
 * Reads a parsed query string.
 * @throws {ApiError} PARAMETERS_INVALID with every fault, unknown parameters included
 */
export function parseParameters<Table extends ParameterTable>(query: unknown, table: Table): ParameterValues<Table> {
  const values: Record<string, unknown> = {};
  const faults: Fault[] = [];
  for (const [name, given] of Object.entries(query as Record<string, string | string[]>)) {
    const parameter = Object.hasOwn(table, name) ? table[name] : undefined;
    if (!parameter) {
      faults.push({ field: shown(name), expected: `one of the parameters ${Object.keys(table).join(', ')}`, got: 'an unknown parameter' });
      continue;
    }
    const texts = parameter.isList ? [given].flat().flatMap(text => text.split(',')) : [given].flat();
    const fault = sizeFault(texts, parameter);
    if (fault) {
      faults.push({ field: name, ...fault });
      continue;
    }
    const value = parameter.parse(texts);
    if (value === undefined) faults.push({ field: name, expected: parameter.expected, got: JSON.stringify(shown(texts.join(','))) });
    else values[name] = value;
  }
  if (faults.length > 0) throw faultsError(faults);
  return values as ParameterValues<Table>;
}

/** The table as a schema, for OpenAPI. */
export function parametersSchema(table: ParameterTable): ObjectSchema {
  return Type.Object(
    Object.fromEntries(
      Object.entries(table).map(([name, { description, example, expected }]) => [
        name,
        Type.Optional(Type.String({ description: `${description} Expected: ${expected}.`, examples: [example] })),
      ]),
    ),
    { additionalProperties: false },
  );
}

function sizeFault(
  texts: readonly string[],
  { isList, maxLength = MAX_VALUE_LENGTH }: Parameter<unknown>,
): Omit<Fault, 'field'> | undefined {
  if (!isList && texts.length > 1) return { expected: 'one value', got: `${texts.length} values` };
  if (texts.length > MAX_LIST_VALUES) return { expected: `at most ${MAX_LIST_VALUES} values`, got: `${texts.length}` };
  if (texts.includes('')) return { expected: 'a value', got: 'nothing' };
  const tooLong = texts.find(text => text.length > maxLength);
  return tooLong === undefined ? undefined : { expected: `at most ${maxLength} characters`, got: `${tooLong.length}` };
}

function shown(text: string): string {
  return text.length > SHOWN_VALUE_LENGTH ? `${text.slice(0, SHOWN_VALUE_LENGTH)}…` : text;
}
