/**
 * The enricher: shares the nodes with its fellows and runs a session for each of its own. Everything but the identity cache belongs to one
 * connection: when that is lost, or the others must take this enricher for dead, all sessions end at once, unsent messages are dropped, and all starts
 * anew from the cursors. So nothing stale is ever sent, however long the connection or the process was away.
 */
import { setTimeout as delay } from 'node:timers/promises';
import {
  BUCKETS,
  CLUSTER_KEY,
  CURSOR_PREFIX,
  LEFT_PREFIX,
  RAW_PREFIX,
  STREAMS,
  clusterSettingCodec,
  enricherCursorCodec,
  keysDecoder,
  leftNodeCodec,
  tokenName,
} from '@tidegate/contracts';
import {
  createBuckets,
  createPublisher,
  createStreamReaders,
  malformedEntries,
  watchStatus,
  type Buckets,
  type Closable,
  type Logger,
  type MalformedEntries,
  type Metrics,
  type Publisher,
  type StreamReaders,
} from '@tidegate/runtime';
import type { NatsConnection } from '@nats-io/nats-core';
import { ownerOf } from './assignment.ts';
import { FlowBudget } from './flow-budget.ts';
import { IDENTITY_LIMITS, IdentityCache, destinationDecoder, podDecoder } from './identity-cache.ts';
import { joinMembers, type Membership } from './membership.ts';
import { enricherMetrics, type EnricherMetrics } from './metrics.ts';
import { startNodeSession, type CursorBucket, type LeftNodeBucket, type NodeSession } from './node-session.ts';
import { SlowDown } from './slow-down.ts';
import { Splicer } from './splice.ts';
import { StoredOutputs } from './stored-outputs.ts';

export interface EnricherDeps {
  nc: NatsConnection;
  logger: Logger;
  metrics: Metrics;
  /** Unique among all enrichers, this process's restarts included; one subject token. */
  id: string;
  /** Bytes of RAW held at most while their outputs are not stored. */
  maxInFlightBytes: number;
  /** Workloads that have subjects of their own, of each namespace and in a day. */
  workloadsPerNamespace: number;
}

export interface Enricher extends Closable {
  /** Reasons why it is not ready; empty: it is. */
  readiness(): string[];
}

/** Messages of EVENTS are closed before they grow beyond 1 MiB, headers included: what a server takes by default. */
const MESSAGE_BYTES = 1024 * 1024;
const HEADER_BYTES = 4 * 1024;
/** One pull of one node brings at most, and at least may bring. */
const MAX_WINDOW_BYTES = 1280 * 1024;
const MIN_WINDOW_BYTES = 64 * 1024;
/** RAW is asked for nodes that have no sensor status: their sensor is gone, or a capture is played. */
const NODE_SCAN_INTERVAL_MS = 2_000;
/** Members and nodes are looked at so often at least; death of a member is noticed by time alone. */
const RECONCILE_INTERVAL_MS = 1_000;
/** How often a node's cursor is written at most; and cursors of all nodes together, since each is a message that NATS has to store, and in a cluster to sync. */
const CURSOR_INTERVAL_MS = 1_000;
const CURSORS_PER_SECOND = 200;
const LOOK_BEHIND_SECONDS = 1;
const RETRY_MIN_MS = 250;
const RETRY_MAX_MS = 5_000;
/** A session that lasted so long starts again without more waiting than the least. */
const STABLE_MS = 30_000;
const PUBLISHER_DRAIN_MS = 5_000;

export function createEnricher(deps: EnricherDeps): Enricher {
  return new SharingEnricher(deps);
}

/** What belongs to one connection. */
interface Epoch {
  readers: StreamReaders;
  members: Membership;
  cursors: CursorBucket;
  leftNodes: LeftNodeBucket;
  outputs: StoredOutputs;
  events: Publisher;
  deadLetters: Publisher;
  /** Name of the cluster, in all messages. */
  cluster: string;
  abort: AbortController;
}

