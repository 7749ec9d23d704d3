/**
 * Which enrichers live. Each announces itself in KV `enrichers` every second; whoever has not been heard of for four seconds is dead. That is measured by
 * when a new revision was seen here: clocks of different machines are never compared.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { BUCKETS, MEMBER_PREFIX, enricherMemberCodec } from '@tidegate/contracts';
import type { Buckets } from '@tidegate/runtime';

export interface MembershipOptions {
  buckets: Buckets;
  /** This enricher's own id: one subject token. */
  id: string;
  /** Mean time until EVENTS has stored a message of its; undefined: none is known. */
  ackMs: () => number | undefined;
  signal: AbortSignal;
  onTrouble: (reason: string) => void;
  /** A member came or went. */
  onChange: () => void;
}

export interface Membership {
  /** Ids, sorted, this one included. */
  alive(): string[];
  isAlive(id: string): boolean;
  /**
   * Whether the others still count this enricher among the living. False, e.g. after its process was stopped for seconds: then its nodes may have got another
   * owner, and nothing more may be published from what is in memory.
   */
  hasLease(): boolean;
  /** Says good-bye, so that the others need not wait. */
  leave(): Promise<void>;
}

const HEARTBEAT_INTERVAL_MS = 1_000;
const DEAD_AFTER_MS = 4_000;
/** Less than DEAD_AFTER_MS, so that an enricher lets go before another takes over. */
const LEASE_MS = 3_000;

interface Sighting {
  atMs: number;
  revision: number;
}

/** Announces this enricher and learns of the others; resolves when both are done. */
export async function joinMembers(options: MembershipOptions): Promise<Membership> {
  const { buckets, id, ackMs: readAckMs, signal, onTrouble, onChange: onMembers } = options;
  const bucket = buckets.open(BUCKETS.enrichers, enricherMemberCodec);
  const startedAt = new Date().toISOString();
  const seen = new Map<string, Sighting>();
  let announcedAtMs = -Infinity;
  let hasLeft = false;

  async function announce(): Promise<void> {
    // The time of sending: the others see the heartbeat later than that, never earlier.
    const sentAtMs = performance.now();
    const ackMs = readAckMs();
    await bucket.put(MEMBER_PREFIX + id, { startedAt, ...(ackMs !== undefined && { ackMs: Math.round(ackMs) }) });
    announcedAtMs = Math.max(announcedAtMs, sentAtMs);
  }

  async function keepAnnouncing(): Promise<void> {
    while (!signal.aborted && !hasLeft) {
      await delay(HEARTBEAT_INTERVAL_MS, undefined, { signal }).catch(() => undefined);
      if (signal.aborted || hasLeft) return;
      // Not awaited: a heartbeat that is lost, as by a leader that is deposed, must not hold up the next.
      announce().catch(() => undefined);
      if (!hasLease() && !signal.aborted) return onTrouble('no heartbeat of its own stored in time');
    }
  }

  /** Removes what a dead member left, unless it has come back: else every new enricher would take it for alive at first. */
  function bury(member: string, revision: number): void {
    seen.delete(member);
    bucket.delete(MEMBER_PREFIX + member, revision).catch(() => undefined);
  }

  const isAlive = (member: string) => member === id || performance.now() - (seen.get(member)?.atMs ?? -Infinity) < DEAD_AFTER_MS;
  const hasLease = () => performance.now() - announcedAtMs < LEASE_MS;

  await announce();
  await bucket.watch({
    filter: `${MEMBER_PREFIX}*`,
    onChange: ({ key, value, revision }) => {
      const member = key.slice(MEMBER_PREFIX.length);
      const isKnown = seen.has(member);
      if (value) seen.set(member, { atMs: performance.now(), revision });
      else seen.delete(member);
      if (isKnown !== seen.has(member)) onMembers();
    },
    onTrouble,
    signal,
  });
  void keepAnnouncing();

  return {
    alive: () => {
      for (const [member, { revision }] of seen) if (!isAlive(member)) bury(member, revision);
      return [...new Set([...seen.keys(), id])].sort();
    },
    isAlive,
    hasLease,
    leave: async () => {
      hasLeft = true;
      await bucket.delete(MEMBER_PREFIX + id);
    },
  };
}
