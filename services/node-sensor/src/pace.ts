/** How long batches wait: as configured, or less while a lease for this node holds. */
import { LIVE_LINGER_MS, MAX_PACE_LEASE_MS, paceLeaseCodec, paceSubject } from '@tidegate/contracts';
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

/** Listens for leases, for as long as the connection is open. Of several the shortest wait counts. */
export function followPace(nc: NatsConnection, { node, lingerMs, setLinger, logger }: PaceOptions): Pace {
  /** Time until which each wait is granted. */
  const grantedUntilMs = new Map<number, number>();
  let currentMs = lingerMs;
  let timer: NodeJS.Timeout | undefined;

  function apply(): void {
    clearTimeout(timer);
    const nowMs = performance.now();
    for (const [linger, untilMs] of grantedUntilMs) if (untilMs <= nowMs) grantedUntilMs.delete(linger);
    const wantedMs = Math.min(lingerMs, ...grantedUntilMs.keys());
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
          const grantedMs = Math.max(lease.lingerMs, LIVE_LINGER_MS);
          // What is no less than the configured wait is not remembered, so that their number stays bounded.
          if (grantedMs < lingerMs) grantedUntilMs.set(grantedMs, performance.now() + Math.min(lease.forMs, MAX_PACE_LEASE_MS));
          apply();
        } catch (cause) {
          logger.debug({ err: cause, subject }, 'malformed lease of pace');
        }
      },
    }),
  );
  return {
    get isLive() {
      return grantedUntilMs.size > 0;
    },
    close() {
      clearTimeout(timer);
      for (const subscription of subscriptions) subscription.unsubscribe();
    },
  };
}
