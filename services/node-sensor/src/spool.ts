import { closeSync, fstatSync, ftruncateSync, mkdirSync, openSync, readSync, readdirSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { BatchError, thinBatch } from '@tidegate/contracts';
import type { Logger } from '@tidegate/runtime';
import { countKinds, plainBatch, repacked, type RawBatch } from './raw-batch.ts';
import { PREFIX_BYTES, decodeEntry, decodeHead, decodePrefix, encodeEntry } from './spool-entry.ts';

export interface SpoolOptions {
  /** Made when missing. */
  folder: string;
  maxBytes: number;
  logger: Logger;
  /** Called for each batch that is thrown away, with the kinds in it. */
  onDrop: (batch: Pick<RawBatch, 'firstSequence' | 'lastSequence'>, byKind: Record<number, number>) => void;
}

/** A batch taken from the spool. It stays on disk until `release` is called, once, or until its room is needed. */
export interface TakenBatch {
  readonly batch: RawBatch;
  readonly isOnDisk: boolean;
  release(): void;
}

/**
 * Batches on disk, first in, first out, in segment files named by the first number in them. Everything is synchronous: entries go to the
 * page cache, which outlives the process (not a power failure), in some tens of microseconds.
 *
 * When it is full, or the disk is, what was taken and not released goes first: its taker still holds it. Then the oldest segment that was not yet is thinned: events of low priority leave, and a loss event in the
 * same batch counts them. When all are thinned, the oldest goes whole. A segment is thinned in place, since a full disk has no room for a copy.
 */
export interface Spool {
  readonly stats: Readonly<SpoolStats>;
  /** Highest number on disk; 0: none. */
  readonly lastSequence: number;
  /** Appends; when there is no room to be had, the batch itself is dropped. */
  append(batch: RawBatch): void;
  /** Puts back batches older than all that are here; they were taken or never here. */
  prepend(batches: readonly RawBatch[]): void;
  /** The oldest batch; undefined: none. */
  take(): TakenBatch | undefined;
  close(): void;
}

export interface SpoolStats {
  bytes: number;
  batches: number;
  maxBytes: number;
  /** Since it was opened. */
  appended: number;
  thinnedEvents: number;
  droppedBatches: number;
  corruptEntries: number;
}

/** A sixteenth of the spool, so that dropping one costs little, within bounds that fit into memory. */
const SEGMENT_SHARE = 16;
const SEGMENT_BYTES = { min: 64 * 1024, max: 8 * 1024 * 1024 } as const;
const NAME_DIGITS = 16;
const SUFFIX = '.spool';

interface Segment {
  path: string;
  /** Open while it takes appends, and while its batches are taken. */
  fd: number | undefined;
  bytes: number;
  batches: number;
  lastSequence: number;
  thinned: boolean;
  /** Where the next batch to take begins. */
  offset: number;
  /** Taken and not released. */
  taken: number;
  /** No longer in the list: removed when the last taken batch is released. */
  done: boolean;
  removed: boolean;
}

/** Opens the spool, with what an earlier run left in it. */
export function openSpool(options: SpoolOptions): Spool {
  return new SegmentSpool(options);
}

class SegmentSpool implements Spool {
  readonly stats: SpoolStats;
  readonly #options: SpoolOptions;
  #segmentBytes: number;
  readonly #segments: Segment[] = [];
  readonly #released: Segment[] = [];
  #lastSequence = 0;
  /** The last segment takes appends. */
  #isOpenForAppend = false;

  constructor(options: SpoolOptions) {
    this.#options = options;
    this.#segmentBytes = segmentBytes(options.maxBytes);
    this.stats = { bytes: 0, batches: 0, maxBytes: options.maxBytes, appended: 0, thinnedEvents: 0, droppedBatches: 0, corruptEntries: 0 };
    mkdirSync(options.folder, { recursive: true });
    const names = readdirSync(options.folder).filter(name => name.endsWith(SUFFIX));
    for (const name of names.sort()) this.#recover(join(options.folder, name));
  }

  get lastSequence(): number {
    return this.#lastSequence;
  }

  append(batch: RawBatch): void {
    const entry = encodeEntry(batch);
    while (!this.#hasRoom(entry.length) || !this.#write(batch, entry)) {
      if (!this.#shed()) return this.#drop(batch, this.#kindsOf(batch));
    }
    this.stats.appended++;
  }

  prepend(batches: readonly RawBatch[]): void {
    if (batches.length === 0) return;
    const later = this.#segments.splice(0);
    const couldAppend = this.#isOpenForAppend;
    this.#isOpenForAppend = false;
    for (const batch of batches) this.append(batch);
    this.#seal();
    this.#isOpenForAppend = couldAppend && later.length > 0;
    this.#segments.push(...later);
  }

  take(): TakenBatch | undefined {
    for (let segment = this.#segments[0]; segment; segment = this.#segments[0]) {
      const taken = this.#readNext(segment);
      if (taken) return taken;
      this.#segments.shift();
      if (this.#segments.length === 0) this.#isOpenForAppend = false;
      this.#finish(segment);
    }
    return undefined;
  }

  close(): void {
    for (const segment of [...this.#segments.splice(0), ...this.#released.splice(0)]) this.#shut(segment);
  }

  #recover(path: string): void {
    const fd = openSync(path, 'r+');
    const segment = newSegment(path, fd);
    const { size } = fstatSync(fd);
    while (segment.bytes < size) {
      const prefix = decodePrefix(readAt(fd, segment.bytes, PREFIX_BYTES));
      if (!prefix || segment.bytes + prefix.bytes > size) break;
      const head = decodeHead(readAt(fd, segment.bytes + PREFIX_BYTES, prefix.headBytes));
      if (!head) break;
      segment.bytes += prefix.bytes;
      segment.batches++;
      segment.lastSequence = head.lastSequence;
    }
    if (segment.bytes < size) {
      // The process died while it wrote, or the disk lies. What is missing shows as a gap in the numbers.
      this.#options.logger.warn({ path, keptBytes: segment.bytes, bytes: size }, 'spool segment ends in an incomplete entry');
      this.stats.corruptEntries++;
      ftruncateSync(fd, segment.bytes);
    }
    this.#shut(segment);
    if (segment.batches === 0) return unlinkSync(path);
    this.#segments.push(segment);
    this.stats.bytes += segment.bytes;
    this.stats.batches += segment.batches;
    this.#lastSequence = Math.max(this.#lastSequence, segment.lastSequence);
  }

  #hasRoom(bytes: number): boolean {
    return this.stats.bytes + bytes <= this.#options.maxBytes;
  }

  /** False when the disk is full. */
  #write(batch: RawBatch, entry: Buffer): boolean {
    let segment = this.#isOpenForAppend ? this.#segments.at(-1) : undefined;
    try {
      if (!segment || segment.bytes + entry.length > this.#segmentBytes) segment = this.#openSegment(batch.firstSequence);
      writeFully(this.#fd(segment), entry, segment.bytes);
    } catch (error) {
      if (!isDiskFull(error)) throw error;
      if (segment && segment.bytes > 0) ftruncateSync(this.#fd(segment), segment.bytes);
      else if (segment) this.#abandon(segment);
      // The disk is the limit now: segments that are a small share of what it holds.
      this.#segmentBytes = Math.min(this.#segmentBytes, segmentBytes(this.stats.bytes));
      return false;
    }
    segment.bytes += entry.length;
    segment.batches++;
    segment.lastSequence = batch.lastSequence;
    this.stats.bytes += entry.length;
    this.stats.batches++;
    this.#lastSequence = Math.max(this.#lastSequence, batch.lastSequence);
    return true;
  }

  #openSegment(firstSequence: number): Segment {
    this.#seal();
    const path = join(this.#options.folder, `${String(firstSequence).padStart(NAME_DIGITS, '0')}${SUFFIX}`);
    const segment = newSegment(path, openSync(path, 'w+'));
    this.#segments.push(segment);
    this.#isOpenForAppend = true;
    return segment;
  }

  /** A new segment for which the disk had no room. */
  #abandon(segment: Segment): void {
    this.#segments.pop();
    this.#isOpenForAppend = false;
    this.#finish(segment);
  }

  #readNext(segment: Segment): TakenBatch | undefined {
    while (segment.offset < segment.bytes) {
      const prefix = decodePrefix(readAt(this.#fd(segment), segment.offset, PREFIX_BYTES));
      if (!prefix) {
        this.#corrupt(segment, segment.bytes - segment.offset);
        segment.offset = segment.bytes;
        return undefined;
      }
      const batch = decodeEntry(readAt(this.#fd(segment), segment.offset, prefix.bytes), prefix);
      segment.offset += prefix.bytes;
      segment.batches--;
      this.stats.batches--;
      if (!batch) {
        this.#corrupt(segment, prefix.bytes);
        continue;
      }
      segment.taken++;
      let isReleased = false;
      return {
        batch,
        get isOnDisk() {
          return !segment.removed;
        },
        release: () => {
          if (isReleased) return;
          isReleased = true;
          segment.taken--;
          this.#removeWhenDone(segment);
        },
      };
    }
    return undefined;
  }

  #corrupt(segment: Segment, bytes: number): void {
    this.stats.corruptEntries++;
    this.#options.logger.error({ path: segment.path, bytes }, 'spool entry is corrupt');
  }

  #removeWhenDone(segment: Segment): void {
    if (!segment.done || segment.removed) return;
    const index = this.#released.indexOf(segment);
    if (segment.taken > 0) {
      if (index < 0) this.#released.push(segment);
      return;
    }
    if (index >= 0) this.#released.splice(index, 1);
    this.#remove(segment);
  }

  #remove(segment: Segment): void {
    segment.removed = true;
    this.stats.bytes -= segment.bytes;
    this.stats.batches -= segment.batches;
    unlinkSync(segment.path);
  }

  #finish(segment: Segment): void {
    this.#shut(segment);
    segment.done = true;
    this.#removeWhenDone(segment);
  }

  #fd(segment: Segment): number {
    return (segment.fd ??= openSync(segment.path, 'r+'));
  }

  #shut(segment: Segment): void {
    if (segment.fd !== undefined) closeSync(segment.fd);
    segment.fd = undefined;
  }

  /** The last segment takes no more appends. */
  #seal(): void {
    const last = this.#isOpenForAppend ? this.#segments.at(-1) : undefined;
    if (last) this.#shut(last);
    this.#isOpenForAppend = false;
  }

  /** Makes room; false when there is nothing left to give up. */
  #shed(): boolean {
    const taken = this.#released.shift();
    if (taken) {
      this.#remove(taken);
      return true;
    }
    const active = this.#isOpenForAppend ? this.#segments.at(-1) : undefined;
    // A segment that has just begun to fill is left to fill: or there would be ever more and ever smaller ones.
    const isFilled = (segment: Segment) => segment !== active || segment.bytes >= this.#segmentBytes / 2 || this.#segments.length === 1;
    const fat = this.#segments.find(segment => !segment.thinned && isFilled(segment));
    if (fat) {
      if (fat === active) this.#seal();
      this.#thin(fat);
      return true;
    }
    const oldest = this.#segments.shift();
    if (!oldest) return false;
    if (this.#segments.length === 0) this.#isOpenForAppend = false;
    for (let next = this.#readNext(oldest); next; next = this.#readNext(oldest)) {
      this.#drop(next.batch, this.#kindsOf(next.batch));
      next.release();
    }
    this.#finish(oldest);
    return true;
  }

  /** Takes the events of low priority out of a segment's batches that were not taken yet. */
  #thin(segment: Segment): void {
    segment.thinned = true;
    const rest = readAt(this.#fd(segment), segment.offset, segment.bytes - segment.offset);
    const entries: Buffer[] = [];
    let offset = 0;
    let thinnedEvents = 0;
    while (offset < rest.length) {
      const prefix = decodePrefix(rest.subarray(offset, offset + PREFIX_BYTES));
      if (!prefix) break;
      const bytes = rest.subarray(offset, offset + prefix.bytes);
      offset += prefix.bytes;
      const thinned = thinEntry(decodeEntry(bytes, prefix));
      thinnedEvents += thinned?.dropped ?? 0;
      // A thinned entry that grew, or one that cannot be read, stays as it is: the segment must not grow, and taking it will tell.
      entries.push(thinned && thinned.entry.length < bytes.length ? thinned.entry : bytes);
    }
    const kept = Buffer.concat(entries);
    writeFully(this.#fd(segment), kept, segment.offset);
    ftruncateSync(this.#fd(segment), segment.offset + kept.length);
    this.stats.bytes -= rest.length - kept.length;
    this.stats.thinnedEvents += thinnedEvents;
    segment.bytes = segment.offset + kept.length;
    if (segment !== this.#segments[0]) this.#shut(segment);
    this.#options.logger.warn(
      { path: segment.path, thinnedEvents, freedBytes: rest.length - kept.length },
      'spool is full: thinned a segment',
    );
  }

  #drop(batch: RawBatch, byKind: Record<number, number>): void {
    this.stats.droppedBatches++;
    this.#options.onDrop(batch, byKind);
  }

  #kindsOf(batch: RawBatch): Record<number, number> {
    try {
      return countKinds(batch);
    } catch {
      return {}; // How many there were is known from its numbers all the same.
    }
  }
}

