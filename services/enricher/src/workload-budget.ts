/** Bounds the subjects of EVENTS: so many workloads of a namespace have their own in a day, the rest share one. */
import { MORE_WORKLOADS } from '@tidegate/contracts';

const DAY_MS = 24 * 3_600_000;

export class WorkloadBudget {
  readonly #perNamespace: number;
  /** By namespace token, then workload token: when it was last asked for. */
  readonly #namespaces = new Map<string, Map<string, number>>();
  /** Answers that were the shared token. */
  folded = 0;

  /** @param perNamespace workloads, at least 1 */
  constructor(perNamespace: number) {
    this.#perNamespace = perNamespace;
  }

  /** `<namespace>.<workload>` for both tokens, or the namespace's shared place. */
  place(namespace: string, workload: string, nowMs = performance.now()): string {
    let workloads = this.#namespaces.get(namespace);
    if (!workloads) this.#namespaces.set(namespace, (workloads = new Map<string, number>()));
    if (workloads.size >= this.#perNamespace && !workloads.has(workload)) {
      // In the order in which they were last asked for.
      for (const [token, askedMs] of workloads) {
        if (nowMs - askedMs < DAY_MS) break;
        workloads.delete(token);
      }
      if (workloads.size >= this.#perNamespace) {
        this.folded++;
        return `${namespace}.${MORE_WORKLOADS}`;
      }
    }
    workloads.delete(workload);
    workloads.set(workload, nowMs);
    return `${namespace}.${workload}`;
  }
}
