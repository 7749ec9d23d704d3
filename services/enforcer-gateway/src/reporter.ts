/** Says in KV `gateways` what this replica does, or what keeps it from its work: who reads events without pods wants to know why. */
import { BUCKETS, GATEWAY_STATUS_INTERVAL_MS, gatewayKey, gatewayStatusCodec, type GatewayStatus } from '@tidegate/contracts';
import { startStateReports, type Buckets, type Logger } from '@tidegate/runtime';

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

export function startReporter({ buckets, about, state, logger }: ReporterOptions): Reporter {
  const bucket = buckets.open(BUCKETS.gateways, gatewayStatusCodec);
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

  const reports = startStateReports({
    bucket,
    key: gatewayKey(about.identity),
    intervalMs: GATEWAY_STATUS_INTERVAL_MS,
    checkMs: CHECK_MS,
    about,
    state: async () => {
      const now = state();
      await sayHolder(now);
      return now;
    },
    onReported: ({ leads, holder }) => (hasReportedLeader ||= leads || holder !== undefined),
    logger,
  });
  return {
    get hasReportedLeader() {
      return hasReportedLeader;
    },
    close: () => reports.close(),
  };
}
