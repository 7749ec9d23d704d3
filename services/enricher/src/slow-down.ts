/**
 * Asks the sensors for fewer and larger messages while this enricher does not keep up. What a message costs hardly depends on how many events it holds: the same two
 * cores that carry a hundred nodes whose batches wait 100 ms carry several hundred whose batches wait for seconds, and events that come some seconds late are better than a
 * backlog that grows until RAW discards it.
 */
import { MAX_PACE_LEASE_MS, MAX_SLOW_LINGER_MS, paceLeaseCodec, paceSubject, tokenName } from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from '@tidegate/runtime';

export interface SlowDownOptions {
  nc: NatsConnection;
  logger: Logger;
  /** Nodes that this enricher has, as subject tokens. */
  nodes: () => Iterable<string>;
  /** How long it has to keep up before it asks for less; default 30 s. */
  lowerAfterMs?: number;
}

/** Seconds of work that wait, at the rate of now. */
const BEHIND_SECONDS = { raise: 2, lower: 0.5 } as const;
/** Twice what sensors wait by default. */
const FIRST_LINGER_MS = 200;
const LOWER_AFTER_MS = 30_000;
const RENEW_MS = 0.8 * MAX_PACE_LEASE_MS;

export class SlowDown {
  readonly #options: SlowDownOptions;
  #lingerMs = 0;
  #sentAtMs = -Infinity;
  #keepsUpSinceMs = 0;
  #waitingBefore = 0;

  constructor(options: SlowDownOptions) {
    this.#options = options;
  }

  /** What sensors are asked for; 0: nothing. */
  get lingerMs(): number {
    return this.#lingerMs;
  }

  /**
   * To be called every second or so.
   * @param waiting batches that wait on RAW
   * @param perSecond batches that were read in a second of late
   */
  look(waiting: number, perSecond: number): void {
    const { lowerAfterMs = LOWER_AFTER_MS } = this.#options;
    const nowMs = performance.now();
    const behindSeconds = waiting / perSecond;
    const grows = waiting > this.#waitingBefore;
    this.#waitingBefore = waiting;
    if (!(behindSeconds <= BEHIND_SECONDS.lower)) this.#keepsUpSinceMs = nowMs;
    if (perSecond > 0 && behindSeconds > BEHIND_SECONDS.raise && grows)
      this.#ask(Math.min(Math.max(FIRST_LINGER_MS, 2 * this.#lingerMs), MAX_SLOW_LINGER_MS));
    else if (this.#lingerMs > 0 && nowMs - this.#keepsUpSinceMs > lowerAfterMs) {
      this.#keepsUpSinceMs = nowMs;
      this.#ask(this.#lingerMs > FIRST_LINGER_MS ? Math.floor(this.#lingerMs / 2) : 0);
    }
    if (this.#lingerMs > 0 && nowMs - this.#sentAtMs > RENEW_MS) this.#send(nowMs);
  }

  #ask(lingerMs: number): void {
    if (lingerMs === this.#lingerMs) return;
    this.#options.logger.info(
      { lingerMs, before: this.#lingerMs },
      lingerMs > this.#lingerMs ? 'behind: sensors are asked for larger batches' : 'sensors may send smaller batches again',
    );
    this.#lingerMs = lingerMs;
    this.#sentAtMs = -Infinity;
  }

  #send(nowMs: number): void {
    this.#sentAtMs = nowMs;
    const lease = paceLeaseCodec.encode({ lingerMs: this.#lingerMs, forMs: MAX_PACE_LEASE_MS, isBehind: true });
    for (const node of this.#options.nodes()) this.#options.nc.publish(paceSubject(tokenName(node)), lease);
  }
}
