/**
 * Finds where a batch ends of which a filter showed only some parts: reads the headers of what is stored around it, whatever the subject. Enrichers store the
 * parts in order and a node's batches one after the other, so the last part, or any message of another batch of the node, says that no more can come.
 */
import { parseEventHeaders, STREAMS } from '@tidegate/contracts';
import type { StreamMessage, StreamReaders } from '@tidegate/runtime';
import type { HeldGroup } from './batch-order.ts';
import type { BatchWalk } from './batch-walk.ts';
import { sourceOf } from './event-message.ts';

/** Messages looked at; a batch whose parts are further apart than that is taken for whole. */
const MAX_MESSAGES = 20_000;
/** Backwards windows are read; the first is about as much as one batch is apart from the next. */
const FIRST_WINDOW = 64;
const WINDOW_GROWTH = 8;

export interface BatchSearch {
  /**
   * Stream sequence after which no more parts come; undefined: those that are missing are not stored yet.
   * @throws {TidegateError} STREAM_UNAVAILABLE
   */
  endAhead(group: HeldGroup): Promise<number | undefined>;
  /**
   * Lets go of batches that hold up an ascending walk and that it is beyond the end of.
   * @param passedBytes payload bytes that were passed since their latest message, at least
   * @throws {TidegateError} STREAM_UNAVAILABLE
   */
  settleAhead(walk: BatchWalk, passedBytes?: number): Promise<void>;
  /**
   * Stream sequence before which no more parts come.
   * @param first where the stream, or what is asked for, begins
   * @throws {TidegateError} STREAM_UNAVAILABLE
   */
  endBehind(group: HeldGroup, first: number): Promise<number>;
}

export function createBatchSearch(readers: StreamReaders): BatchSearch {
  /** Where in the range the batch ends. */
  async function findEnd(group: HeldGroup, first: number, last: number | undefined, endPart: number): Promise<number | undefined> {
    const reader = readers.open({
      stream: STREAMS.events.name,
      start: { streamSequence: first },
      headersOnly: true,
      ...(last !== undefined && { last }),
    });
    let looked = 0;
    try {
      for await (const message of reader.read({ follow: false })) {
        if (isEnd(message, group, endPart) || ++looked >= MAX_MESSAGES) return message.streamSequence;
      }
      return undefined;
    } finally {
      reader.close();
    }
  }

  const endAhead = (group: HeldGroup) => findEnd(group, group.last + 1, undefined, group.parts);

  return {
    endAhead,
    async settleAhead(walk, passedBytes = 0) {
      for (const group of walk.held(passedBytes)) {
        group.end ??= await endAhead(group);
        walk.settle(group);
      }
    },
    async endBehind(group, first) {
      let high = group.last - 1;
      for (let size = FIRST_WINDOW; high >= first && group.last - high <= MAX_MESSAGES; size *= WINDOW_GROWTH) {
        const low = Math.max(first, high - size + 1);
        // Of several that would do, the first in the stream is no nearer than the last: going beyond it does no harm.
        const end = await findEnd(group, low, high, 1);
        if (end !== undefined) return end;
        high = low - 1;
      }
      return Math.max(first, high);
    },
  };
}

function isEnd({ headers }: StreamMessage, { source, batchId }: HeldGroup, endPart: number): boolean {
  const said = parseEventHeaders(name => headers?.get(name));
  if (!said || said.batch === 0 || sourceOf(said) !== source) return false;
  return `${said.boot}:${said.batch}` !== batchId || said.part === endPart;
}
