/** What KV `nodes` holds: the cluster's nodes, key `<node token>`, and those that have left, key `left.<node token>`. */
import { jsonCodec } from './bucket-values.ts';
import { choice, count, list, object, optional, table, text, time } from './json-shape.ts';

/** A node as Kubernetes has it. Written by the gateway. */
export interface ClusterNode {
  name: string;
  addresses: string[];
  labels: Record<string, string>;
  architecture: string;
  osImage: string;
  kernelVersion: string;
  kubeletVersion: string;
  containerRuntimeVersion: string;
}

/** Who said that a node has left. */
export const RemovedBy = { kubernetes: 'kubernetes', administrator: 'administrator' } as const;
export type RemovedBy = (typeof RemovedBy)[keyof typeof RemovedBy];

/** A node that has left. It stays, so that a node which gets the same name goes on counting behind it. */
export interface LeftNode {
  node: string;
  /** RFC 3339. */
  leftAt: string;
  removedBy: RemovedBy;
  /** Of its last sensor: should that report again, this is the node that has left and not a new one. */
  boot: string;
  /** Highest of its sequence numbers that is known to have been given out. */
  lastSequence: number;
  /** Highest that is accounted for in EVENTS: what its cursor said when the enrichers gave it up. */
  enrichedSequence?: number | undefined;
}

export const clusterNodeCodec = jsonCodec(
  object<ClusterNode>({
    name: text,
    addresses: list(text),
    labels: table(text),
    architecture: text,
    osImage: text,
    kernelVersion: text,
    kubeletVersion: text,
    containerRuntimeVersion: text,
  }),
);

export const leftNodeCodec = jsonCodec(
  object<LeftNode>({
    node: text,
    leftAt: time,
    removedBy: choice(Object.values(RemovedBy)),
    boot: text,
    lastSequence: count,
    enrichedSequence: optional(count),
  }),
);