class SharingEnricher implements Enricher {
  readonly #deps: EnricherDeps;
  readonly #metrics: EnricherMetrics;
  readonly #identities: IdentityCache;
  readonly #malformed: MalformedEntries;
  readonly #budget: FlowBudget;
  readonly #splicer: Splicer;
  readonly #abort = new AbortController();
  readonly #running: Promise<void>;
  #epoch: Epoch | undefined;
  readonly #slowDown: SlowDown;
  #lookedAtMs = performance.now();
  /** Batches, since it was created and when it was last looked at. */
  #read = 0;
  #readBefore = 0;
  readonly #sessions = new Map<string, NodeSession>();
  /** Nodes whose cursor may still name this enricher as owner though it has no session: it takes them up again, if only to let go of them. */
  readonly #held = new Set<string>();
  /** Tokens of nodes with an entry in KV `sensors`, and of those that have something on RAW; undefined: not known yet. */
  readonly #reporting = new Set<string>();
  #onRaw: ReadonlySet<string> | undefined;
  /** Members or nodes came or went. */
  #changed = () => {};
  /** Why it does not enrich now. */
  #trouble = 'starting';
  #podsRevision = 0;
  #destinationsRevision = 0;
  #closing: Promise<void> | undefined;

  constructor(deps: EnricherDeps) {
    this.#deps = deps;
    this.#metrics = enricherMetrics(deps.metrics);
    this.#malformed = malformedEntries(deps.metrics);
    this.#identities = new IdentityCache({ ...IDENTITY_LIMITS, workloadsPerNamespace: deps.workloadsPerNamespace });
    this.#budget = new FlowBudget(deps.maxInFlightBytes);
    const maxPayload = deps.nc.info?.max_payload ?? MESSAGE_BYTES;
    this.#splicer = new Splicer({
      messageBytes: Math.min(MESSAGE_BYTES, maxPayload) - HEADER_BYTES,
      maxMessageBytes: maxPayload - HEADER_BYTES,
    });
    this.#slowDown = new SlowDown({ nc: deps.nc, logger: deps.logger, nodes: () => this.#sessions.keys() });
    deps.metrics.gauge(
      'asked_linger_seconds',
      'How long sensors are asked to let batches wait, because this enricher is behind; 0: as they like',
      {
        read: () => this.#slowDown.lingerMs / 1000,
      },
    );
    deps.metrics.gauge('nodes', 'Nodes this enricher has', { read: () => this.#sessions.size });
    deps.metrics.gauge('in_flight_bytes', 'Bytes of RAW whose outputs are not stored yet', { read: () => this.#budget.usedBytes });
    deps.metrics.gauge('cached_pods', 'Pods known', { read: () => this.#identities.pods });
    deps.metrics.gauge('cached_destinations', 'Addresses known', { read: () => this.#identities.destinations });
    deps.metrics.observedCounter(
      'refused_identities',
      'Pods and addresses of KV that were one too many, or under a key that is none',
      () => this.#identities.refused,
    );
    deps.metrics.observedCounter(
      'folded_workloads',
      'Times a pod or container got the shared subject `_more` of its namespace, which has too many workloads for one each',
      () => this.#identities.folded,
    );
    this.#running = this.#run();
  }

  readiness(): string[] {
    if (this.#abort.signal.aborted) return ['stopping'];
    return this.#epoch ? [] : [this.#trouble];
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    const epoch = this.#epoch;
    this.#abort.abort();
    await this.#running;
    if (!epoch || epoch.abort.signal.aborted) return;
    await Promise.all([...this.#sessions.values()].map(session => session.release()));
    await Promise.all([epoch.events, epoch.deadLetters].map(publisher => publisher.close({ drainTimeoutMs: PUBLISHER_DRAIN_MS })));
    await epoch.members.leave().catch((error: unknown) => this.#deps.logger.warn({ err: error }, 'could not say good-bye'));
    epoch.abort.abort();
  }

  /** One epoch after the other, until closed. */
  async #run(): Promise<void> {
    const { signal } = this.#abort;
    let retryMs = RETRY_MIN_MS;
    while (!signal.aborted) {
      const ended = Promise.withResolvers<string>();
      const startedAtMs = performance.now();
      try {
        const epoch = await this.#beginEpoch(ended.resolve);
        this.#epoch = epoch;
        this.#deps.logger.info({ id: this.#deps.id, nodes: this.#reporting.size, pods: this.#identities.pods }, 'enriching');
        const reason = await this.#shareNodes(epoch, ended.promise);
        if (signal.aborted) return;
        this.#trouble = reason;
        this.#deps.logger.warn({ reason }, 'all nodes start again');
      } catch (error) {
        if (signal.aborted) return;
        this.#trouble = error instanceof Error ? error.message : String(error);
        this.#deps.logger.warn({ reason: this.#trouble, retryMs }, 'cannot enrich yet');
      }
      await this.#endEpoch();
      if (performance.now() - startedAtMs > STABLE_MS) retryMs = RETRY_MIN_MS;
      await pause(retryMs, signal);
      retryMs = Math.min(retryMs * 2, RETRY_MAX_MS);
    }
  }

  /** Everything that has to be there before the first node is taken. */
  async #beginEpoch(onTrouble: (reason: string) => void): Promise<Epoch> {
    const { nc, logger, id } = this.#deps;
    const abort = new AbortController();
    try {
      const readers = await createStreamReaders(nc);
      abort.signal.addEventListener('abort', () => readers.close(), { once: true });
      const buckets = await createBuckets({ nc, logger, malformed: this.#malformed });
      abort.signal.addEventListener('abort', () => buckets.close(), { once: true });
      const unwatch = watchStatus(nc, ({ type }) => {
        if (type === 'disconnect' || type === 'close') onTrouble('connection lost');
      });
      abort.signal.addEventListener('abort', unwatch, { once: true });
      const cluster = await this.#watchCluster(buckets, abort.signal, onTrouble);
      this.#identities.setCluster(cluster);
      await this.#watch(buckets, abort.signal, onTrouble);
      const members = await joinMembers({
        buckets,
        id,
        ackMs: () => this.#epoch?.events.ackMs(),
        signal: abort.signal,
        onTrouble,
        onChange: () => this.#changed(),
      });
      return {
        readers,
        members,
        cursors: buckets.open(BUCKETS.enrichers, enricherCursorCodec),
        leftNodes: buckets.open(BUCKETS.nodes, leftNodeCodec),
        outputs: new StoredOutputs(readers),
        events: createPublisher(nc, { stream: STREAMS.events.name, logger }),
        deadLetters: createPublisher(nc, { stream: STREAMS.deadLetter.name, logger }),
        cluster,
        abort,
      };
    } catch (error) {
      abort.abort();
      throw error;
    }
  }

  /** @throws {Error} when the cluster has no name: no event may be stored without one */
  async #watchCluster(buckets: Buckets, signal: AbortSignal, onTrouble: (reason: string) => void): Promise<string> {
    let cluster: string | undefined;
    await buckets.open(BUCKETS.settings, clusterSettingCodec).watch({
      filter: CLUSTER_KEY,
      onChange: ({ value }) => {
        if (cluster !== undefined && value?.name !== cluster) onTrouble(`the cluster is no longer called ${cluster}`);
        cluster ??= value?.name;
      },
      onTrouble,
      signal,
    });
    if (cluster === undefined) {
      throw new Error(`KV ${BUCKETS.settings.name} has no entry ${CLUSTER_KEY} yet: the gateway writes the cluster's name, or tidegate up`);
    }
    return cluster;
  }

  async #watch(buckets: Buckets, signal: AbortSignal, onTrouble: (reason: string) => void): Promise<void> {
    this.#reporting.clear();
    this.#onRaw = undefined;
    await Promise.all([
      buckets.open(BUCKETS.pods, podDecoder).watch({
        after: this.#podsRevision,
        onChange: ({ key, value, revision }) => {
          this.#podsRevision = revision;
          if (value) this.#identities.putPod(key, value);
          else this.#identities.deletePod(key);
        },
        onTrouble,
        signal,
      }),
      buckets.open(BUCKETS.destinations, destinationDecoder).watch({
        after: this.#destinationsRevision,
        onChange: ({ key, value, revision }) => {
          this.#destinationsRevision = revision;
          if (value) this.#identities.putDestination(key, value);
          else this.#identities.deleteDestination(key);
        },
        onTrouble,
        signal,
      }),
      buckets.open(BUCKETS.sensors, keysDecoder).watch({
        onChange: ({ key, value }) => {
          const isKnown = this.#reporting.has(key);
          if (value) this.#reporting.add(key);
          else this.#reporting.delete(key);
          if (isKnown !== this.#reporting.has(key)) this.#changed();
        },
        onTrouble,
        signal,
      }),
    ]);
  }

  /** Takes and gives nodes as members come and go. Returns why it ended. */
  async #shareNodes(epoch: Epoch, ended: Promise<string>): Promise<string> {
    const { signal } = this.#abort;
    let reason: string | undefined;
    void ended.then(why => (reason = why));
    let scannedAtMs = -Infinity;
    while (reason === undefined && !signal.aborted) {
      if (performance.now() - scannedAtMs >= NODE_SCAN_INTERVAL_MS) {
        scannedAtMs = performance.now();
        // Not awaited: on a busy server it may take longer than nodes can wait.
        this.#scanNodes(epoch).catch((error: unknown) => this.#deps.logger.debug({ err: error }, 'RAW did not tell its subjects'));
      }
      const changed = Promise.withResolvers<void>();
      this.#changed = changed.resolve;
      this.#reconcile(epoch);
      this.#lookBehind();
      await Promise.race([pause(RECONCILE_INTERVAL_MS, signal), changed.promise, ended]);
    }
    return reason ?? 'stopping';
  }

  #lookBehind(): void {
    const seconds = (performance.now() - this.#lookedAtMs) / 1000;
    if (seconds < LOOK_BEHIND_SECONDS) return;
    this.#lookedAtMs = performance.now();
    let waiting = 0;
    for (const session of this.#sessions.values()) waiting += session.waiting;
    this.#slowDown.look(waiting, (this.#read - this.#readBefore) / seconds);
    this.#readBefore = this.#read;
  }

  async #scanNodes(epoch: Epoch): Promise<void> {
    const { state } = await epoch.readers.manager.streams.info(STREAMS.raw.name, { subjects_filter: `${RAW_PREFIX}.*` });
    const isFirst = this.#onRaw === undefined;
    this.#onRaw = new Set(Object.keys(state.subjects ?? {}).map(subject => subject.slice(RAW_PREFIX.length + 1)));
    if (isFirst) await this.#forgetLeft(epoch);
  }

  /** Nodes that left while nobody had them. */
  async #forgetLeft(epoch: Epoch): Promise<void> {
    const { cursors, members } = epoch;
    for await (const { key } of cursors.entries(`${CURSOR_PREFIX}*`)) {
      const node = key.slice(CURSOR_PREFIX.length);
      if (!this.#isThere(node) && ownerOf(node, members.alive()) === this.#deps.id) await this.#forget(epoch, node);
    }
  }

  /** Whether a node may have something to enrich, now or later. */
  #isThere(node: string): boolean {
    return this.#reporting.has(node) || this.#onRaw?.has(node) !== false;
  }

  /** Gives up the cursor of a node that has left. What it says of the node's numbers goes on in KV `nodes`. */
  async #forget({ cursors, leftNodes, members }: Epoch, node: string): Promise<void> {
    const cursor = await cursors.get(CURSOR_PREFIX + node);
    const left = await leftNodes.get(LEFT_PREFIX + node);
    if (!cursor.value || !left.value || this.#isThere(node)) return;
    const { owner, lastSequence } = cursor.value;
    if (owner !== '' && owner !== this.#deps.id && members.isAlive(owner)) return;
    const kept = { ...left.value, enrichedSequence: lastSequence, lastSequence: Math.max(left.value.lastSequence, lastSequence) };
    await leftNodes.update(LEFT_PREFIX + node, kept, left.revision);
    await cursors.delete(CURSOR_PREFIX + node, cursor.revision);
    this.#deps.logger.info({ node: tokenName(node), lastSequence: kept.lastSequence }, 'node has left');
  }

  #reconcile(epoch: Epoch): void {
    const members = epoch.members.alive();
    for (const node of new Set([...this.#reporting, ...(this.#onRaw ?? []), ...this.#sessions.keys(), ...this.#held])) {
      const isOurs = ownerOf(node, members) === this.#deps.id && this.#isThere(node);
      const session = this.#sessions.get(node);
      if (session && !isOurs) void session.release();
      else if (!session && (isOurs || this.#held.has(node))) this.#startSession(epoch, node);
    }
  }

  #startSession(epoch: Epoch, node: string): void {
    const { nc, logger, id } = this.#deps;
    const startedAtMs = performance.now();
    const session = startNodeSession(node, {
      nc,
      readers: epoch.readers,
      events: epoch.events,
      deadLetters: epoch.deadLetters,
      cursors: epoch.cursors,
      leftNodes: epoch.leftNodes,
      outputs: epoch.outputs,
      members: epoch.members,
      identities: this.#identities,
      splicer: this.#splicer,
      budget: this.#budget,
      windowBytes: () => this.#windowBytes(),
      cursorIntervalMs: () => Math.max(CURSOR_INTERVAL_MS, (this.#sessions.size * 1_000) / CURSORS_PER_SECOND),
      onRead: () => this.#read++,
      metrics: this.#metrics,
      logger,
      owner: id,
      cluster: epoch.cluster,
    });
    this.#sessions.set(node, session);
    this.#held.delete(node);
    void session.ended.then(async reason => {
      if (reason !== undefined) {
        this.#held.add(node);
        if (performance.now() - startedAtMs < STABLE_MS) await pause(RETRY_MIN_MS, epoch.abort.signal);
      }
      if (this.#sessions.get(node) === session) this.#sessions.delete(node);
      if (reason !== undefined || this.#isThere(node) || epoch.abort.signal.aborted) return;
      await this.#forget(epoch, node).catch((error: unknown) =>
        this.#deps.logger.debug({ err: error }, 'the cursor stays until the next start'),
      );
    });
  }

  /** The more nodes, the less each may have under way, so that all together stay within bounds even when all wake at once. */
  #windowBytes(): number {
    const share = Math.floor(this.#deps.maxInFlightBytes / Math.max(1, this.#sessions.size));
    return Math.min(MAX_WINDOW_BYTES, Math.max(MIN_WINDOW_BYTES, share));
  }

  /** Drops everything that belongs to the connection. */
  async #endEpoch(): Promise<void> {
    const epoch = this.#epoch;
    if (!epoch) return;
    this.#epoch = undefined;
    epoch.abort.abort();
    for (const [node, session] of this.#sessions) {
      this.#held.add(node);
      session.abandon();
    }
    this.#sessions.clear();
    // Not drained: another enricher may have these nodes by the time the connection is back.
    await Promise.all([epoch.events, epoch.deadLetters].map(publisher => publisher.close({ drainTimeoutMs: 0 })));
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal }).catch(() => undefined);
}
