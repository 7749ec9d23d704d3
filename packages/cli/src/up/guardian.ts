/**
 * Ends the supervised processes when the supervisor was killed with SIGKILL and could not do it itself. A shell with almost no memory waits at the end
 * of a pipe; when the pipe breaks, it terminates the processes it was told of. So no service has to know that it is supervised.
 */
import { spawn } from 'node:child_process';

export interface Guardian {
  watch(pid: number): void;
  unwatch(pid: number): void;
  /** Ends the guardian, which then does nothing more. */
  close(): Promise<void>;
}

/** `+ pid` and `- pid` add and remove; `.` ends it. After SIGTERM processes have 10 s. */
const SCRIPT = `
pids=''
while read -r what pid; do
  case $what in
    +) pids="$pids $pid" ;;
    -) rest=''; for each in $pids; do [ "$each" = "$pid" ] || rest="$rest $each"; done; pids=$rest ;;
    .) exit 0 ;;
  esac
done
[ -n "$pids" ] || exit 0
kill -TERM $pids 2>/dev/null
tries=0
while [ $tries -lt 100 ] && kill -0 $pids 2>/dev/null; do sleep 0.1; tries=$((tries + 1)); done
kill -KILL $pids 2>/dev/null
exit 0
`;

export function startGuardian(): Guardian {
  // A session of its own: Ctrl-C and a closed terminal do not reach it.
  const child = spawn('/bin/sh', ['-c', SCRIPT], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()).once('error', () => resolve()));
  // The pipe of a guardian that someone killed.
  child.stdin.on('error', () => undefined);
  return {
    watch: pid => void child.stdin.write(`+ ${pid}\n`),
    unwatch: pid => void child.stdin.write(`- ${pid}\n`),
    close: async () => {
      child.stdin.end('.\n');
      await ended;
    },
  };
}
