/** What the API answers, for those who serve it and those who ask: types only. The OpenAPI document is checked against real answers. */
import type { AncestorJson, ContainerJson, EventJson, PodJson, ProcessJson } from './event-json.ts';
import type { RemovedBy } from './nodes.ts';

/** A page of history. */
export interface EventPage {
  events: EventJson[];
  /** For the next page; null at the end. */
  cursor: string | null;
  /** Whether all of the range was searched. */
  complete: boolean;
}

/** One process with those it started. */
export interface ProcessNode {
  process: ProcessJson;
  exec?: EventJson;
  exit?: EventJson;
  children: ProcessNode[];
}

/** What was found of a process. */
export interface FoundTree extends ProcessNode {
  node: string;
  recorded?: true;
  /** Nearest first, up to init. */
  ancestors: AncestorJson[];
  ancestors_cut?: true;
  container?: ContainerJson;
  pod?: PodJson;
}

/** Part of EVENTS that a search did not get to: one request does a bounded amount of work. */
export interface Unsearched {
  kinds: readonly string[];
  /** RFC 3339, both included: when the stream stored it. */
  from: string;
  to: string;
}

export interface ProcessTree extends FoundTree {
  /** Where there may be a descendant, or an exit, that the tree does not have. */
  not_searched: Unsearched[];
  /** Present: there are more descendants than a tree shows. */
  processes_left_out?: true;
  /** Whether the tree is all that the stream holds of it: everything was searched and nothing left out. */
  complete: boolean;
}

/** A process that a pid may mean. */
export interface ProcessCandidate {
  node: string;
  /** Time of the latest event that speaks of it or of a descendant. */
  seen_at: string;
  process: ProcessJson;
  container?: ContainerJson;
  pod?: PodJson;
}

export interface CandidatePage {
  processes: ProcessCandidate[];
  /** Stream sequence with which to go on; null: the beginning of the stream was reached. */
  cursor: string | null;
  complete: boolean;
}

/** A node as the API and `tidegate node list` show it. */
export interface NodeReport {
  node: string;
  /** up: its sensor reports; silent: it should and does not; none: Kubernetes has the node, and no sensor reported from it; left: it is gone. */
  state: 'up' | 'silent' | 'none' | 'left';
  /** Whether Kubernetes has it. */
  in_cluster: boolean;
  recorded: boolean;
  /** Highest of its sequence numbers that is known to have been given out. */
  last_sequence: number;
  reported_at?: string;
  left_at?: string;
  removed_by?: RemovedBy;
}

export interface SensorReport {
  node: string;
  boot: string;
  version: string;
  kernel: string;
  started_at: string;
  reported_at: string;
  /** It has not reported for 15 s. */
  stale: boolean;
  recorded: boolean;
  hooks: { hook: string; program: string; attached: boolean; error?: string }[];
  events: number;
  last_sequence: number;
  /** Events lost since the sensor started, by reason. */
  lost: Record<string, number>;
  spool: { bytes: number; batches: number; max_bytes: number };
  /** Mean milliseconds until NATS has stored a batch, of the last seconds; absent: it has stored none. */
  ack_ms?: number;
}

export interface StreamReport {
  name: string;
  messages: number;
  bytes: number;
  first_sequence: number;
  last_sequence: number;
  first_time?: string;
  last_time?: string;
  max_bytes: number;
  max_age_seconds: number;
  /** For how long max_bytes suffice at the rate at which the stored messages came. Absent while those are of less than a minute. */
  holds_seconds?: number;
}

export interface EnricherReport {
  id: string;
  alive: boolean;
  seen_at: string;
  /** As that of a sensor. */
  ack_ms?: number;
}

/** A replica of the gateway to Kubernetes. */
export interface GatewayReport {
  /** Its name in the Lease. */
  identity: string;
  started_at: string;
  reported_at: string;
  /** URL of the API server. */
  server: string;
  /** `<namespace>/<name>`. */
  lease: string;
  leads: boolean;
  /** Who leads instead. */
  holder?: { identity: string; since?: string };
  /** What keeps it from its work, in words. */
  faults: string[];
}

/** Hands events on; `nats` is the feed. */
export interface ConnectorReport {
  connector: string;
  started_at: string;
  reported_at: string;
  /** Subjects that somebody listens to; 0: it sleeps. */
  listeners: number;
  /** Messages of EVENTS that it has not read yet; 0 while it sleeps. */
  pending: number;
  /** Events handed over since it started. */
  published: number;
  /** Times that EVENTS had discarded what it had not read yet, since it started; listeners get a loss event each. */
  skipped: number;
  /** What keeps it from its work, in words. */
  faults: string[];
}

/** How far one node's events are enriched. */
export interface LagReport {
  node: string;
  /** Id of the enricher that has the node; empty: none. */
  owner: string;
  /** Sequence numbers of the node that are in RAW and not yet in EVENTS. */
  events: number;
  /** How long the oldest of them has been in RAW; while that is under LAG_PROBLEM_MS, at most so long. Of nodes beyond the MAX_LOOKED_UP furthest behind, at least. */
  waiting_seconds: number;
  raw_last_sequence: number;
  enriched_last_sequence: number;
}

export interface StatusReport {
  time: string;
  /** `time`: by nats-server's own clock, RFC 3339. */
  nats: { version: string; server: string; time: string };
  sensors: SensorReport[];
  streams: StreamReport[];
  gateways: GatewayReport[];
  enrichers: EnricherReport[];
  /** None: none runs. */
  connectors: ConnectorReport[];
  lag: LagReport[];
  /** What is wrong, in words; empty: nothing. */
  problems: string[];
}
