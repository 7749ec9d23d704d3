/** What a connector reports of itself in KV `connectors`. */
import { jsonCodec } from './bucket-values.ts';
import { count, list, object, text, time } from './json-shape.ts';

export interface ConnectorStatus {
  /** Its name; `nats` is the feed. */
  connector: string;
  /** RFC 3339. */
  startedAt: string;
  /** RFC 3339; a connector reports at least every CONNECTOR_STATUS_INTERVAL_MS. */
  reportedAt: string;
  /** Subjects that somebody listens to; 0: it sleeps. */
  listeners: number;
  /** Messages of EVENTS that it has not read yet; 0 while it sleeps. */
  pending: number;
  /** Events that it has handed over since it started. */
  published: number;
  /** Times that EVENTS had discarded what it had not read yet, since it started; listeners get a loss event each. */
  skipped: number;
  /** What keeps it from its work, in words; empty: nothing. */
  faults: string[];
}

export const CONNECTOR_STATUS_INTERVAL_MS = 5_000;

export const connectorStatusCodec = jsonCodec(
  object<ConnectorStatus>({
    connector: text,
    startedAt: time,
    reportedAt: time,
    listeners: count,
    pending: count,
    published: count,
    skipped: count,
    faults: list(text),
  }),
);
