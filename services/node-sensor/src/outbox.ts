import { LossReason, NATS_SYNCED_AFTER_MS, lossReasonName, type Loss } from '@tidegate/contracts';
import { hasErrorCode, type Logger, type Publisher } from '@tidegate/runtime';
import { openSequenceFile, type SequenceFile } from './sequence-file.ts';
import { countKinds, rawMessage, withLosses, type RawBatch } from './raw-batch.ts';
import { openSpool, type Spool, type SpoolStats, type TakenBatch } from './spool.ts';

export interface OutboxOptions {
  node: string;
  spoolFolder: string;
  spoolMaxBytes: number;
  /** Bytes of batches that NATS has acknowledged and may not have written to its disk, kept in memory. */
  keptMaxBytes: number;
  /** Small file with the highest number known to be in RAW. */
  acknowledgedFile: string;
  logger: Logger;
}

/**
 * Brings batches to RAW in order. While NATS takes them they go straight; else through the spool, and the spool is emptied before anything
 * newer goes straight again. Whatever numbers are missing between one batch and the next (killed with batches in memory, dropped from a full
 * spool, corrupt on disk, refused by the stream) are covered by a loss event in the next batch: so there is one place that sees to it.
 *
 * What NATS has acknowledged is kept for NATS_SYNCED_AFTER_MS, since a server whose power fails loses what it had not yet written to its disk: then it is sent again.
 */
export interface Outbox {
  readonly stats: Readonly<OutboxStats>;
  readonly spool: Readonly<SpoolStats>;
  /** Highest number that is in RAW as far as acks and the spool tell; 0: none. */
  readonly acknowledged: number;
  readonly lastSpooled: number;
  /** Takes a batch of the reader, in order. */
  push(batch: RawBatch): void;
  /** Bytes that NATS has acknowledged and may lose yet. */
  readonly keptBytes: number;
  /**
   * NATS is there, for the first time or after RAW has lost what it had acknowledged.
   * @param stored highest number that RAW holds of this node; undefined: it holds none
   * @param reported highest number that an earlier sensor reported: where RAW holds none, all up to it was stored as far as anyone can tell
   */
  open(publisher: Publisher, stored: number | undefined, reported: number): void;
  /** Publishes what it can in the time, spools the rest. */
  close(options: { drainTimeoutMs: number }): Promise<void>;
}

export interface OutboxStats {
  publishedBatches: number;
  publishedEvents: number;
  publishedBytes: number;
  /** Events lost, by name of the reason. */
  lost: Record<string, number>;
  /** Batches go through the spool at the moment. */
  spooling: boolean;
}

/** Ranges dropped and not yet covered by a loss event that are told apart; beyond it neighbours are merged with what is between. */
const MAX_RANGES = 1_024;

/** A batch that NATS has acknowledged. */
interface KeptBatch {
  message: RawBatch;
  acknowledgedAtMs: number;
}

/** Numbers known to be lost, with the reason. */
interface LostRange {
  reason: LossReason;
  first: number;
  last: number;
  byKind: Record<number, number>;
}

export function createOutbox(options: OutboxOptions): Outbox {
  return new OrderedOutbox(options);
}

class OrderedOutbox implements Outbox {
  readonly stats: OutboxStats = { publishedBatches: 0, publishedEvents: 0, publishedBytes: 0, lost: {}, spooling: false };
  readonly #options: OutboxOptions;
  readonly #spool: Spool;
  readonly #acknowledged: SequenceFile;
  #publisher: Publisher | undefined;
  /** Every number up to here is in RAW, or on its way, or covered by a loss event that is. Not known before open(). */
  #accounted = 0;
  /** Dropped from the spool: explains a gap that will show. Ascending. */
  #dropped: LostRange[] = [];
  /** Refused by the stream after later batches had left: goes with the next one. */
  #refused: LostRange[] = [];
  /** Not acknowledged when the publisher ended. */
  #unpublished: RawBatch[] = [];
  /** Oldest first. */
  #kept: KeptBatch[] = [];
  #keptBytes = 0;
  /** Runs while something is kept. */
  #keepTimer: NodeJS.Timeout | undefined;
  #replaying: Promise<void> = Promise.resolve();
  #isReplaying = false;
  #closing: Promise<void> | undefined;

