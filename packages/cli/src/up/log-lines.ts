/** Log lines of several processes in one place: for people, or as JSON with the process's name. */
import { printable } from '@tidegate/contracts';
import type { Paint } from '../event-line.ts';

const LEVELS: readonly (readonly [number, string])[] = [
  [10, 'trace'],
  [20, 'debug'],
  [30, 'info'],
  [40, 'warn'],
  [50, 'error'],
  [60, 'fatal'],
];
const NAME_WIDTH = 9;
const LEVEL_WIDTH = 5;
/** Fields that every line has, and that the process's name says already. */
const COMMON_FIELDS: ReadonlySet<string> = new Set(['level', 'time', 'pid', 'hostname', 'name', 'msg', 'err']);
/** Of a field's value so much is shown. */
const MAX_VALUE_CHARS = 200;

export const LOG_FORMATS = ['text', 'json'] as const;
export type LogFormat = (typeof LOG_FORMATS)[number];

/** Formats a line that a process wrote: a pino line, or anything else. */
export function formatLogLine(name: string, line: string, format: LogFormat, paint: Paint): string {
  const record = parseRecord(line);
  if (format === 'json') return JSON.stringify({ process: name, ...(record ?? { time: new Date().toISOString(), msg: line }) });
  const time = typeof record?.['time'] === 'string' ? new Date(record['time']) : new Date();
  const prefix = `${paint('gray', clock(time))} ${paint('cyan', name.padEnd(NAME_WIDTH))}`;
  if (!record) return `${prefix} ${printable(line)}`;
  const level = LEVELS.findLast(([number]) => number <= Number(record['level']))?.[1] ?? 'info';
  const levelText = level.padEnd(LEVEL_WIDTH);
  const style = level === 'warn' ? 'yellow' : level === 'error' || level === 'fatal' ? 'red' : 'gray';
  const fields = Object.entries(record)
    .filter(([field]) => !COMMON_FIELDS.has(field))
    .map(([field, value]) => `${field}=${printable(typeof value === 'string' ? value : JSON.stringify(value)).slice(0, MAX_VALUE_CHARS)}`);
  return [
    prefix,
    paint(style, levelText),
    printableLines(String(record['msg'] ?? '')),
    paint('gray', [...fields, ...errorText(record['err'])].join(' ')),
  ]
    .join(' ')
    .trimEnd();
}

function parseRecord(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function errorText(err: unknown): string[] {
  if (typeof err !== 'object' || err === null) return [];
  const { message, code } = err as { message?: unknown; code?: unknown };
  return [`${printable(String(message ?? 'error'))}${code === undefined ? '' : ` [${printable(String(code))}]`}`];
}

/** Messages that list faults have lines. */
function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n    ');
}

function clock(time: Date): string {
  const two = (value: number) => String(value).padStart(2, '0');
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${String(time.getMilliseconds()).padStart(3, '0')}`;
}
