/** Says in KV `gateways` what this replica does, or what keeps it from its work: who reads events without pods wants to know why. */
import { setTimeout as delay } from 'node:timers/promises';
import { BUCKETS, GATEWAY_STATUS_INTERVAL_MS, gatewayKey, gatewayStatusCodec, type GatewayStatus } from '@tidegate/contracts';
import type { Buckets, Logger } from '@tidegate/runtime';

/** What changes. */
export type GatewayState = Pick<GatewayStatus, 'leads' | 'holder' | 'faults'>;

export interface ReporterOptions {
  buckets: Buckets;
  /** What does not. */
  about: Pick<GatewayStatus, 'identity' | 'server' | 'lease'>;
  state: () => GatewayState;
  logger: Logger;
}

export interface Reporter {
  /** It has been reported once who leads, this replica or another. */
  readonly hasReportedLeader: boolean;
  /** The report goes too: whoever has ended holds nobody up. */
  close(): Promise<void>;
}

/** How often a change is looked for. */
const CHECK_MS = 250;

/** Reports at least every GATEWAY_STATUS_INTERVAL_MS, and soon after a change. */
export function startReporter({ buckets, about, state, logger }: ReporterOptions): Reporter {
  const bucket = buckets.open(BUCKETS.gateways, gatewayStatusCodec);
  const key = gatewayKey(about.identity);
  const startedAt = new Date().toISOString();
  const stop = new AbortController();
  let reported: string | undefined;
  let reportedMs = -Infinity;
  let hasReportedLeader = false;
  let knownHolder: string | undefined;

  const sayHolder = async ({ holder }: GatewayState) => {
    if (holder === undefined || holder.identity === knownHolder) return void (knownHolder = holder?.identity);
    const isPeer = (await bucket.get(gatewayKey(holder.identity))).value !== undefined;
    knownHolder = holder.identity;
    const fields = { lease: about.lease, holder: holder.identity, since: holder.since };
    if (isPeer) logger.info(fields, 'another replica leads; this one waits');
    else logger.warn(fields, 'no pods: a gateway of another installation holds the Lease; this one takes over when that ends');
  };

  const report = async () => {
    const now = state();
    await sayHolder(now);
    const change = JSON.stringify(now);
    if (change === reported && performance.now() - reportedMs < GATEWAY_STATUS_INTERVAL_MS - CHECK_MS) return;
    await bucket.put(key, { ...about, startedAt, reportedAt: new Date().toISOString(), ...now });
    reported = change;
    reportedMs = performance.now();
    hasReportedLeader ||= now.leads || now.holder !== undefined;
  };

  const run = async () => {
    while (!stop.signal.aborted) {
      await report().catch((error: unknown) => logger.debug({ err: error }, 'cannot report the state of the gateway'));
      await delay(CHECK_MS, undefined, { signal: stop.signal }).catch(() => undefined);
    }
    if (reported !== undefined)
      await bucket.delete(key).catch((error: unknown) => logger.debug({ err: error }, 'cannot take the report back'));
  };

  const running = run();
  return {
    get hasReportedLeader() {
      return hasReportedLeader;
    },
    async close() {
      stop.abort();
      await running;
    },
  };
}
