import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { TidegateError } from '@tidegate/runtime';

const POLL_MS = 100;

export interface NeededPort {
  port: number;
  /** What listens there, and how to choose another. */
  use: string;
}

/**
 * @param patienceMs how long to wait for ports to become free: processes of a supervisor that was killed need a moment to end
 * @throws {TidegateError} PORT_TAKEN listing all that are taken
 */
export async function requirePorts(ports: readonly NeededPort[], patienceMs: number): Promise<void> {
  const deadlineMs = performance.now() + patienceMs;
  for (;;) {
    const free = await Promise.all(ports.map(({ port }) => isFree(port)));
    const taken = ports.filter((_, i) => !free[i]);
    if (taken.length === 0) return;
    if (performance.now() >= deadlineMs) {
      const lines = taken.map(({ port, use }) => `\n  ${port}: ${use}`);
      throw new TidegateError(
        'PORT_TAKEN',
        `another program listens on ${taken.length === 1 ? 'a port' : 'ports'} that Tidegate needs:${lines.join('')}`,
      );
    }
    await delay(POLL_MS);
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)));
  });
}
