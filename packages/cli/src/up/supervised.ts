/** One process that is started again whenever it ends. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Guardian } from './guardian.ts';

const BACK_OFF = { minMs: 100, maxMs: 30_000, stableMs: 60_000 } as const;

/** A process that runs. */
export interface RunningProcess {
  readonly pid: number;
  /** Resolves when it has ended, to how: `ended with status 1`. */
  readonly ended: Promise<string>;
  /** Ends it in order, by force when it takes too long. */
  stop(): Promise<void>;
  /** SIGKILL. */
  kill(): void;
}

export interface Supervised {
  readonly name: string;
  /** undefined: it does not run just now. */
  readonly pid: number | undefined;
  /** May be called twice. It is not started again. */
  stop(): Promise<void>;
  /** SIGKILL, for a second Ctrl-C. */
  kill(): void;
}

export interface SupervisedOptions {
  name: string;
  /** Rejects when it cannot be started: that counts as an end. */
  launch(): Promise<RunningProcess>;
  guardian: Guardian;
  /** It ended without being asked to. */
  onEnd(how: string, restartMs: number): void;
}

/** Starts it, and resolves once it runs. The first start's failure rejects; later ones are tried again. */
export async function supervise({ name, launch, guardian, onEnd }: SupervisedOptions): Promise<Supervised> {
  const stopping = new AbortController();
  let running: RunningProcess | undefined = await launched();
  let backOffMs: number = BACK_OFF.minMs;

  async function launched(): Promise<RunningProcess> {
    const started = await launch();
    guardian.watch(started.pid);
    return started;
  }

  async function keepUp(): Promise<void> {
    for (;;) {
      let how: string;
      const startedAtMs = performance.now();
      try {
        running ??= await launched();
        const { pid, ended } = running;
        if (stopping.signal.aborted) await running.stop();
        how = await ended;
        guardian.unwatch(pid);
      } catch (error) {
        how = `could not be started: ${error instanceof Error ? error.message : String(error)}`;
      }
      running = undefined;
      if (stopping.signal.aborted) return;
      if (performance.now() - startedAtMs >= BACK_OFF.stableMs) backOffMs = BACK_OFF.minMs;
      onEnd(how, backOffMs);
      await delay(backOffMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      if (stopping.signal.aborted) return;
      backOffMs = Math.min(backOffMs * 2, BACK_OFF.maxMs);
    }
  }

  const done = keepUp();
  return {
    name,
    get pid() {
      return running?.pid;
    },
    async stop() {
      stopping.abort();
      await running?.stop();
      await done;
    },
    kill: () => running?.kill(),
  };
}
