/**
 * Which enrichers live. Each announces itself in KV `enrichers` every second; whoever has not been heard of for four seconds is dead. That is measured by
 * when a new revision was seen here: clocks of different machines are never compared.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { BUCKETS, MEMBER_PREFIX } from '@tidegate/contracts';
import { bucketPrefix, type StreamReaders } from '@tidegate/runtime';
import type { JetStreamClient } from '@nats-io/jetstream';
import { headers, type MsgHdrs } from '@nats-io/nats-core';
import { watchBucket } from './bucket-watch.ts';

export interface MembershipOptions {
  client: JetStreamClient;
  readers: StreamReaders;
  /** This enricher's own id: one subject token. */
  id: string;
  signal: AbortSignal;
  onTrouble: (reason: string) => void;
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
const HEARTBEAT_TIMEOUT_MS = 2_000;

interface Sighting {
  atMs: number;
  revision: number;
}

/** Announces this enricher and learns of the others; resolves when both are done. */
export async function joinMembers(options: MembershipOptions): Promise<Membership> {
  const { client, readers, id, signal, onTrouble } = options;
  const startedAt = new Date().toISOString();
  const seen = new Map<string, Sighting>();
  let announcedAtMs = -Infinity;
  let hasLeft = false;

  async function announce(): Promise<void> {
    // The time of sending: the others see the heartbeat later than that, never earlier.
    const sentAtMs = performance.now();
    await client.publish(memberSubject(id), JSON.stringify({ startedAt }), { timeout: HEARTBEAT_TIMEOUT_MS });
    announcedAtMs = sentAtMs;
  }

  async function keepAnnouncing(): Promise<void> {
    while (!signal.aborted && !hasLeft) {
      await delay(HEARTBEAT_INTERVAL_MS, undefined, { signal }).catch(() => undefined);
      if (signal.aborted || hasLeft) return;
      await announce().catch(() => undefined);
      if (!hasLease() && !signal.aborted) return onTrouble('no heartbeat of its own stored in time');
    }
  }

  /** Removes what a dead member left, unless it has come back: else every new enricher would take it for alive at first. */
  function bury(member: string, revision: number): void {
    seen.delete(member);
    client
      .publish(memberSubject(member), undefined, {
        headers: deleteMarker(),
        expect: { lastSubjectSequence: revision },
        timeout: HEARTBEAT_TIMEOUT_MS,
      })
      .catch(() => undefined);
  }

  const isAlive = (member: string) => member === id || performance.now() - (seen.get(member)?.atMs ?? -Infinity) < DEAD_AFTER_MS;
  const hasLease = () => performance.now() - announcedAtMs < LEASE_MS;

  await announce();
  await watchBucket({
    readers,
    signal,
    bucket: BUCKETS.enrichers.name,
    filter: `${MEMBER_PREFIX}*`,
    onPut: (key, _value, revision) => seen.set(key.slice(MEMBER_PREFIX.length), { atMs: performance.now(), revision }),
    onDelete: key => seen.delete(key.slice(MEMBER_PREFIX.length)),
    onTrouble,
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
      await client.publish(memberSubject(id), undefined, { headers: deleteMarker(), timeout: HEARTBEAT_TIMEOUT_MS });
    },
  };
}

function memberSubject(member: string): string {
  return bucketPrefix(BUCKETS.enrichers.name) + MEMBER_PREFIX + member;
}

function deleteMarker(): MsgHdrs {
  const marker = headers();
  marker.set('KV-Operation', 'DEL');
  return marker;
}
