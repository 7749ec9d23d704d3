/** Bounds the bytes of RAW that are in memory and not stored yet, over all nodes together. */
export class FlowBudget {
  readonly #maxBytes: number;
  #usedBytes = 0;
  #waiting: (() => void)[] = [];

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  take(bytes: number): void {
    this.#usedBytes += bytes;
  }

  give(bytes: number): void {
    this.#usedBytes -= bytes;
    if (this.#usedBytes < this.#maxBytes && this.#waiting.length > 0) for (const wake of this.#waiting.splice(0)) wake();
  }

  /** Resolves when less than the most is in use. */
  async room(): Promise<void> {
    while (this.#usedBytes >= this.#maxBytes) await new Promise<void>(resolve => this.#waiting.push(resolve));
  }
}
