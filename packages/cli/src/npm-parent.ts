/**
 * npm hands SIGINT and SIGTERM on to the shell that it runs a command with; the shell dies of them and the command never hears. Of SIGHUP and SIGKILL
 * npm itself dies. So a command that npm runs looks whether those above it are still there.
 */
import { processStat } from './process-stat.ts';

const POLL_MS = 250;

/** Calls `onEnd` once when npm, or the shell between, has ended. Does nothing outside npm, and keeps no process alive. */
export function watchNpm(env: NodeJS.ProcessEnv, onEnd: () => void): void {
  if (env.npm_lifecycle_event === undefined) return;
  const chain = parents();
  const timer = setInterval(() => {
    if (parents() === chain) return;
    clearInterval(timer);
    onEnd();
  }, POLL_MS);
  timer.unref();
}

/** This process's parent, and that one's unless it is npm already. */
function parents(): string {
  const parent = processStat(process.ppid);
  return `${process.ppid} ${parent === undefined || /^(npm|node|MainThread)/.test(parent.name) ? '' : parent.parentPid}`;
}