  constructor(options: OutboxOptions) {
    this.#options = options;
    const { spoolFolder: folder, spoolMaxBytes: maxBytes, acknowledgedFile, logger } = options;
    this.#spool = openSpool({
      folder,
      maxBytes,
      logger,
      onDrop: ({ firstSequence, lastSequence }, byKind) =>
        this.#onDrop({ reason: LossReason.LOSS_REASON_SPOOL_FULL, first: firstSequence, last: lastSequence, byKind }),
    });
    this.#acknowledged = openSequenceFile(acknowledgedFile, logger);
  }

  get spool(): Readonly<SpoolStats> {
    return this.#spool.stats;
  }

  get acknowledged(): number {
    return this.#acknowledged.sequence;
  }

  get lastSpooled(): number {
    return this.#spool.lastSequence;
  }

  push(batch: RawBatch): void {
    const publisher = this.#publisher;
    const isDirect = !this.#isReplaying && this.#spool.stats.batches === 0;
    if (publisher && isDirect && publisher.stats.flowing && publisher.stats.hasRoom) return this.#publish(publisher, batch);
    this.#setSpooling(true);
    this.#spool.append(batch);
    this.#replay();
  }

  get keptBytes(): number {
    return this.#keptBytes;
  }

  open(publisher: Publisher, stored: number | undefined, reported: number): void {
    const acknowledged = this.#acknowledged.sequence;
    const firstKept = this.#kept[0]?.message.firstSequence;
    this.#accounted = stored ?? (firstKept === undefined ? Math.max(reported, acknowledged) : firstKept - 1);
    const lost = this.#kept.map(({ message }) => message).filter(({ lastSequence }) => lastSequence > this.#accounted);
    this.#forgetKept(this.#kept.length);
    const resent = [...lost, ...this.#unpublished.splice(0)];
    if (this.#accounted < acknowledged) {
      this.#acknowledged.setBack(this.#accounted);
      const last = Math.min(acknowledged, (resent[0]?.firstSequence ?? Infinity) - 1);
      if (last > this.#accounted) this.#onDrop({ reason: LossReason.LOSS_REASON_NATS_LOST, first: this.#accounted + 1, last, byKind: {} });
      this.#options.logger.error(
        { stored: this.#accounted, acknowledged, resentBatches: lost.length, lostEvents: Math.max(0, last - this.#accounted) },
        'RAW has lost batches that it had acknowledged: NATS lost power, or a file of it is damaged',
      );
    }
    this.#spool.prepend(resent);
    this.#publisher = publisher;
    this.#replay();
  }

  close({ drainTimeoutMs }: { drainTimeoutMs: number }): Promise<void> {
    return (this.#closing ??= this.#close(drainTimeoutMs));
  }

  async #close(drainTimeoutMs: number): Promise<void> {
    const publisher = this.#publisher;
    const deadlineMs = performance.now() + drainTimeoutMs;
    if (publisher) {
      // What the reader gave out last may still be on its way through the spool.
      if (publisher.stats.flowing) await Promise.race([this.#replaying, timeout(drainTimeoutMs)]);
      await publisher.close({ drainTimeoutMs: publisher.stats.flowing ? Math.max(0, deadlineMs - performance.now()) : 0 });
      this.#publisher = undefined;
      await this.#replaying;
    }
    this.#spool.prepend(this.#unpublished.splice(0));
    this.#forgetKept(this.#kept.length);
    this.#spool.close();
    this.#acknowledged.close();
  }

  /** Empties the spool while there is room in the window; one at a time. */
  #replay(): void {
    if (!this.#publisher || this.#isReplaying || this.#spool.stats.batches === 0) return;
    this.#isReplaying = true;
    this.#replaying = this.#replayAll(this.#publisher);
  }

  async #replayAll(publisher: Publisher): Promise<void> {
    try {
      for (;;) {
        await publisher.ready();
        const taken = this.#spool.take();
        if (!taken) break;
        this.#publish(publisher, taken.batch, taken);
      }
      // In the same turn as the look into the empty spool: what is pushed next goes straight.
      this.#isReplaying = false;
      this.#setSpooling(false);
    } catch (error) {
      this.#isReplaying = false;
      if (!hasErrorCode(error, 'PUBLISH_CLOSED')) throw error;
    }
  }

  #publish(publisher: Publisher, batch: RawBatch, spooled?: TakenBatch): void {
    if (batch.lastSequence <= this.#accounted) return spooled?.release(); // stored before the sensor was restarted
    const losses = this.#lossesBefore(batch);
    const message = withLosses(batch, losses);
    this.#accounted = batch.lastSequence;
    publisher.publish(rawMessage(this.#options.node, message)).then(
      () => {
        this.stats.publishedBatches++;
        this.stats.publishedEvents += message.events;
        this.stats.publishedBytes += message.payload.length;
        this.#acknowledged.advance(batch.lastSequence);
        this.#keep(message);
        spooled?.release();
      },
      (error: unknown) => {
        if (hasErrorCode(error, 'PUBLISH_CLOSED')) {
          // At its end a sensor leaves on disk what is there.
          if (this.#closing && spooled?.isOnDisk === true) return;
          this.#unpublished.push(message);
          return spooled?.release();
        }
        this.#options.logger.error(
          { err: error, firstSequence: message.firstSequence, lastSequence: message.lastSequence },
          'batch refused for good',
        );
        this.#refused.push(
          this.#count({
            reason: LossReason.LOSS_REASON_REJECTED,
            first: message.firstSequence,
            last: message.lastSequence,
            byKind: kindsOf(batch),
          }),
        );
        this.#refused = bounded(this.#refused);
        spooled?.release();
      },
    );
  }

  #keep(message: RawBatch): void {
    this.#kept.push({ message, acknowledgedAtMs: performance.now() });
    this.#keptBytes += message.payload.length;
    this.#trimKept();
    this.#keepTimer ??= setInterval(() => this.#trimKept(), NATS_SYNCED_AFTER_MS).unref();
  }

  #trimKept(): void {
    const oldestMs = performance.now() - NATS_SYNCED_AFTER_MS;
    // While NATS is away, nothing shows that it had the time.
    const mayForget = this.#publisher?.stats.flowing === true;
    let bytes = this.#keptBytes;
    let count = 0;
    for (const { message, acknowledgedAtMs } of this.#kept) {
      if (bytes <= this.#options.keptMaxBytes && !(mayForget && acknowledgedAtMs < oldestMs)) break;
      bytes -= message.payload.length;
      count++;
    }
    if (count > 0) this.#forgetKept(count);
  }

  #forgetKept(count: number): void {
    for (const { message } of this.#kept.splice(0, count)) this.#keptBytes -= message.payload.length;
    if (this.#kept.length > 0) return;
    clearInterval(this.#keepTimer);
    this.#keepTimer = undefined;
  }

  /** Loss events for what is missing before this batch, and for what the stream refused meanwhile. */
  #lossesBefore({ firstSequence }: RawBatch): Loss[] {
    const ranges = this.#refused.splice(0);
    if (firstSequence > this.#accounted + 1) {
      let next = this.#accounted + 1;
      for (const dropped of this.#dropped) {
        if (dropped.last < next || dropped.first >= firstSequence) continue;
        if (dropped.first > next) ranges.push(this.#count(unexplained(next, dropped.first - 1)));
        ranges.push(dropped);
        next = dropped.last + 1;
      }
      if (next < firstSequence) ranges.push(this.#count(unexplained(next, firstSequence - 1)));
    }
    this.#dropped = this.#dropped.filter(({ first }) => first >= firstSequence);
    return ranges.map(({ reason, first, last, byKind }) => ({
      reason,
      count: last - first + 1,
      firstSequence: first,
      lastSequence: last,
      byKind,
    }));
  }

  #onDrop(range: LostRange): void {
    this.#count(range);
    const at = this.#dropped.findLastIndex(({ first }) => first < range.first) + 1;
    const before = this.#dropped[at - 1];
    if (before?.last === range.first - 1) {
      before.last = range.last;
      for (const [kind, count] of Object.entries(range.byKind)) before.byKind[Number(kind)] = (before.byKind[Number(kind)] ?? 0) + count;
    } else this.#dropped.splice(at, 0, { ...range });
    this.#dropped = bounded(this.#dropped);
  }

  #count(range: LostRange): LostRange {
    const name = lossReasonName(range.reason);
    this.stats.lost[name] = (this.stats.lost[name] ?? 0) + range.last - range.first + 1;
    return range;
  }

  #setSpooling(spooling: boolean): void {
    if (this.stats.spooling === spooling) return;
    this.stats.spooling = spooling;
    const { bytes, batches } = this.#spool.stats;
    if (spooling) this.#options.logger.warn('NATS does not keep up or is away: batches go to the spool');
    else this.#options.logger.info({ bytes, batches }, 'the spool is empty again');
  }
}

/** Numbers given out that nobody holds: they were in the memory of a sensor that was killed. */
function unexplained(first: number, last: number): LostRange {
  return { reason: LossReason.LOSS_REASON_SENSOR_RESTART, first, last, byKind: {} };
}

function kindsOf(batch: RawBatch): Record<number, number> {
  try {
    return countKinds(batch);
  } catch {
    return {};
  }
}

/** Keeps the list short by merging its two oldest; the numbers between them are then said to be lost, which overstates and never hides. */
function bounded(ranges: LostRange[]): LostRange[] {
  if (ranges.length <= MAX_RANGES) return ranges;
  const [oldest, next, ...rest] = ranges as [LostRange, LostRange, ...LostRange[]];
  return [{ ...oldest, last: Math.max(oldest.last, next.last), byKind: {} }, ...rest];
}

function timeout(milliseconds: number): Promise<void> {
  return new Promise(resolve => {
    setTimeout(resolve, milliseconds).unref();
  });
}
