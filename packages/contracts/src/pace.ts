/**
 * How soon a node's events are wanted. A sensor lets small batches wait for more, which is most of what a quiet machine saves; while somebody follows live,
 * the API asks for less with a lease, again and again. An enricher that does not keep up asks for more in the same way, and then nobody gets less: what is behind is not live.
 */
import { count, flag, object, optional } from './json-shape.ts';
import { jsonCodec } from './bucket-values.ts';
import { subjectToken } from './subjects.ts';

export const PACE_PREFIX = 'tidegate.pace';
/** Token for every node; no name of a node becomes it. */
const ALL_NODES = '_all';

export interface PaceLease {
  /** A batch waits so long for more events: at most, or at least where the asker is behind. */
  lingerMs: number;
  /** From its arrival on; at most MAX_PACE_LEASE_MS counts. */
  forMs: number;
  /** Whoever asks does not keep up. */
  isBehind?: boolean | undefined;
}

/** What a live follower is given. */
export const LIVE_LINGER_MS = 2;
/** Batches a second that the nodes which are followed may be asked for, all together: a page that is opened must not cost a thousand nodes what it costs one. */
export const MAX_FOLLOWED_BATCHES_PER_SECOND = 1_000;
/** What a sensor may be asked to let batches wait at most. */
export const MAX_SLOW_LINGER_MS = 10_000;
/** Whoever forgets to give a lease back, or asks for more, costs a sensor so much at most. */
export const MAX_PACE_LEASE_MS = 10_000;

export const paceLeaseCodec = jsonCodec(object<PaceLease>({ lingerMs: count, forMs: count, isBehind: optional(flag) }));

/** What so many nodes that are followed are asked for, milliseconds. */
export function followedLingerMs(nodes: number): number {
  return Math.max(LIVE_LINGER_MS, Math.ceil((nodes * 1000) / MAX_FOLLOWED_BATCHES_PER_SECOND));
}

/** @param node left out: every node */
export function paceSubject(node?: string): string {
  return `${PACE_PREFIX}.${node === undefined ? ALL_NODES : subjectToken(node)}`;
}
