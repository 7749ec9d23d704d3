import { Type, type Static, type TObject, type TProperties, type TSchema } from 'typebox';
import { Value } from 'typebox/value';
import { TidegateError } from './errors.ts';
import { LOG_LEVELS } from './logging.ts';

/**
 * Settings come from the environment alone. A schema is a typebox object with one property for each setting, named with its unit
 * (`lingerMs`); the variable is prefix plus the name in capitals (TIDEGATE_LINGER_MS). Each needs a `description`; it has a `default`, or
 * is required, or is `Type.Optional`. `secret: true` keeps a value out of messages. Values are strings, integers, numbers, booleans, unions of
 * literals, and arrays of these, written with commas.
 */
export type ConfigSchema = TObject<TProperties>;

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

const DEFAULT_PREFIX = 'TIDEGATE_';

/** Settings every service has; spread into the service's own properties. */
export const COMMON_SETTINGS = {
  natsUrl: Type.String({ default: 'nats://127.0.0.1:4222', description: 'Where NATS is; several addresses with commas.' }),
  natsUser: Type.Optional(Type.String({ description: 'NATS user.' })),
  natsPassword: Type.Optional(Type.String({ secret: true, description: "The NATS user's password." })),
  natsCredentialsFile: Type.Optional(
    Type.String({ description: 'File with NATS credentials (JWT and seed), instead of user and password.' }),
  ),
  logLevel: Type.Union(
    LOG_LEVELS.map(level => Type.Literal(level)),
    { default: 'info', description: 'Least level that is logged.' },
  ),
  healthHost: Type.String({ default: '127.0.0.1', description: 'Address on which /healthz, /readyz and /metrics are served.' }),
} as const;

/** Reads and checks all settings of `schema`. Throws CONFIG_INVALID listing every fault at once. */
export function loadConfig<Schema extends ConfigSchema>(
  schema: Schema,
  env: NodeJS.ProcessEnv = process.env,
  { prefix = DEFAULT_PREFIX }: LoadConfigOptions = {},
): Static<Schema> {
  const values: Record<string, unknown> = {};
  const faults: string[] = [];
  for (const [name, setting] of Object.entries<TSchema>(schema.properties)) {
    const variable = variableName(prefix, name);
    const text = env[variable];
    if (text === undefined || text === '') {
      if (hasDefault(setting)) values[name] = setting.default;
      else if (isRequired(schema, name))
        faults.push(`${variable}: expected ${expectation(setting)}, got nothing (${description(setting)})`);
      continue;
    }
    const value = parseValue(setting, text);
    if (value === undefined || !Value.Check(setting, value)) {
      faults.push(
        `${variable}: expected ${expectation(setting)}, got ${isSecret(setting) ? 'a value that is not shown' : JSON.stringify(text)}`,
      );
    } else {
      values[name] = value;
    }
  }
  if (faults.length > 0) throw new TidegateError('CONFIG_INVALID', `${faults.length} setting(s) are wrong:\n  ${faults.join('\n  ')}`);
  return values as Static<Schema>;
}

/** Rows of the configuration table, in the schema's order. */
export function describeConfig(schema: ConfigSchema, { prefix = DEFAULT_PREFIX }: LoadConfigOptions = {}): ConfigRow[] {
  return Object.entries<TSchema>(schema.properties).map(([name, setting]) => ({
    variable: variableName(prefix, name),
    default: hasDefault(setting) ? String(setting.default) : undefined,
    required: isRequired(schema, name) && !hasDefault(setting),
    expected: expectation(setting),
    description: description(setting),
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

function variableName(prefix: string, name: string): string {
  return prefix + name.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase();
}

/** undefined: not a value of this type. */
function parseValue(setting: TSchema, text: string): unknown {
  if ('items' in setting) return text.split(',').map(item => parseValue(setting.items as TSchema, item.trim()));
  switch (typeName(setting)) {
    case 'integer':
    case 'number': {
      const value = Number(text);
      return text.trim() === '' || Number.isNaN(value) ? undefined : value;
    }
    case 'boolean':
      return text === 'true' || text === '1' ? true : text === 'false' || text === '0' ? false : undefined;
    default:
      return text;
  }
}

function expectation(setting: TSchema): string {
  if ('anyOf' in setting)
    return `one of ${(setting.anyOf as TSchema[]).map(option => String((option as { const?: unknown }).const)).join(', ')}`;
  if ('items' in setting) return `a list with commas, each ${expectation(setting.items as TSchema)}`;
  const { minimum, maximum, pattern, minLength } = setting as { minimum?: number; maximum?: number; pattern?: string; minLength?: number };
  const type = typeName(setting);
  switch (type) {
    case 'integer':
    case 'number': {
      const article = type === 'integer' ? 'an integer' : 'a number';
      if (minimum !== undefined && maximum !== undefined) return `${article} from ${minimum} to ${maximum}`;
      if (minimum !== undefined) return `${article}, at least ${minimum}`;
      return maximum === undefined ? article : `${article}, at most ${maximum}`;
    }
    case 'boolean':
      return 'true or false';
    default:
      if (pattern !== undefined) return `text matching ${pattern}`;
      return minLength === undefined ? 'text' : `text of at least ${minLength} character(s)`;
  }
}

function typeName(setting: TSchema): string {
  const { type } = setting as { type?: unknown };
  return typeof type === 'string' ? type : 'string';
}

function hasDefault(setting: TSchema): setting is TSchema & { default: unknown } {
  return 'default' in setting;
}

function isRequired(schema: ConfigSchema, name: string): boolean {
  const { required = [] } = schema as { required?: readonly string[] };
  return required.includes(name);
}

function isSecret(setting: TSchema): boolean {
  return (setting as { secret?: boolean }).secret === true;
}

function description(setting: TSchema): string {
  return (setting as { description?: string }).description ?? '';
}

function escapeCell(text: string): string {
  return text.replaceAll('|', '\\|');
}
