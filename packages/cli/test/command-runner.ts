/** Runs the built command as a user does. */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { createServer, type Server } from 'node:net';
import { fileURLToPath } from 'node:url';

export const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
/** Below net.ipv4.ip_local_port_range. */
const PORTS = { first: 12_000, end: 20_000 };
export const REPOSITORY = fileURLToPath(new URL('../../..', import.meta.url));

/** Nothing of the environment tests run in may decide what they see. */
export function cleanEnvironment(more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const own = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('TIDEGATE_') && !name.startsWith('KUBE')));
  const { TIDEGATE_NATS_SERVER } = process.env;
  return { ...own, ...(TIDEGATE_NATS_SERVER === undefined ? {} : { TIDEGATE_NATS_SERVER }), ...more };
}

export interface RunningCommand {
  readonly child: ChildProcess;
  stdout(): string;
  stderr(): string;
  /** Its exit status; null when a signal ended it. */
  readonly ended: Promise<number | null>;
}

interface RunOptions {
  env?: NodeJS.ProcessEnv;
  cwd?: string;
}

export function startCommand(args: readonly string[], options: RunOptions = {}): RunningCommand {
  return startProgram(process.execPath, [MAIN, ...args], options);
}

/** Any program, in an environment that decides nothing. */
export function startProgram(program: string, args: readonly string[], options: RunOptions = {}): RunningCommand {
  const child = spawn(program, args, {
    env: cleanEnvironment(options.env),
    cwd: options.cwd,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const ended = new Promise<number | null>(resolve => child.once('close', code => resolve(code)));
  return { child, stdout: () => stdout, stderr: () => stderr, ended };
}

export async function runCommand(args: readonly string[], options: RunOptions = {}) {
  const command = startCommand(args, options);
  const code = await command.ended;
  return { code, stdout: command.stdout(), stderr: command.stderr() };
}

/**
 * The first of `count` neighbouring ports that are free. They lie below those that the kernel gives to connections and to listeners on port 0,
 * which whatever runs beside the test would take before it can.
 */
export async function freePorts(count: number): Promise<number> {
  for (;;) {
    const first = randomInt(PORTS.first, PORTS.end - count);
    const servers: Server[] = [];
    try {
      for (let i = 0; i < count; i++) servers.push(await listen(first + i));
      return first;
    } catch {
      // One of them is taken.
    } finally {
      await Promise.all(servers.map(server => new Promise(resolve => server.close(resolve))));
    }
  }
}

function listen(port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => resolve(server));
  });
}
