/** What processes have cost, from the scheduler's own accounts: proc_pid_schedstat(5). */
import { readFileSync, readdirSync } from 'node:fs';

export interface ProcessCost {
  /** CPU time of all threads that still run. */
  cpuNs: number;
  /** Times a thread was given a CPU: each is a context switch. */
  switches: number;
}

/** Of a process with all its threads. Throws when there is none. */
export function processCost(pid: number): ProcessCost {
  const cost = { cpuNs: 0, switches: 0 };
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const [cpuNs = 0, , switches = 0] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ').map(Number);
    cost.cpuNs += cpuNs;
    cost.switches += switches;
  }
  return cost;
}

export function costSince(pid: number, before: ProcessCost): ProcessCost {
  const now = processCost(pid);
  return { cpuNs: now.cpuNs - before.cpuNs, switches: now.switches - before.switches };
}
