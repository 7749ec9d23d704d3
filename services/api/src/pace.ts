/** Asks sensors not to let batches wait while somebody follows live: packages/contracts/src/pace.ts. */
import { BUCKETS, followedLingerMs, keysDecoder, MAX_PACE_LEASE_MS, paceLeaseCodec, paceSubject } from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Buckets, Logger } from '@tidegate/runtime';

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
const ALL_NODES = paceSubject();

export function createPaces(nc: NatsConnection, buckets: Buckets, logger: Logger): Paces {
  const sensors = buckets.open(BUCKETS.sensors, keysDecoder);
  /** By subject, how many hold it. */
  const held = new Map<string, number>();
  let timer: NodeJS.Timeout | undefined;

  async function ask(subjects: readonly string[]): Promise<void> {
    try {
      const all = subjects.includes(ALL_NODES) ? (await sensors.snapshot()).size : 0;
      const named = held.size - (held.has(ALL_NODES) ? 1 : 0);
      for (const subject of subjects) {
        const lingerMs = followedLingerMs(subject === ALL_NODES ? all : named);
        if (held.has(subject)) nc.publish(subject, paceLeaseCodec.encode({ lingerMs, forMs: MAX_PACE_LEASE_MS }));
      }
    } catch (error) {
      logger.debug({ err: error, subjects }, 'could not ask for a pace');
    }
  }

  return {
    hold(nodes) {
      const subjects = nodes && nodes.length <= MAX_NODES ? [...new Set(nodes.map(node => paceSubject(node)))] : [ALL_NODES];
      const added = subjects.filter(subject => !held.has(subject));
      for (const subject of subjects) held.set(subject, (held.get(subject) ?? 0) + 1);
      void ask(added);
      timer ??= setInterval(() => void ask([...held.keys()]), RENEW_MS).unref();
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
