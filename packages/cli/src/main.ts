#!/usr/bin/env node
import { styleText } from 'node:util';
import { ExitCode, type CommandContext } from './command.ts';
import { watchNpm } from './npm-parent.ts';
import { runProgram } from './program.ts';

const stop = new AbortController();
const isProgressShown = process.stderr.isTTY;
let hasProgress = false;

const context: CommandContext = {
  env: process.env,
  signal: stop.signal,
  print: line => {
    clearProgress();
    if (process.stdout.write(`${line}\n`)) return Promise.resolve();
    return new Promise(resolve => process.stdout.once('drain', resolve));
  },
  note: line => {
    clearProgress();
    process.stderr.write(`${line}\n`);
  },
  progress: line => {
    if (!isProgressShown) return;
    clearProgress();
    process.stderr.write(line);
    hasProgress = line !== '';
  },
  // Plain when standard output is no terminal, or NO_COLOR is set.
  paint: (style, text) => styleText(style, text, { stream: process.stdout }),
};

// The reader has what it wanted (`| head`): that is a good end.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? ExitCode.ok : ExitCode.failed));
process.stderr.on('error', () => undefined);
/** Within this a repeated signal counts as one. */
const SAME_SIGNAL_MS = 500;
let stoppedAtMs = 0;
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(name, () => {
    // A second one does not wait. One that comes at once is the same Ctrl-C: npm passes on what the terminal has sent to everyone already.
    if (stop.signal.aborted && performance.now() - stoppedAtMs > SAME_SIGNAL_MS) process.exit(ExitCode.failed);
    if (stop.signal.aborted) return;
    stoppedAtMs = performance.now();
    stop.abort();
  });
}
watchNpm(process.env, () => stop.abort());

process.exitCode = await runProgram(process.argv, context);
clearProgress();

function clearProgress(): void {
  if (hasProgress) process.stderr.write('\r\u001b[2K');
  hasProgress = false;
}
