import { closeSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Logger } from '@tidegate/runtime';

/** A file that holds one number: the highest that RAW is known to have. */
export interface SequenceFile {
  readonly sequence: number;
  advance(sequence: number): void;
  /** RAW has lost what is above. */
  setBack(sequence: number): void;
  close(): void;
}

/** Always as wide: written over in place, it needs no room on a full disk. */
const DIGITS = 16;

export function openSequenceFile(path: string, logger: Logger): SequenceFile {
  mkdirSync(dirname(path), { recursive: true });
  closeSync(openSync(path, 'a'));
  let sequence = Number(readFileSync(path, 'utf8').trim()) || 0;
  const fd = openSync(path, 'r+');
  let isBroken = false;
  const write = () => {
    try {
      writeSync(fd, `${String(sequence).padStart(DIGITS, '0')}\n`, 0);
      isBroken = false;
    } catch (error) {
      // Only a start with RAW out of reach needs it.
      if (!isBroken) logger.warn({ err: error, path }, 'cannot note what NATS has acknowledged');
      isBroken = true;
    }
  };
  write();
  return {
    get sequence() {
      return sequence;
    },
    advance(to) {
      if (to <= sequence) return;
      sequence = to;
      write();
    },
    setBack(to) {
      sequence = to;
      write();
    },
    close: () => closeSync(fd),
  };
}
