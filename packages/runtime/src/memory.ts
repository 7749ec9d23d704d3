import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** By then a service has connected and read what it begins with. */
const START_MS = 5_000;

/**
 * Gives back, a few seconds from now, what only the start of this process needed: 6 to 14 MB of source text, compiled once-only code and room that the heap
 * grew by. A process that then has little to do would keep them for hours, because V8 collects as memory is asked for.
 */
export function leaveStartBehind(): void {
  setTimeout(() => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    setFlagsFromString('--no-expose-gc');
    collect();
  }, START_MS).unref();
}
