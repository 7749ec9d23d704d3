import { destination, pino, stdTimeFunctions, type Logger, type LevelWithSilent } from 'pino';

export type { Logger } from 'pino';

/** Levels a service accepts in TIDEGATE_LOG_LEVEL. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const satisfies readonly LevelWithSilent[];
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Fields whose values never reach a log, at the top and one level down. */
const REDACTED_FIELDS = ['password', 'pass', 'token', 'secret', 'credentials', 'creds', 'authorization', 'cookie', 'nkeySeed'];

export interface LoggerOptions {
  /** Component, as in the name of the service's folder. */
  name: string;
  level?: LogLevel;
}

/**
 * A pino logger writing JSON lines to standard error, so that standard output stays free for a command's own output.
 * Write constant messages and put data into fields; errors go into `err`.
 */
export function createLogger({ name, level = 'info' }: LoggerOptions): Logger {
  return pino(
    {
      name,
      level,
      timestamp: stdTimeFunctions.isoTime,
      redact: { paths: [...REDACTED_FIELDS, ...REDACTED_FIELDS.map(field => `*.${field}`)], censor: '[redacted]' },
    },
    // Synchronous: a line written just before the process dies is the one that explains why.
    destination({ fd: 2, sync: true }),
  );
}
