import { isAbsolute } from 'node:path';
import { TidegateError } from './errors.ts';
import { LOG_LEVELS } from './logging.ts';

/**
 * A setting: what its text in the environment may be, and what holds without one. Made by text(), checkedText(), absolutePath(), integer(), flag(), choice() and the lists.
 */
export interface Setting<Value> {
  readonly description: string;
  /** Values it takes, for people. */
  readonly expected: string;
  /** Used when the variable is not set or empty; undefined: none. */
  readonly default: Value | undefined;
  readonly isRequired: boolean;
  /** Its value stays out of messages. */
  readonly isSecret: boolean;
  /** undefined: not a value of this setting. */
  parse(text: string): Value | undefined;
}

/**
 * Settings by name, each named with its unit (`lingerMs`). They come from the environment alone: the variable is prefix plus the name in
 * capitals (TIDEGATE_LINGER_MS).
 */
export type ConfigSchema = Readonly<Record<string, Setting<unknown>>>;

/** The values of a schema's settings. */
export type Config<Schema extends ConfigSchema> = {
  readonly [Name in keyof Schema]: Schema[Name] extends Setting<infer Value> ? Value : never;
};

/** What every setting has. One without a `default` that is not `optional` is required. */
export interface SettingDetails<Value> {
  description: string;
  default?: Value;
  /** Without the variable the value is undefined. */
  optional?: boolean;
  secret?: boolean;
}

export interface IntegerBounds {
  minimum?: number;
  maximum?: number;
}

export interface LoadConfigOptions {
  /** Default: TIDEGATE_. */
  prefix?: string;
}

/** One row of a README's configuration table. */
export interface ConfigRow {
  variable: string;
  /** As written in the environment; undefined: no default. */
  default: string | undefined;
  required: boolean;
  /** Values it takes, for people. */
  expected: string;
  description: string;
}

/** What a setting gives: undefined only when it is optional. */
type Given<Value, Details> = Details extends { optional: true } ? Value | undefined : Value;

interface ValueType<Value> {
  expected: string;
  parse(text: string): Value | undefined;
}

const DEFAULT_PREFIX = 'TIDEGATE_';

const TEXT: ValueType<string> = { expected: 'text', parse: given => given };
const ABSOLUTE_PATH: ValueType<string> = { expected: 'an absolute path', parse: given => (isAbsolute(given) ? given : undefined) };
const FLAG: ValueType<boolean> = {
  expected: 'true or false',
  parse: given => (given === 'true' || given === '1' ? true : given === 'false' || given === '0' ? false : undefined),
};

export function text<const Details extends SettingDetails<string>>(details: Details): Setting<Given<string, Details>> {
  return setting(TEXT, details);
}

/** Text of a form of its own. */
export function checkedText<const Details extends SettingDetails<string>>(
  { expected, is }: { expected: string; is: (given: string) => boolean },
  details: Details,
): Setting<Given<string, Details>> {
  return setting({ expected, parse: given => (is(given) ? given : undefined) }, details);
}

export function absolutePath<const Details extends SettingDetails<string>>(details: Details): Setting<Given<string, Details>> {
  return setting(ABSOLUTE_PATH, details);
}

export function integer<const Details extends SettingDetails<number> & IntegerBounds>(details: Details): Setting<Given<number, Details>> {
  return setting(integerType(details), details);
}

/** true or false. */
export function flag<const Details extends SettingDetails<boolean>>(details: Details): Setting<Given<boolean, Details>> {
  return setting(FLAG, details);
}

/** One of some words. */
export function choice<const Word extends string, const Details extends SettingDetails<NoInfer<Word>>>(
  words: readonly Word[],
  details: Details,
): Setting<Given<Word, Details>> {
  const type = { expected: `one of ${words.join(', ')}`, parse: (given: string) => words.find(word => word === given) };
  return setting(type, details);
}

/** Texts with commas between them; blanks around them do not count, and none is empty. */
export function textList<const Details extends SettingDetails<string[]>>(details: Details): Setting<Given<string[], Details>> {
  return setting(listType(TEXT), details);
}

/** Some of these words, with commas between them. */
export function wordList<const Details extends SettingDetails<string[]>>(
  words: readonly string[],
  details: Details,
): Setting<Given<string[], Details>> {
  return setting(
    listType({ expected: `one of ${words.join(', ')}`, parse: given => (words.includes(given) ? given : undefined) }),
    details,
  );
}

/** Integers with commas between them. */
export function integerList<const Details extends SettingDetails<number[]> & IntegerBounds>(
  details: Details,
): Setting<Given<number[], Details>> {
  return setting(listType(integerType(details)), details);
}

