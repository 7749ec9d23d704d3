/**
 * Ends the supervised processes when the supervisor was killed with SIGKILL and could not do it itself. A shell with almost no memory waits at the end
 * of a pipe; when the pipe breaks, it terminates the processes it was told of. So no service has to know that it is supervised. A guardian that
 * someone killed is followed by another.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import type { Writable } from 'node:stream';

export interface Guardian {
  watch(pid: number): void;
  unwatch(pid: number): void;
  /** Ends the guardian, which then does nothing more. */
  close(): Promise<void>;
}

/** `+ pid` and `- pid` add and remove; `.` ends it. After SIGTERM processes have 10 s. */
const SCRIPT = `
trap '' HUP INT TERM
pids=''
while read -r what pid; do
  case $what in
    +) pids="$pids $pid" ;;
    -) rest=''; for each in $pids; do [ "$each" = "$pid" ] || rest="$rest $each"; done; pids=$rest ;;
    .) exit 0 ;;
  esac
done
[ -n "$pids" ] || exit 0
some_live() {
  rest=''; for each in $pids; do kill -0 "$each" 2>/dev/null && rest="$rest $each"; done; pids=$rest
  [ -n "$pids" ]
}
kill -TERM $pids 2>/dev/null
tries=0
while some_live && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
[ -z "$pids" ] || kill -KILL $pids 2>/dev/null
exit 0
`;
/** Where no shell can be started, trying at once again would be all that this process does. */
const RESTART_MS = 100;

export function startGuardian(): Guardian {
  const pids = new Set<number>();
  let child: ChildProcessByStdio<Writable, null, null>;
  let ended: Promise<void>;
  let isClosed = false;
  let restart: NodeJS.Timeout | undefined;

  function start(): void {
    // A session of its own: Ctrl-C and a closed terminal do not reach it.
    child = spawn('/bin/sh', ['-c', SCRIPT], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
    ended = new Promise<void>(resolve => child.once('exit', () => resolve()).once('error', () => resolve()));
    // The pipe of a guardian that someone killed.
    child.stdin.on('error', () => undefined);
    for (const pid of pids) child.stdin.write(`+ ${pid}\n`);
    void ended.then(() => {
      if (!isClosed) restart = setTimeout(start, RESTART_MS);
    });
  }

  start();
  return {
    watch(pid) {
      pids.add(pid);
      child.stdin.write(`+ ${pid}\n`);
    },
    unwatch(pid) {
      pids.delete(pid);
      child.stdin.write(`- ${pid}\n`);
    },
    async close() {
      isClosed = true;
      clearTimeout(restart);
      child.stdin.end('.\n');
      await ended;
    },
  };
}
