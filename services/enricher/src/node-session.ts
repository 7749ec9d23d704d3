/**
 * Enriches one node: takes its cursor, reads its batches in order, publishes what they become, and moves the cursor when that is stored. Whatever
 * goes wrong ends the session; the next one starts from the cursor. What it then publishes again has the same ids, and the stream refuses it.
 */
import { hash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import {
  BatchError,
  CURSOR_PREFIX,
  LEFT_PREFIX,
  DEAD_LETTER_PREFIX,
  formatEventHeaders,
  LossReason,
  NATS_SYNCED_AFTER_MS,
  RAW_PREFIX,
  SCHEMA_VERSION,
  STREAMS,
  tokenName,
  type EnrichedPlace,
  type EnricherCursor as Cursor,
  type LeftNode,
  type StoredOutput,
} from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import {
  hasErrorCode,
  type Bucket,
  type Logger,
  type Publisher,
  type StreamMessage,
  type StreamReader,
  type StreamReaders,
} from '@tidegate/runtime';
import type { FlowBudget } from './flow-budget.ts';
import type { IdentityCache } from './identity-cache.ts';
import { lossOutput, lossRanges, uncovered, type LossReport } from './loss-report.ts';
import type { Membership } from './membership.ts';
import type { EnricherMetrics } from './metrics.ts';
import { decodedPayload, PoisonError, PoisonReason, readBatch, sequencesOf, type SequenceRange } from './raw-message.ts';
import type { Output, Splicer } from './splice.ts';
import type { StoredOutputs } from './stored-outputs.ts';

/** How far each node is enriched, and by whom: keys `cursor.<node token>`. */
export type CursorBucket = Bucket<Cursor>;
/** Nodes that have left: keys `left.<node token>`. */
export type LeftNodeBucket = Bucket<LeftNode>;

export interface NodeSessionDeps {
  nc: NatsConnection;
  readers: StreamReaders;
  /** To EVENTS, and to DEADLETTER: closed by their owner when the connection is lost, which ends every session. */
  events: Publisher;
  deadLetters: Publisher;
  cursors: CursorBucket;
  leftNodes: LeftNodeBucket;
  outputs: StoredOutputs;
  members: Membership;
  identities: IdentityCache;
  /** Shared by all sessions: used only between two awaits. */
  splicer: Splicer;
  budget: FlowBudget;
  /** Bytes one pull may bring. */
  windowBytes: () => number;
  /** A cursor is written this often at most: what a new owner publishes again. */
  cursorIntervalMs: () => number;
  /** A batch was read. */
  onRead: () => void;
  metrics: EnricherMetrics;
  logger: Logger;
  /** This enricher. */
  owner: string;
  /** Name of the cluster that the nodes belong to. */
  cluster: string;
}

export interface NodeSession {
  /** Messages on RAW behind the one read last. */
  readonly waiting: number;
  /** Settles when the session is over; with the reason when it ended by itself. */
  readonly ended: Promise<string | undefined>;
  /** Stops reading, waits until what was read is stored, writes the cursor and lets go of the node. */
  release(): Promise<void>;
  /** Ends at once; what is not stored is for the next owner. */
  abandon(): void;
}

/** How long a release waits for what is under way. */
const RELEASE_TIMEOUT_MS = 5_000;
/** How often a node is asked for that another living enricher still has. */
const ACQUIRE_INTERVAL_MS = 200;
/** Room for headers that the dead-letter message has beyond the original's. */
const DEAD_LETTER_HEADER_BYTES = 4_096;

/** Header names of a dead letter. */
export const DeadLetterHeader = {
  reason: 'Tidegate-Reason',
  detail: 'Tidegate-Detail',
  streamSequence: 'Tidegate-Stream-Sequence',
  /** The original's own Nats-Msg-Id. */
  messageId: 'Tidegate-Message-Id',
  /** The original's size, when the payload had to be cut. */
  truncated: 'Tidegate-Truncated',
} as const;

/** What messages of EVENTS come of. */
interface Origin {
  /** What their ids begin with. */
  id: string;
  boot: string;
  /** 0: no batch. */
  batch: number;
}

const NO_BATCH: Origin = { id: '', boot: '', batch: 0 };

interface PendingBatch {
  cursor: Cursor;
  /** The last one stored. */
  output: StoredOutput | undefined;
  /** Messages not stored yet. */
  left: number;
  bytes: number;
}

export function startNodeSession(nodeToken: string, deps: NodeSessionDeps): NodeSession {
  return new Session(nodeToken, deps);
}

class Session implements NodeSession {
  waiting = 0;
  readonly ended: Promise<string | undefined>;
  readonly #end = Promise.withResolvers<string | undefined>();
  readonly #deps: NodeSessionDeps;
  readonly #nodeToken: string;
  readonly #subject: string;
  readonly #cursorKey: string;
  readonly #abort = new AbortController();
  readonly #starting: Promise<void>;
  #reader: StreamReader | undefined;
  #releasing: Promise<void> | undefined;
  /** Bytes of the budget that this session holds. */
  #heldBytes = 0;

  #isProcessing = false;
  /** Processed and not stored yet, oldest first. */
  readonly #pending: PendingBatch[] = [];
  #drained: (() => void) | undefined;

  /** Up to where everything was processed, and up to where everything is stored. */
  #processed: Cursor | undefined;
  #stored: Cursor | undefined;
  #revision = 0;
  #written: Cursor | undefined;
  #writing: Promise<void> | undefined;
  #writeTimer: NodeJS.Timeout | undefined;
  /** Places that were written, oldest first; the first is on NATS's disk, as the others will be NATS_SYNCED_AFTER_MS after they were written. */
  #places: { place: EnrichedPlace; writtenAtMs: number }[] = [];
  /** Ids that need not be published, of what EVENTS held when the node was taken. */
  #present: ReadonlySet<string> | undefined;

  constructor(nodeToken: string, deps: NodeSessionDeps) {
    this.#nodeToken = nodeToken;
    this.#deps = deps;
    this.#subject = `${RAW_PREFIX}.${nodeToken}`;
    this.#cursorKey = CURSOR_PREFIX + nodeToken;
    this.ended = this.#end.promise;
    this.#starting = this.#start().catch((error: unknown) => this.#fail(error));
  }

  abandon(): void {
    this.#finish(undefined);
  }

  release(): Promise<void> {
    return (this.#releasing ??= this.#release());
  }

  async #release(): Promise<void> {
    // A start that is half done may make this enricher the owner yet.
    await this.#starting;
    this.#reader?.close();
    if (this.#stored && !this.#abort.signal.aborted) {
      await this.#drain();
      clearTimeout(this.#writeTimer);
      await this.#writing;
      if (!this.#abort.signal.aborted) {
        const { cursors } = this.#deps;
        await cursors
          .update(this.#cursorKey, { ...this.#stored, synced: this.#syncedPlace(this.#stored), owner: '' }, this.#revision)
          .catch((error: unknown) => this.#fail(error));
      }
    }
    this.#finish(undefined);
  }

  async #start(): Promise<void> {
    const cursor = await this.#acquire();
    if (!cursor) return;
    const { readers, budget, windowBytes } = this.#deps;
    this.#stored = this.#processed = this.#written = cursor;
    this.#places = [
      { place: cursor.synced ?? placeOf(cursor), writtenAtMs: -Infinity },
      { place: placeOf(cursor), writtenAtMs: performance.now() },
    ];
    if (this.#abort.signal.aborted || this.#releasing) return;
    this.#reader = readers.open({
      stream: STREAMS.raw.name,
      subjects: [this.#subject],
      // RAW may have lost its end, and holds again what the sensor has sent once more.
      start:
        cursor.storedAtMs === 0
          ? { streamSequence: cursor.streamSequence + 1 }
          : { after: { streamSequence: cursor.streamSequence, timeMs: cursor.storedAtMs } },
      windowBytes: async () => {
        await budget.room();
        return windowBytes();
      },
      maxAttempts: 1,
    });
    this.#read(this.#reader).catch((error: unknown) => this.#fail(error));
  }

  /** Makes this enricher the owner, once no other living one is. Undefined: the session ended before. */
  async #acquire(): Promise<Cursor | undefined> {
    const { cursors, members, owner } = this.#deps;
    const { signal } = this.#abort;
    while (!signal.aborted && !this.#releasing) {
      const { value: found, revision } = await cursors.get(this.#cursorKey);
      if (found && found.owner !== '' && found.owner !== owner && members.isAlive(found.owner)) {
        await delay(ACQUIRE_INTERVAL_MS, undefined, { signal }).catch(() => undefined);
        continue;
      }
      const cursor = { ...(await this.#checked(found ?? (await this.#firstCursor()))), owner };
      try {
        this.#revision = await cursors.update(this.#cursorKey, cursor, revision);
        return cursor;
      } catch (error) {
        if (!hasErrorCode(error, 'BUCKET_CONFLICT')) throw error;
      }
    }
    return undefined;
  }

  /** The cursor, or where to begin again when EVENTS has lost what was stored before it. */
  async #checked(cursor: Cursor): Promise<Cursor> {
    const { outputs, logger, metrics } = this.#deps;
    const { output, synced } = cursor;
    const isWhole = output === undefined || (await outputs.has(this.#nodeToken, output));
    if (!isWhole || (await outputs.mayBeForgotten())) this.#present = await outputs.ids();
    if (isWhole) return cursor;
    metrics.restarts.inc({ reason: 'events_lost' });
    logger.error(
      { node: tokenName(this.#nodeToken), output, synced },
      'EVENTS has lost what it had acknowledged: the node is enriched again from what was surely on disk',
    );
    return { ...cursor, ...(synced ?? (await this.#firstCursor())), output: undefined };
  }

  /** Of a node without one: it is new, or it left and its name is used again. */
  async #firstCursor(): Promise<Cursor> {
    const left = await this.#deps.leftNodes.get(LEFT_PREFIX + this.#nodeToken);
    return { streamSequence: 0, storedAtMs: 0, batch: 0, boot: '', lastSequence: left.value?.enrichedSequence ?? 0, owner: '' };
  }

  async #read(reader: StreamReader): Promise<void> {
    const { budget, metrics } = this.#deps;
    for await (const message of reader.read({ follow: true })) {
      if (this.#abort.signal.aborted || this.#releasing) return;
      this.#deps.onRead();
      this.waiting = message.pending;
      budget.take(message.size);
      this.#heldBytes += message.size;
      metrics.batchesRead.inc();
      metrics.bytesRead.inc(message.size);
      this.#isProcessing = true;
      await this.#process(message);
      this.#isProcessing = false;
      if (this.#abort.signal.aborted) return;
      metrics.lag.set({ node: this.#nodeToken }, message.pending);
      if (this.#pending.length === 0) this.#drained?.();
    }
  }

  #giveBack(bytes: number): void {
    this.#heldBytes -= bytes;
    this.#deps.budget.give(bytes);
  }

  async #process(message: StreamMessage): Promise<void> {
    try {
      await this.#enrich(message);
    } catch (error) {
      if (error instanceof PoisonError) return this.#bury(message, error);
      if (error instanceof BatchError) return this.#bury(message, new PoisonError(PoisonReason.batch, error.message));
      throw error;
    }
  }

  async #enrich(message: StreamMessage): Promise<void> {
    const { splicer, identities, metrics } = this.#deps;
    const { headers } = message;
    const payload = decodedPayload(headers, message.data);
    const range = readBatch(splicer, this.#subject, headers, payload);
    const { index } = splicer;
    const before = this.#processed!;
    const cursor: Cursor = {
      streamSequence: message.streamSequence,
      storedAtMs: storedAtMs(message),
      batch: index.batch,
      boot: index.boot,
      lastSequence: range.last,
      owner: this.#deps.owner,
    };
    if (index.boot === before.boot && index.batch <= before.batch && range.last <= before.lastSequence) {
      metrics.skippedBatches.inc();
      await this.#publish(message, { ...before, streamSequence: message.streamSequence, storedAtMs: storedAtMs(message) }, [], NO_BATCH);
      return;
    }
    const missing = splicer.missingPods(identities);
    if (missing.length > 0) {
      metrics.podWaits.inc();
      await identities.waitForPods(index.node, missing, this.#abort.signal);
      if (this.#abort.signal.aborted) return;
      // Other nodes used the splicer in the meantime.
      splicer.read(payload);
    }
    const outputs = splicer.outputs(identities);
    metrics.unresolvedPods.inc(splicer.unresolvedPods);
    metrics.droppedTableBytes.inc(splicer.droppedTableBytes);
    const losses = this.#discarded(message, range, before);
    const { boot, batch } = index;
    const id = `${this.#nodeToken}:${boot}:${batch}:${digestOf(message.data)}`;
    await this.#publish(message, cursor, [...losses, ...outputs], { id, boot, batch });
  }

  /** Loss events for numbers that should have come before this batch and did not: RAW discarded them. */
  #discarded(message: StreamMessage, range: SequenceRange, before: Cursor): Output[] {
    const { index } = this.#deps.splicer;
    const isKnown = before.boot !== '' || before.lastSequence > 0;
    // A capture that is played begins anywhere.
    if (index.recorded && index.boot !== before.boot) return [];
    const { node, boot, batch, recorded } = index;
    const { cluster } = this.#deps;
    const report = { node, boot, batch, cluster, recorded, reason: LossReason.LOSS_REASON_RAW_DISCARDED };
    // A node never seen, whose sensor has sent batches before this one: how many events they held nobody knows any more.
    if (!isKnown) return index.batch > 1 ? [lossOutput({ ...report, range: undefined, timeNs: message.timeNs })] : [];
    if (range.first <= before.lastSequence + 1) return [];
    const missing = uncovered({ first: before.lastSequence + 1, last: range.first - 1 }, lossRanges(index));
    return missing.map(part => this.#discardedOutput({ ...report, range: part, timeNs: message.timeNs }));
  }

  #discardedOutput(report: LossReport & { range: SequenceRange }): Output {
    const { first, last } = report.range;
    this.#deps.metrics.discardedEvents.inc(last - first + 1);
    this.#deps.logger.warn({ node: report.node, first, last }, 'RAW discarded batches before they were read');
    return lossOutput(report);
  }

  /** Puts what cannot be read into the dead-letter stream, tells of the loss, and goes on behind it. */
  async #bury(message: StreamMessage, error: PoisonError): Promise<void> {
    const { deadLetters, metrics, logger, nc, cluster } = this.#deps;
    const node = tokenName(this.#nodeToken);
    const messageId = message.headers?.get('Nats-Msg-Id') ?? '';
    const before = this.#processed!;
    metrics.poison.inc({ reason: error.code });
    logger.error({ node, reason: error.code, detail: error.message, streamSequence: message.streamSequence }, 'unreadable message on RAW');
    const maxBytes = (nc.info?.max_payload ?? STREAMS.deadLetter.maxBytes) - DEAD_LETTER_HEADER_BYTES;
    const isCut = message.data.length > maxBytes;
    await deadLetters.publish({
      subject: `${DEAD_LETTER_PREFIX}.raw.${this.#nodeToken}`,
      payload: isCut ? message.data.subarray(0, maxBytes) : message.data,
      messageId: `raw:${this.#nodeToken}:${message.streamSequence}:${message.timeNs}`,
      headers: {
        ...originalHeaders(message),
        [DeadLetterHeader.reason]: error.code,
        [DeadLetterHeader.detail]: headerText(error.message),
        [DeadLetterHeader.streamSequence]: String(message.streamSequence),
        ...(messageId !== '' && { [DeadLetterHeader.messageId]: headerText(messageId) }),
        ...(isCut && { [DeadLetterHeader.truncated]: String(message.data.length) }),
      },
    });
    const range = this.#lostRange(message, error);
    const cursor: Cursor = {
      ...before,
      streamSequence: message.streamSequence,
      storedAtMs: storedAtMs(message),
      lastSequence: range?.last ?? before.lastSequence,
    };
    const { boot } = before;
    const report = { node, boot, batch: NO_BATCH.batch, cluster, recorded: false, timeNs: message.timeNs };
    const losses: Output[] = [];
    if (range && (boot !== '' || before.lastSequence > 0) && range.first > before.lastSequence + 1) {
      const gap = { first: before.lastSequence + 1, last: range.first - 1 };
      losses.push(this.#discardedOutput({ ...report, reason: LossReason.LOSS_REASON_RAW_DISCARDED, range: gap }));
    }
    if (range) losses.push(lossOutput({ ...report, reason: LossReason.LOSS_REASON_POISON, range }));
    const id = `${this.#nodeToken}:poison:${message.streamSequence}:${message.timeNs}`;
    await this.#publish(message, cursor, losses, { ...NO_BATCH, id, boot });
  }

  /** Numbers that are missing because of it, as far as its header tells and they were not accounted for before. */
  #lostRange(message: StreamMessage, error: PoisonError): SequenceRange | undefined {
    // Another node's numbers say nothing of this one's.
    if (error.code === PoisonReason.node) return undefined;
    const range = sequencesOf(message.headers);
    const accounted = this.#processed!.lastSequence;
    return range && range.last > accounted ? { first: Math.max(range.first, accounted + 1), last: range.last } : undefined;
  }

  /** Hands the messages to the publisher, in order; the cursor moves to `cursor` when all are stored. */
  async #publish(message: StreamMessage, cursor: Cursor, outputs: readonly Output[], origin: Origin): Promise<void> {
    const { events, members, metrics, cluster } = this.#deps;
    const node = tokenName(this.#nodeToken);
    const pending: PendingBatch = { cursor, output: undefined, left: outputs.length, bytes: message.size };
    this.#processed = cursor;
    this.#pending.push(pending);
    for (const [i, output] of outputs.entries()) {
      // More than the window is never handed over, so nothing waits in the publisher that could go out after the lease is lost.
      while (!events.stats.hasRoom) await events.ready();
      if (this.#abort.signal.aborted) return;
      if (!members.hasLease()) throw new Error('no lease: this enricher did not run for too long');
      const { subject, payload, name, events: count, firstSequence, lastSequence } = output;
      const { id, boot, batch } = origin;
      // What is of no batch stands alone.
      const place = batch === 0 ? { part: 1, parts: 1 } : { part: i + 1, parts: outputs.length };
      const headers = formatEventHeaders({
        schema: SCHEMA_VERSION,
        cluster,
        node,
        boot,
        batch,
        ...place,
        firstSequence,
        lastSequence,
        events: count,
      });
      const messageId = `${id}:${name}`;
      if (this.#present?.has(messageId) === true) {
        metrics.duplicates.inc();
        pending.left--;
        continue;
      }
      metrics.bytesPublished.inc(payload.length);
      events.publish({ subject, payload, messageId, headers, lane: `${this.#nodeToken} ${subject}` }).then(
        ack => {
          metrics.messagesStored.inc();
          metrics.eventsStored.inc(count);
          if (ack.duplicate) metrics.duplicates.inc();
          if (ack.sequence > (pending.output?.streamSequence ?? 0)) pending.output = { streamSequence: ack.sequence, boot, batch };
          pending.left--;
          this.#advance();
        },
        (error: unknown) => this.#fail(error),
      );
    }
    this.#advance();
  }

  /** Moves the cursor over every batch whose messages are all stored. */
  #advance(): void {
    if (this.#abort.signal.aborted) return;
    let done = 0;
    while (done < this.#pending.length && this.#pending[done]!.left === 0) {
      this.#giveBack(this.#pending[done]!.bytes);
      const { cursor, output } = this.#pending[done]!;
      this.#stored = { ...cursor, output: output ?? this.#stored?.output };
      done++;
    }
    if (done === 0) return;
    this.#pending.splice(0, done);
    this.#writeTimer ??= setTimeout(() => this.#writeCursor(), this.#deps.cursorIntervalMs());
    if (this.#pending.length === 0 && !this.#isProcessing) this.#drained?.();
  }

  #writeCursor(): void {
    this.#writeTimer = undefined;
    const cursor = this.#stored;
    if (!cursor || cursor === this.#written || this.#writing || this.#abort.signal.aborted) return;
    this.#writing = this.#deps.cursors
      .update(this.#cursorKey, { ...cursor, synced: this.#syncedPlace(cursor) }, this.#revision)
      .then(
        revision => {
          this.#revision = revision;
          this.#written = cursor;
        },
        (error: unknown) => this.#fail(error),
      )
      .finally(() => {
        this.#writing = undefined;
        if (this.#stored !== this.#written && !this.#releasing)
          this.#writeTimer ??= setTimeout(() => this.#writeCursor(), this.#deps.cursorIntervalMs());
      });
  }

  /** The place that is surely on NATS's disk while this one is written. */
  #syncedPlace(cursor: Cursor): EnrichedPlace {
    const nowMs = performance.now();
    const places = this.#places;
    places.push({ place: placeOf(cursor), writtenAtMs: nowMs });
    while (nowMs - places[1]!.writtenAtMs > NATS_SYNCED_AFTER_MS) {
      places.shift();
      this.#present = undefined;
    }
    return places[0]!.place;
  }

  /** Resolves when everything read is stored, the session ended, or it took too long. */
  async #drain(): Promise<void> {
    if (this.#pending.length === 0 && !this.#isProcessing) return;
    const { signal } = this.#abort;
    const drained = Promise.withResolvers<void>();
    this.#drained = drained.resolve;
    const timer = setTimeout(drained.resolve, RELEASE_TIMEOUT_MS);
    signal.addEventListener('abort', () => drained.resolve());
    await drained.promise;
    clearTimeout(timer);
  }

  #fail(error: unknown): void {
    if (this.#abort.signal.aborted) return;
    const reason = error instanceof Error ? error.message : String(error);
    this.#deps.metrics.restarts.inc({ reason: hasErrorCode(error, 'BUCKET_CONFLICT') ? 'cursor' : 'trouble' });
    this.#deps.logger.warn({ node: tokenName(this.#nodeToken), reason }, 'node starts again from its cursor');
    this.#finish(reason);
  }

  #finish(reason: string | undefined): void {
    if (this.#abort.signal.aborted) return;
    this.#abort.abort();
    clearTimeout(this.#writeTimer);
    this.#reader?.close();
    this.#pending.length = 0;
    this.#giveBack(this.#heldBytes);
    this.#deps.metrics.lag.remove({ node: this.#nodeToken });
    this.#end.resolve(reason);
  }
}

/**
 * 8 bytes of the batch's digest, as part of the ids of what it becomes: another batch of the same number and shape, which somebody forged or which a sensor
 * made that had forgotten its numbers, is not taken for a repetition of the first.
 */
function digestOf(payload: Uint8Array): string {
  return hash('sha256', payload, 'hex').slice(0, 16);
}

function placeOf({ streamSequence, storedAtMs, batch, boot, lastSequence }: EnrichedPlace): EnrichedPlace {
  return { streamSequence, storedAtMs, batch, boot, lastSequence };
}

function storedAtMs({ timeNs }: StreamMessage): number {
  return Math.round(timeNs / 1e6);
}

/** Headers that say how to read the payload. The server's own and the id are left behind: the dead letter has its own id. */
function originalHeaders(message: StreamMessage): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const name of message.headers?.keys() ?? []) {
    if (name.startsWith('Tidegate-')) kept[name] = headerText(message.headers!.get(name));
  }
  return kept;
}

/** A header's value takes neither line ends nor anything beyond ASCII, and need not be long. */
function headerText(text: string): string {
  return text.slice(0, 256).replaceAll(/[^\x20-\x7e]/g, '?');
}
