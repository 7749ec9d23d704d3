/** What a gateway reports of itself in KV `gateways`. */
import { jsonCodec } from './bucket-values.ts';
import { flag, list, object, optional, text, time } from './json-shape.ts';

export interface GatewayStatus {
  /** Its name in the Lease. */
  identity: string;
  /** RFC 3339. */
  startedAt: string;
  /** RFC 3339; a gateway reports at least every GATEWAY_STATUS_INTERVAL_MS. */
  reportedAt: string;
  /** URL of the API server. */
  server: string;
  /** The Lease by which replicas choose their leader: `<namespace>/<name>`. */
  lease: string;
  leads: boolean;
  /** Who holds the Lease when that is another, and has been seen to renew it. */
  holder?: LeaseHolder | undefined;
  /** What keeps it from its work, in words; empty: nothing. */
  faults: string[];
}

export interface LeaseHolder {
  identity: string;
  /** RFC 3339. */
  since?: string | undefined;
}

export const GATEWAY_STATUS_INTERVAL_MS = 5_000;

export const gatewayStatusCodec = jsonCodec(
  object<GatewayStatus>({
    identity: text,
    startedAt: time,
    reportedAt: time,
    server: text,
    lease: text,
    leads: flag,
    holder: optional(object<LeaseHolder>({ identity: text, since: optional(time) })),
    faults: list(text),
  }),
);
