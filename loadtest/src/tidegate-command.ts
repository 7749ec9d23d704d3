/** The `tidegate` command of this checkout, as a process. */
import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';

export const COMMAND = join(import.meta.dirname, '..', '..', 'packages', 'cli', 'dist', 'main.js');
const OUTPUT_KEPT_BYTES = 16 * 1024;

export interface CommandResult {
  /** -1: a signal ended it. */
  code: number;
  /** The end of what it said, on both outputs. */
  output: string;
}

/**
 * @param options.launcher makes the command behind it run elsewhere, as nsenter does
 * @param options.keptBytes of what it says
 */
export function runTidegate(
  args: readonly string[],
  { env, launcher = [], keptBytes = OUTPUT_KEPT_BYTES }: { env: NodeJS.ProcessEnv; launcher?: readonly string[]; keptBytes?: number },
): Promise<CommandResult> {
  const [program, ...rest] = [...launcher, process.execPath, COMMAND, ...args];
  const child = spawn(program!, rest, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  const output = keepOutput(child, keptBytes);
  return new Promise(resolve => child.once('close', code => resolve({ code: code ?? -1, output: output() })));
}

/** The end of what a child says on its piped outputs. */
export function keepOutput(child: ChildProcess, keptBytes = OUTPUT_KEPT_BYTES): () => string {
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (chunk: string) => {
      text = (text + chunk).slice(-keptBytes);
    });
  }
  return () => text;
}
