/**
 * A set of sequence numbers that is almost everywhere full: one bit a number in chunks, and a chunk whose bits are all set keeps none of them.
 * So 500 million numbers cost some hundred kilobytes when nothing is missing, and 62 MB when something is missing in every chunk.
 */
import { TidegateError } from '@tidegate/runtime';

/** Numbers in a chunk: 8 KiB of bits. */
const CHUNK_NUMBERS = 65_536;
/** Chunks with holes that are kept, together 256 MiB. More means the numbers are not a node's sequence at all. */
const MAX_OPEN_CHUNKS = 32_768;

interface Chunk {
  /** null: every number of the chunk is in the set. */
  bits: Uint32Array | null;
  count: number;
}

/** Both ends included. */
export interface SequenceRange {
  first: number;
  last: number;
}

export class SequenceSet {
  readonly #chunks = new Map<number, Chunk>();
  #openChunks = 0;
  /** Numbers come mostly in order: the chunk of the last one is most often the next one's. */
  #recentIndex = -1;
  #recent: Chunk = { bits: null, count: 0 };

  /**
   * @param sequence a safe integer from 0
   * @returns false when it was in the set already
   * @throws {TidegateError} AUDIT_TOO_SCATTERED
   */
  add(sequence: number): boolean {
    const index = Math.floor(sequence / CHUNK_NUMBERS);
    if (index !== this.#recentIndex) {
      this.#recent = this.#chunks.get(index) ?? this.#open(index);
      this.#recentIndex = index;
    }
    const chunk = this.#recent;
    if (chunk.bits === null) return false;
    const offset = sequence % CHUNK_NUMBERS;
    const word = offset >>> 5;
    const bit = 1 << (offset & 31);
    if ((chunk.bits[word]! & bit) !== 0) return false;
    chunk.bits[word]! |= bit;
    if (++chunk.count === CHUNK_NUMBERS) {
      chunk.bits = null;
      this.#openChunks--;
    }
    return true;
  }

  /** Runs of numbers of first..last that are not in the set, ascending, each as long as it can be. */
  *missing(first: number, last: number): Generator<SequenceRange> {
    let runStart = first;
    for (const sequence of this.#presentRuns(first, last)) {
      if (sequence.first > runStart) yield { first: runStart, last: sequence.first - 1 };
      runStart = sequence.last + 1;
    }
    if (runStart <= last) yield { first: runStart, last };
  }

  /** Runs that are there; neighbouring runs may touch. Steps over what is absent, however wide. */
  *#presentRuns(first: number, last: number): Generator<SequenceRange> {
    const indexes = [...this.#chunks.keys()].sort((a, b) => a - b);
    for (const index of indexes) {
      const start = index * CHUNK_NUMBERS;
      const from = Math.max(first, start);
      const to = Math.min(last, start + CHUNK_NUMBERS - 1);
      if (from > to) continue;
      const { bits } = this.#chunks.get(index)!;
      if (bits === null) {
        yield { first: from, last: to };
        continue;
      }
      let run = -1;
      for (let offset = from - start; offset <= to - start; offset++) {
        const isThere = (bits[offset >>> 5]! & (1 << (offset & 31))) !== 0;
        if (isThere && run < 0) run = offset;
        else if (!isThere && run >= 0) {
          yield { first: start + run, last: start + offset - 1 };
          run = -1;
        }
      }
      if (run >= 0) yield { first: start + run, last: to };
    }
  }

  #open(index: number): Chunk {
    if (this.#openChunks >= MAX_OPEN_CHUNKS)
      throw new TidegateError('AUDIT_TOO_SCATTERED', 'sequence numbers lie too far apart to be audited', {
        field: 'sequence',
        expected: `numbers of at most ${MAX_OPEN_CHUNKS} incomplete blocks of ${CHUNK_NUMBERS}`,
        got: `${index * CHUNK_NUMBERS} in one block more`,
      });
    const chunk: Chunk = { bits: new Uint32Array(CHUNK_NUMBERS / 32), count: 0 };
    this.#chunks.set(index, chunk);
    this.#openChunks++;
    return chunk;
  }
}
