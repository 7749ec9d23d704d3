/** How long batches wait: as configured, or less or more while a lease for this node holds. */
import { LIVE_LINGER_MS, MAX_PACE_LEASE_MS, MAX_SLOW_LINGER_MS, paceLeaseCodec, paceSubject } from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from '@tidegate/runtime';

export interface PaceOptions {
  node: string;
  /** Without a lease. */
  lingerMs: number;
  setLinger(milliseconds: number): void;
  logger: Logger;
}

export interface Pace {
  /** A lease holds: somebody follows live. */
  readonly isLive: boolean;
  close(): void;
}

/** Different waits that are granted at one time: an API and a few enrichers ask. */
const MAX_LEASES = 64;

/** Listens for leases, for as long as the connection is open. Where somebody is behind the longest wait counts if it is more than configured, else the shortest. */
export function followPace(nc: NatsConnection, { node, lingerMs, setLinger, logger }: PaceOptions): Pace {
  /** Time until which each wait is granted: at most, and at least. */
  const shorter = new Map<number, number>();
  const longer = new Map<number, number>();
  let currentMs = lingerMs;
  let timer: NodeJS.Timeout | undefined;

  function apply(): void {
    clearTimeout(timer);
    const nowMs = performance.now();
    for (const granted of [shorter, longer]) for (const [linger, untilMs] of granted) if (untilMs <= nowMs) granted.delete(linger);
    const longestMs = Math.max(0, ...longer.keys());
    const wantedMs = longestMs > lingerMs ? longestMs : Math.min(lingerMs, ...shorter.keys());
    if (wantedMs !== currentMs) {
      currentMs = wantedMs;
      setLinger(wantedMs);
    }
    const next = longestMs > lingerMs ? longer.get(wantedMs) : shorter.get(wantedMs);
    if (next !== undefined) timer = setTimeout(apply, next - nowMs).unref();
  }

  const subscriptions = [paceSubject(node), paceSubject()].map(subject =>
    nc.subscribe(subject, {
      callback: (error, message) => {
        if (error) return logger.warn({ err: error, subject }, 'no leases of pace');
        try {
          const lease = paceLeaseCodec.decode(message.data);
          const grantedMs = Math.min(Math.max(lease.lingerMs, LIVE_LINGER_MS), MAX_SLOW_LINGER_MS);
          const granted = lease.isBehind === true ? longer : shorter;
          if (granted.size < MAX_LEASES || granted.has(grantedMs))
            granted.set(grantedMs, performance.now() + Math.min(lease.forMs, MAX_PACE_LEASE_MS));
          apply();
        } catch (cause) {
          logger.debug({ err: cause, subject }, 'malformed lease of pace');
        }
      },
    }),
  );
  return {
    get isLive() {
      return currentMs < lingerMs;
    },
    close() {
      clearTimeout(timer);
      for (const subscription of subscriptions) subscription.unsubscribe();
    },
  };
}
