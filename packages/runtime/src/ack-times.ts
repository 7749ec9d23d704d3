/**
 * How long a stream takes to store a message. Two spans of sums, turned over by whoever adds or asks: no timer and nothing allocated for a message, and a
 * publisher that falls silent forgets what was.
 */
export const ACK_SPAN_MS = 10_000;

export class AckTimes {
  #spanStartMs = -Infinity;
  #sumMs = 0;
  #count = 0;
  #previousSumMs = 0;
  #previousCount = 0;

  add(sentAtMs: number, nowMs: number): void {
    this.#turn(nowMs);
    this.#sumMs += nowMs - sentAtMs;
    this.#count++;
  }

  /** undefined: nothing was added in this span and the one before. */
  meanMs(nowMs: number): number | undefined {
    this.#turn(nowMs);
    const count = this.#count + this.#previousCount;
    return count === 0 ? undefined : (this.#sumMs + this.#previousSumMs) / count;
  }

  #turn(nowMs: number): void {
    const ageMs = nowMs - this.#spanStartMs;
    if (ageMs < ACK_SPAN_MS) return;
    const isPrevious = ageMs < 2 * ACK_SPAN_MS;
    this.#previousSumMs = isPrevious ? this.#sumMs : 0;
    this.#previousCount = isPrevious ? this.#count : 0;
    this.#sumMs = 0;
    this.#count = 0;
    this.#spanStartMs = nowMs;
  }
}
