/** What one request may read of a stream: it then answers with what it has, instead of running into a timeout. */
import type { EventMessage } from './event-message.ts';

export const WORK_BUDGET = { bytes: 64 * 1024 ** 2, timeMs: 2_000, messages: 50_000 } as const;

export class WorkMeter {
  readonly #deadlineMs: number;
  readonly #maxBytes: number;
  readonly #maxMessages: number;
  #bytes = 0;
  #messages = 0;

  /** @param share of the whole budget */
  constructor(share = 1) {
    this.#deadlineMs = performance.now() + WORK_BUDGET.timeMs * share;
    this.#maxBytes = WORK_BUDGET.bytes * share;
    this.#maxMessages = WORK_BUDGET.messages * share;
  }

  count(message: EventMessage): void {
    this.#bytes += message.size;
    this.#messages++;
  }

  get isSpent(): boolean {
    return this.#bytes >= this.#maxBytes || this.#messages >= this.#maxMessages || performance.now() >= this.#deadlineMs;
  }
}
