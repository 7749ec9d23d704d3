/** Starts a program as a supervised process and hands its output on line by line. */
import { spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import type { RunningProcess } from './supervised.ts';

/** Longer lines are cut into lines. */
const MAX_LINE_CHARS = 64 * 1024;

export interface ProgramOptions {
  command: string;
  args: readonly string[];
  env: NodeJS.ProcessEnv;
  /** After SIGTERM; then SIGKILL. Services give themselves 25 s. */
  stopTimeoutMs: number;
  onLine(line: string): void;
}

export async function startProgram({ command, args, env, stopTimeoutMs, onLine }: ProgramOptions): Promise<RunningProcess> {
  // A process group of its own: Ctrl-C reaches the supervisor alone, which ends the services in order.
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  const ended = new Promise<string>(resolve => {
    child.once('close', (code, signal) => resolve(signal === null ? `ended with status ${code}` : `was ended by ${signal}`));
  });
  for (const stream of [child.stdout, child.stderr]) forwardLines(stream, onLine);
  await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject));
  return {
    pid: child.pid!,
    ended,
    async stop() {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), stopTimeoutMs);
      await ended;
      clearTimeout(timer);
    },
    kill: () => void child.kill('SIGKILL'),
  };
}

function forwardLines(stream: Readable, onLine: (line: string) => void): void {
  const decoder = new StringDecoder('utf8');
  let rest = '';
  stream.on('data', (chunk: Buffer) => {
    const lines = (rest + decoder.write(chunk)).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) onLine(line);
    if (rest.length > MAX_LINE_CHARS) {
      onLine(rest);
      rest = '';
    }
  });
  stream.on('end', () => {
    if (rest !== '') onLine(rest);
  });
}
