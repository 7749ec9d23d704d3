/** Asks sensors not to let batches wait while somebody follows live: packages/contracts/src/pace.ts. */
import { LIVE_LINGER_MS, MAX_PACE_LEASE_MS, paceLeaseCodec, paceSubject } from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from '@tidegate/runtime';

export interface Paces {
  /**
   * Holds a lease until it is released.
   * @param nodes those that the follower's filter lets through; undefined: every node
   */
  hold(nodes: readonly string[] | undefined): { release(): void };
  close(): void;
}

/** Two renewals may be lost before a lease ends. */
const RENEW_MS = MAX_PACE_LEASE_MS / 3;
/** A filter of more nodes is taken as one of all. */
const MAX_NODES = 64;

export function createPaces(nc: NatsConnection, logger: Logger): Paces {
  const lease = paceLeaseCodec.encode({ lingerMs: LIVE_LINGER_MS, forMs: MAX_PACE_LEASE_MS });
  /** By subject, how many hold it. */
  const held = new Map<string, number>();
  let timer: NodeJS.Timeout | undefined;

  function ask(subject: string): void {
    try {
      nc.publish(subject, lease);
    } catch (error) {
      logger.debug({ err: error, subject }, 'could not ask for a pace');
    }
  }

  return {
    hold(nodes) {
      const subjects = nodes && nodes.length <= MAX_NODES ? [...new Set(nodes.map(node => paceSubject(node)))] : [paceSubject()];
      for (const subject of subjects) {
        const holders = held.get(subject) ?? 0;
        held.set(subject, holders + 1);
        if (holders === 0) ask(subject);
      }
      timer ??= setInterval(() => {
        for (const subject of held.keys()) ask(subject);
      }, RENEW_MS).unref();
      return {
        release() {
          for (const subject of subjects.splice(0)) {
            const holders = held.get(subject)! - 1;
            if (holders > 0) held.set(subject, holders);
            else held.delete(subject);
          }
          if (held.size > 0) return;
          clearInterval(timer);
          timer = undefined;
        },
      };
    },
    close() {
      clearInterval(timer);
      held.clear();
    },
  };
}
