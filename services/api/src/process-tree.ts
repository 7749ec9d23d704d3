/** Process trees out of EVENTS: every message that speaks of a process or of a descendant holds its exec_id, so a search for bytes finds them all. */
import { EVENTS_PREFIX, KIND_NAMES, STREAMS, formatTimeUs, recordedNode, type ProcessTree, type Unsearched } from '@tidegate/contracts';
import type { StreamReaders } from '@tidegate/runtime';
import { only, Order, WorkMeter, type EventMessage, type History } from '@tidegate/events';
import { ApiError } from './errors.ts';
import type { ExecId } from './exec-id.ts';
import { processRanges, type StreamRange } from './process-start.ts';
import { LIFECYCLE, TreeBuilder } from './tree-builder.ts';

export interface ProcessTrees {
  /** @throws {ApiError} PROCESS_NOT_FOUND @throws {TidegateError} STREAM_UNAVAILABLE */
  tree(execId: ExecId, signal: AbortSignal): Promise<ProcessTree>;
}

/** What each search may take of a request's work; the first gets all where it is about to come to an end. */
const Share = { forward: 1 / 2, backward: 1 / 4, otherKinds: 1 / 4 } as const;
/** A process is heard of this soon after its start, or another boot of its node is tried first. */
const MAX_SILENCE_MS = 60_000;

const OTHER_KINDS = KIND_NAMES.filter(kind => !LIFECYCLE.includes(kind));

export function createProcessTrees(history: History, readers: StreamReaders): ProcessTrees {
  async function tree(execId: ExecId, signal: AbortSignal): Promise<ProcessTree> {
    try {
      return await treeOn(execId, signal);
    } catch (error) {
      if (!(error instanceof ApiError && error.code === 'PROCESS_NOT_FOUND')) throw error;
      // Events of a capture that is played bear another node's name, and their exec_id still the recorded one's.
      const recorded = { ...execId, node: recordedNode(execId.node) };
      const { done } = await processRanges(recorded, await readers.bounds(STREAMS.events.name), readers).next();
      if (done) throw error;
      return await treeOn(recorded, signal);
    }
  }

  async function treeOn(execId: ExecId, signal: AbortSignal): Promise<ProcessTree> {
    const search = createSearch(history, new TreeBuilder(execId), signal);
    const { found } = search;
    const stored = await readers.bounds(STREAMS.events.name);
    const possible: StreamRange[] = [];
    for await (const range of processRanges(execId, stored, readers)) possible.push(range);
    if (possible.length === 0) possible.push(stored);

    // From its start on: a process that has ended is found whole.
    const forward = new WorkMeter(Share.forward);
    let open = await search.until(possible, range => search.forward(range, forward, MAX_SILENCE_MS));
    if (!found.isKnown) open = await search.until(open, range => search.forward(range, forward, Infinity));
    // One that runs for long: what it did of late.
    const backward = new WorkMeter(Share.backward);
    open = await search.until(open, range => search.backward(range, LIFECYCLE, backward));
    // One that ran before the sensor did and started nothing since: whatever it did.
    let otherOpen: StreamRange[] = [];
    if (!found.isKnown) {
      const otherKinds = new WorkMeter(Share.otherKinds);
      otherOpen = await search.until(possible, range => search.backward(range, OTHER_KINDS, otherKinds));
    }
    const notSearched = await Promise.all(open.map(range => unsearched(LIFECYCLE, range)));
    const result = found.result();
    if (!result) throw notFound([...notSearched, ...(await Promise.all(otherOpen.map(range => unsearched(OTHER_KINDS, range))))]);
    return {
      ...result,
      not_searched: notSearched,
      ...(found.leavesOut && { processes_left_out: true }),
      complete: notSearched.length === 0 && !found.leavesOut,
    };
  }

  async function unsearched(kinds: readonly string[], { first, last }: StreamRange): Promise<Unsearched> {
    const [from, to] = await Promise.all(
      [first, last].map(async sequence => {
        const message = await readers.message(STREAMS.events.name, `${EVENTS_PREFIX}.>`, { from: sequence });
        return formatTimeUs((message?.timeNs ?? 0) / 1000);
      }),
    );
    return { kinds, from: from!, to: to! };
  }

  return { tree };
}

/** Searches of one request; each gives the part of its range that it did not get to. */
function createSearch(history: History, found: TreeBuilder, signal: AbortSignal) {
  const whole = new WorkMeter();

  async function forward(range: StreamRange, work: WorkMeter, maxSilenceMs: number): Promise<StreamRange | undefined> {
    let beginMs: number | undefined;
    for await (const message of messages(Order.oldest, LIFECYCLE, range)) {
      look(message, work);
      beginMs ??= message.storedAtMs;
      if (found.hasEndedBefore(message)) return undefined;
      const isSpent = (found.hasEnded ? whole : work).isSpent;
      const isSilent = !found.isKnown && message.storedAtMs - beginMs > maxSilenceMs;
      if (isSpent || isSilent || found.isFull) return rangeOf(message.sequence + 1, range.last);
    }
    return undefined;
  }

  async function backward(range: StreamRange, kinds: readonly string[], work: WorkMeter): Promise<StreamRange | undefined> {
    for await (const message of messages(Order.newest, kinds, range)) {
      look(message, work);
      if (work.isSpent || found.isFull || (kinds === OTHER_KINDS && found.isKnown)) return rangeOf(range.first, message.sequence - 1);
    }
    return undefined;
  }

  function look(message: EventMessage, work: WorkMeter): void {
    if (message.includes(found.needle)) found.add(message);
    work.count(message);
    whole.count(message);
  }

  function messages(order: Order, kinds: readonly string[], { first, last }: StreamRange) {
    const place = { start: order === Order.oldest ? first : last, given: new Map<string, number>() };
    return history.messages({ order, filter: { kind: only(...kinds) }, first, last, place }, signal);
  }

  /** Searches one range after the other, and gives what is left of all; where the process was found, only that range can speak of it. */
  async function until(
    ranges: readonly StreamRange[],
    searchOne: (range: StreamRange) => Promise<StreamRange | undefined>,
  ): Promise<StreamRange[]> {
    const left: StreamRange[] = [];
    for (const range of ranges) {
      const wasKnown = found.isKnown;
      const rest = await searchOne(range);
      if (found.isKnown && !wasKnown) return rest ? [rest] : [];
      if (rest) left.push(rest);
    }
    return left;
  }

  return { found, forward, backward, until };
}

function rangeOf(first: number, last: number): StreamRange | undefined {
  return first <= last ? { first, last } : undefined;
}

function notFound(notSearched: readonly Unsearched[]): ApiError {
  const parts = notSearched.map(({ kinds, from, to }) => `${kinds.join(', ')} stored from ${from} to ${to}`);
  const rest = parts.length === 0 ? '' : `; not searched, as one request does a bounded amount of work: events ${parts.join('; events ')}`;
  return new ApiError('PROCESS_NOT_FOUND', `no event of this process was found${rest}`);
}
