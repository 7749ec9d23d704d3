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

/** Listens for leases, for as long as the connection is open. Of several the longest wait counts if it is more than configured, else the shortest. */
export function followPace(nc: NatsConnection, { node, lingerMs, setLinger, logger }: PaceOptions): Pace {
  /** Time until which each wait is granted. */
  const grantedUntilMs = new Map<number, number>();
  let currentMs = lingerMs;
  let timer: NodeJS.Timeout | undefined;

  function apply(): void {
    clearTimeout(timer);
    const nowMs = performance.now();
    for (const [linger, untilMs] of grantedUntilMs) if (untilMs <= nowMs) grantedUntilMs.delete(linger);
    const longestMs = Math.max(0, ...grantedUntilMs.keys());
    const wantedMs = longestMs > lingerMs ? longestMs : Math.min(lingerMs, ...grantedUntilMs.keys());
    if (wantedMs !== currentMs) {
      currentMs = wantedMs;
      setLinger(wantedMs);
    }
    const next = grantedUntilMs.get(wantedMs);
    if (next !== undefined) timer = setTimeout(apply, next - nowMs).unref();
  }

  const subscriptions = [paceSubject(node), paceSubject()].map(subject =>
    nc.subscribe(subject, {
      callback: (error, message) => {
        if (error) return logger.warn({ err: error, subject }, 'no leases of pace');
        try {
          const lease = paceLeaseCodec.decode(message.data);
          const grantedMs = Math.min(Math.max(lease.lingerMs, LIVE_LINGER_MS), MAX_SLOW_LINGER_MS);
          if (grantedUntilMs.size < MAX_LEASES || grantedUntilMs.has(grantedMs))
            grantedUntilMs.set(grantedMs, performance.now() + Math.min(lease.forMs, MAX_PACE_LEASE_MS));
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
