import { readFileSync } from 'node:fs';

export interface ProcessStat {
  name: string;
  parentPid: number;
  /** As the kernel counts it: a pid alone may be another process's by now. */
  startTime: string;
}

/** Of proc_pid_stat(5); undefined: there is no such process, or no /proc. */
export function processStat(pid: number): ProcessStat | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name stands in parentheses and may hold blanks and parentheses itself.
    const nameEnd = stat.lastIndexOf(')');
    const fields = stat.slice(nameEnd + 2).split(' ');
    return { name: stat.slice(stat.indexOf('(') + 1, nameEnd), parentPid: Number(fields[1]), startTime: fields[19] ?? '' };
  } catch {
    return undefined;
  }
}