function segmentBytes(maxBytes: number): number {
  return Math.min(Math.max(Math.floor(maxBytes / SEGMENT_SHARE), SEGMENT_BYTES.min), SEGMENT_BYTES.max);
}

function newSegment(path: string, fd: number): Segment {
  return { path, fd, bytes: 0, batches: 0, lastSequence: 0, thinned: false, offset: 0, taken: 0, done: false, removed: false };
}

function thinEntry(batch: RawBatch | undefined): { entry: Buffer; dropped: number } | undefined {
  if (!batch) return undefined;
  try {
    const { payload, events, dropped } = thinBatch(plainBatch(batch).payload);
    return { entry: encodeEntry({ ...repacked(batch, payload), events }), dropped };
  } catch (error) {
    if (error instanceof BatchError) return undefined;
    throw error;
  }
}

function readAt(fd: number, offset: number, bytes: number): Buffer {
  const buffer = Buffer.allocUnsafe(bytes);
  let done = 0;
  while (done < bytes) {
    const count = readSync(fd, buffer, done, bytes - done, offset + done);
    if (count === 0) break;
    done += count;
  }
  return buffer.subarray(0, done);
}

function writeFully(fd: number, bytes: Buffer, offset: number): void {
  let done = 0;
  while (done < bytes.length) done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
}

function isDiskFull(error: unknown): boolean {
  return ['ENOSPC', 'EDQUOT', 'EFBIG'].includes((error as NodeJS.ErrnoException).code ?? '');
}