/** Settings every service has; spread into the service's own. */
export const COMMON_SETTINGS = {
  natsUrl: text({ default: 'nats://127.0.0.1:4222', description: 'Where NATS is; several addresses with commas.' }),
  natsUser: text({ optional: true, description: 'NATS user.' }),
  natsPassword: text({ optional: true, secret: true, description: "The NATS user's password." }),
  natsCredentialsFile: text({ optional: true, description: 'File with NATS credentials (JWT and seed), instead of user and password.' }),
  logLevel: choice(LOG_LEVELS, { default: 'info', description: 'Least level that is logged.' }),
  healthHost: text({ default: '127.0.0.1', description: 'Address on which /healthz, /readyz and /metrics are served.' }),
} as const;

/** Reads and checks all settings of `schema`. Throws CONFIG_INVALID listing every fault at once. */
export function loadConfig<Schema extends ConfigSchema>(
  schema: Schema,
  env: NodeJS.ProcessEnv = process.env,
  { prefix = DEFAULT_PREFIX }: LoadConfigOptions = {},
): Config<Schema> {
  const faults: string[] = [];
  const values = Object.entries(schema).map(([name, { description, expected, default: fallback, isRequired, isSecret, parse }]) => {
    const variable = variableName(prefix, name);
    const given = env[variable];
    if (given === undefined || given === '') {
      if (isRequired) faults.push(`${variable}: expected ${expected}, got nothing (${description})`);
      return [name, fallback];
    }
    const value = parse(given);
    if (value === undefined)
      faults.push(`${variable}: expected ${expected}, got ${isSecret ? 'a value that is not shown' : JSON.stringify(given)}`);
    return [name, value];
  });
  if (faults.length > 0) throw new TidegateError('CONFIG_INVALID', `${faults.length} setting(s) are wrong:\n  ${faults.join('\n  ')}`);
  return Object.fromEntries(values) as Config<Schema>;
}

/** Rows of the configuration table, in the schema's order. */
export function describeConfig(schema: ConfigSchema, { prefix = DEFAULT_PREFIX }: LoadConfigOptions = {}): ConfigRow[] {
  return Object.entries(schema).map(([name, { default: fallback, isRequired, expected, description }]) => ({
    variable: variableName(prefix, name),
    default: fallback === undefined ? undefined : String(fallback),
    required: isRequired,
    expected,
    description,
  }));
}

/** The configuration table as Markdown. */
export function configTable(rows: readonly ConfigRow[]): string {
  const lines = rows.map(row => {
    const fallback =
      row.default === undefined ? (row.required ? '**required**' : 'none') : row.default === '' ? 'empty' : `\`${row.default}\``;
    return `| \`${row.variable}\` | ${fallback} | ${escapeCell(row.expected)} | ${escapeCell(row.description)} |`;
  });
  return ['| variable | default | values | what it does |', '|---|---|---|---|', ...lines].join('\n');
}

function setting<Value, Details extends SettingDetails<NoInfer<Value>>>(
  { expected, parse }: ValueType<Value>,
  { description, default: fallback, optional = false, secret = false }: Details,
): Setting<Given<Value, Details>> {
  return { description, expected, parse, default: fallback, isRequired: fallback === undefined && !optional, isSecret: secret };
}

function integerType({ minimum = -Infinity, maximum = Infinity }: IntegerBounds): ValueType<number> {
  return {
    expected: `an integer${boundsText(minimum, maximum)}`,
    parse(given) {
      const value = given.trim() === '' ? NaN : Number(given);
      return Number.isSafeInteger(value) && value >= minimum && value <= maximum ? value : undefined;
    },
  };
}

function listType<Item>({ expected, parse }: ValueType<Item>): ValueType<Item[]> {
  return {
    expected: `a list with commas, each ${expected}`,
    parse(given) {
      const items = given.split(',').map(item => (item.trim() === '' ? undefined : parse(item.trim())));
      return items.every(item => item !== undefined) ? items : undefined;
    },
  };
}

function boundsText(minimum: number, maximum: number): string {
  if (minimum !== -Infinity && maximum !== Infinity) return ` from ${minimum} to ${maximum}`;
  if (minimum !== -Infinity) return `, at least ${minimum}`;
  return maximum === Infinity ? '' : `, at most ${maximum}`;
}

function variableName(prefix: string, name: string): string {
  return prefix + name.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase();
}

function escapeCell(cell: string): string {
  return cell.replaceAll('|', '\\|');
}
