import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

const RETRY_MS = 200;

/**
 * Waits until this process is the only one on the machine with the lock `name`. The lock is an abstract Unix socket: the kernel frees it
 * when its holder dies, however it dies, so that there is never a stale one.
 * @throws when another process keeps it for longer than `timeoutMs`
 */
export async function acquireLock(name: string, timeoutMs: number): Promise<() => Promise<void>> {
  const deadlineMs = performance.now() + timeoutMs;
  for (;;) {
    const server = createServer();
    const isMine = await new Promise<boolean>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => (error.code === 'EADDRINUSE' ? resolve(false) : reject(error)));
      server.listen(`\0tidegate-testkit-${name}`, () => resolve(true));
    });
    if (isMine) return () => new Promise(resolve => server.close(() => resolve()));
    if (performance.now() > deadlineMs) throw new Error(`another process has the lock ${name}, waited ${timeoutMs} ms for it`);
    await delay(RETRY_MS);
  }
}
