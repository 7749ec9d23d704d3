/** Streams and key-value buckets of Tidegate: names, subjects and limits. No I/O: packages/runtime creates them. */
import { DEAD_LETTER_PREFIX, EVENTS_PREFIX, RAW_PREFIX } from './subjects.ts';

const GIB = 1024 ** 3;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

/**
 * Consumers of one stream or bucket at most. nats-server's own default of 1,000 would stop at 1,000 nodes, each of which has one on RAW. A consumer that
 * nobody uses is forgotten after seconds: this is a bound for what goes wrong.
 */
export const MAX_CONSUMERS = 20_000;

/**
 * nats-server writes what it has acknowledged to its disk this often (`sync_interval`; its own default is two minutes): until then a power failure takes it. What every
 * server of an installation must be set to, since sensors and enrichers keep what is younger.
 */
export const NATS_SYNC_INTERVAL_MS = 10_000;
/** What was acknowledged so long ago is on the disks of all servers. */
export const NATS_SYNCED_AFTER_MS = 3 * NATS_SYNC_INTERVAL_MS;

/** Limits that an installation may set for itself. */
export interface StreamLimits {
  maxBytes: number;
  maxAgeMs: number;
}

/** One stream; every stream is file storage, limits retention, discard old. */
export interface StreamDefinition extends StreamLimits {
  name: string;
  subjects: readonly string[];
  description: string;
  /** How long a Nats-Msg-Id is remembered. Longer than any resend or take-over. */
  duplicateWindowMs: number;
  /** Last message of a subject readable without asking the stream's leader, with permission by subject. */
  allowDirect: boolean;
  /** S2 in the store, from nats-server 2.10. Measured in docs/architecture.md. */
  compress: boolean;
}

export const STREAMS = {
  raw: {
    name: 'RAW',
    subjects: [`${RAW_PREFIX}.*`],
    description: 'Batches as the node sensors encode them',
    maxBytes: 4 * GIB,
    // An hour for enrichers that are away, and a server's clock may be put on by an hour and back.
    maxAgeMs: 3 * HOUR_MS,
    duplicateWindowMs: 2 * MINUTE_MS,
    allowDirect: true,
    compress: false,
  },
  events: {
    name: 'EVENTS',
    subjects: [`${EVENTS_PREFIX}.*.*.*`],
    description: 'Events with identity: kind, namespace, workload',
    maxBytes: 16 * GIB,
    maxAgeMs: 7 * 24 * HOUR_MS,
    duplicateWindowMs: 2 * MINUTE_MS,
    allowDirect: true,
    compress: true,
  },
  deadLetter: {
    name: 'DEADLETTER',
    subjects: [`${DEAD_LETTER_PREFIX}.>`],
    description: 'Messages that could not be read, with the reason in their headers',
    maxBytes: GIB,
    maxAgeMs: 7 * 24 * HOUR_MS,
    duplicateWindowMs: 2 * MINUTE_MS,
    allowDirect: true,
    compress: false,
  },
} as const satisfies Record<string, StreamDefinition>;

/** One key-value bucket, history 1. */
export interface BucketDefinition {
  name: string;
  description: string;
  /** Entries older than this vanish; 0: never. */
  ttlMs: number;
  storage: 'file' | 'memory';
}

export const BUCKETS = {
  /** Key `<node token>.<pod uid>`, value tidegate.v1.Pod. Written by the gateway. */
  pods: { name: 'pods', description: 'Pods, as the enricher splices them', ttlMs: 0, storage: 'file' },
  /** Key `<ip token>`, value tidegate.v1.Destination. Written by the gateway. */
  destinations: { name: 'destinations', description: 'What addresses of pods and services belong to', ttlMs: 0, storage: 'file' },
  /** Key `<node token>`, value JSON ClusterNode, written by the gateway; key `left.<node token>`, value JSON LeftNode, by who says that it has left. */
  nodes: { name: 'nodes', description: 'Nodes of the cluster, and nodes that have left', ttlMs: 0, storage: 'file' },
  /** Key `<node token>`, value JSON SensorStatus. Written by the node's sensor. */
  sensors: { name: 'sensors', description: 'State of each node sensor', ttlMs: 0, storage: 'file' },
  /** Key `<identity token>`, value JSON GatewayStatus. Written by each gateway; who has ended is gone after three missed reports. */
  gateways: { name: 'gateways', description: 'State of each gateway', ttlMs: 15_000, storage: 'file' },
  /** Key `<connector>`, value JSON ConnectorStatus. Written by each connector; who has ended is gone after three missed reports. */
  connectors: { name: 'connectors', description: 'State of each connector', ttlMs: 15_000, storage: 'file' },
  /** Key `member.<enricher>` and `cursor.<node token>`, value JSON. Written by the enrichers. */
  enrichers: { name: 'enrichers', description: 'Live enrichers, and how far each node is enriched', ttlMs: 0, storage: 'file' },
  /** Key `<consumer>`, value JSON ConsumerPosition. Written by the consumer. */
  positions: { name: 'positions', description: 'How far each consumer of EVENTS has done its work', ttlMs: 0, storage: 'file' },
  /** Key CLUSTER_KEY, value JSON ClusterSetting. Written by the gateway or `tidegate up`, whichever is first. */
  settings: { name: 'settings', description: 'What holds for the whole installation', ttlMs: 0, storage: 'file' },
} as const satisfies Record<string, BucketDefinition>;
