import { TidegateError } from './errors.ts';
import { createLogger, LOG_LEVELS, type Logger, type LogLevel } from './logging.ts';
import { leaveStartBehind } from './memory.ts';

/** Something that owns resources: `close` stops intake, drains, flushes and releases, and may be called twice. */
export interface Closable {
  close(): Promise<void>;
}

export interface ServiceContext {
  readonly logger: Logger;
  readonly env: NodeJS.ProcessEnv;
  /** Aborted when the service is asked to stop, also while it still starts. */
  readonly signal: AbortSignal;
}

/** Longest a service may take to close; Kubernetes kills after 30 s. */
const CLOSE_TIMEOUT_MS = 25_000;

/**
 * Runs a service as this process's whole purpose: calls `start`, then waits for SIGTERM, SIGINT or SIGHUP, closes what `start` returned and exits 0.
 * A second signal exits at once. A failed start, an unhandled error or a close that takes longer than 25 s is logged and exits 1.
 */
export async function runService(name: string, start: (context: ServiceContext) => Promise<Closable>): Promise<void> {
  const logger = createLogger({ name, level: levelFrom(process.env) });
  const stop = new AbortController();
  let service: Closable | undefined;
  let closing: Promise<void> | undefined;

  const closeAndExit = async (exitCode: number) => {
    const timer = setTimeout(() => {
      logger.fatal(
        { err: new TidegateError('SHUTDOWN_TIMEOUT', 'close took too long', { expected: `${CLOSE_TIMEOUT_MS} ms at most` }) },
        'gave up closing',
      );
      process.exit(1);
    }, CLOSE_TIMEOUT_MS);
    try {
      await service?.close();
      logger.info('stopped');
    } catch (error) {
      logger.error({ err: error }, 'close failed');
      exitCode = 1;
    }
    clearTimeout(timer);
    process.exit(exitCode);
  };
  const onSignal = (signalName: NodeJS.Signals) => {
    if (stop.signal.aborted) {
      logger.warn({ signal: signalName }, 'second signal: exiting at once');
      process.exit(1);
    }
    logger.info({ signal: signalName }, 'stopping');
    stop.abort();
    // While `start` still runs, it sees the aborted signal and what comes after it closes.
    if (service) closing ??= closeAndExit(0);
  };
  const onFailure = (error: unknown) => {
    logger.fatal({ err: error }, 'unhandled error');
    closing ??= closeAndExit(1);
  };
  for (const signalName of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signalName, onSignal);
  process.on('uncaughtException', onFailure);
  process.on('unhandledRejection', onFailure);

  try {
    service = await start({ logger, env: process.env, signal: stop.signal });
  } catch (error) {
    if (stop.signal.aborted) {
      logger.info('stopped while starting');
      process.exit(0);
    }
    if (error instanceof TidegateError) logger.fatal({ code: error.code }, error.message);
    else logger.fatal({ err: error }, 'start failed');
    process.exit(1);
  }
  if (stop.signal.aborted) closing ??= closeAndExit(0);
  else leaveStartBehind();
  await closing;
}

/** The logger must exist before the configuration is checked, so that it can log its faults. */
function levelFrom(env: NodeJS.ProcessEnv): LogLevel {
  return LOG_LEVELS.find(level => level === env.TIDEGATE_LOG_LEVEL) ?? 'info';
}
