/**
 * Proves that nothing is missing from EVENTS in silence: of each node's sequence numbers, every one is there as an event or covered by a loss event.
 *
 * Pure: it is fed messages and says what it found. A batch belongs to the window of time in which its first part was stored; which part of which batch a message is, its
 * headers say.
 */
import {
  BatchField,
  Event,
  EventField,
  Kind,
  WireCursor,
  leadingNumbers,
  lossReasonName,
  walkFields,
  type EventHeaders,
} from '@tidegate/contracts';
import { TidegateError } from '@tidegate/runtime';
import { SequenceSet, type SequenceRange } from './sequence-set.ts';

/** Loss events kept for the proof, all nodes together: some 100 MB. */
const MAX_LOSSES = 1_000_000;
/** Gaps that are listed for each node; all are counted. */
const MAX_LISTED_GAPS = 20;

/** Where a message stands to the window of time that is audited. What is stored after it is looked at for the rest of batches that began within. */
export type AuditPhase = 'within' | 'after';

/** Which part of its batch a message is; undefined: all of it. */
export type BatchPart = Pick<EventHeaders, 'part' | 'parts'> | undefined;

export interface NodeAudit {
  node: string;
  /** Set for events played from a capture: every play has its own numbers. */
  recordedBoot?: string;
  /** The numbers audited. */
  first: number;
  last: number;
  /** Distinct numbers of the range that are there, those of loss events included. */
  events: number;
  /** Numbers of the range that are not there. */
  missing: number;
  /** Events lost by reason, as the loss events of the window say. */
  lost: Record<string, number>;
  /** Loss events that do not know how many were lost. */
  unknownLosses: number;
  /** Events whose number had been seen before. */
  duplicates: number;
  /** Numbers that are missing and that no loss event covers. */
  gapNumbers: number;
  /** The first MAX_LISTED_GAPS runs of them. */
  gaps: SequenceRange[];
}

export interface Audit {
  /**
   * @param payload an EventBatch of EVENTS
   * @param part as its headers say
   * @throws {BatchError} when it is none
   * @throws {TidegateError} AUDIT_TOO_SCATTERED
   */
  add(payload: Uint8Array, part: BatchPart, phase: AuditPhase): void;
  /** Nodes whose newest batch of the window lacks parts, and no later batch was seen: perhaps they are still being stored. */
  unsettled(): string[];
  /** One entry for each node with a message within, by name. */
  result(): NodeAudit[];
}

export interface AuditOptions {
  /** Audits this node alone; default: all. */
  node?: string | undefined;
  /** There was something before the first message: a node's first batch is left out unless it begins with its first part. */
  startsTorn?: boolean;
}

export function createAudit({ node: onlyNode, startsTorn = false }: AuditOptions = {}): Audit {
  const nodes = new Map<string, NodeState>();
  const cursorNumbers = new Float64Array(EventField.sequence + 1);
  let lossCount = 0;

  function add(payload: Uint8Array, part: BatchPart, phase: AuditPhase): void {
    const header = readHeader(payload);
    if (onlyNode !== undefined && header.node !== onlyNode) return;
    const key = header.recorded ? `${header.node}\n${header.boot}` : header.node;
    let state = nodes.get(key);
    const batch = `${header.boot}:${header.batch}`;
    if (!state) {
      if (phase === 'after') return;
      state = createNodeState(header);
      if (startsTorn && part && part.part > 1) state.torn = batch;
      nodes.set(key, state);
    }
    if (batch === state.torn) return;
    if (batch !== state.batch || header.batch === 0) {
      // Whatever the batch before lacks comes no more.
      state.lacking.clear();
      state.batch = phase === 'after' ? '' : batch;
      if (phase === 'after') return;
      for (let i = 1; i <= (part?.parts ?? 0); i++) state.lacking.add(i);
    }
    state.lacking.delete(part?.part ?? 0);
    state.hasEvents = true;
    addEvents(state, payload);
  }

  function addEvents(state: NodeState, payload: Uint8Array): void {
    const cursor = new WireCursor(payload);
    walkFields(payload, (field, _wireType, _start, body, end) => {
      if (field !== BatchField.events) return;
      leadingNumbers(cursor, body, end, cursorNumbers);
      const sequence = cursorNumbers[EventField.sequence]!;
      let isNew = true;
      if (sequence > 0) {
        isNew = state.sequences.add(sequence);
        if (!isNew) state.duplicates++;
        state.range = widened(state.range, sequence);
      }
      if (cursorNumbers[EventField.kind] === Kind.KIND_LOSS && isNew) addLoss(state, payload.subarray(body, end), sequence > 0);
    });
  }

  function addLoss(state: NodeState, encoded: Uint8Array, hasNumber: boolean): void {
    const said = Event.decode(encoded).loss;
    const loss: LossClaim = {
      reason: lossReasonName(said?.reason ?? 0),
      first: said?.firstSequence ?? 0,
      last: said?.lastSequence ?? 0,
      count: said?.count ?? 0,
    };
    // A number of its own tells a repeated loss; without one, it is the same when it says the same: no number is lost twice.
    if (!hasNumber) {
      const text = `${loss.reason}:${loss.first}-${loss.last}:${loss.count}`;
      if (state.unnumbered.has(text)) return;
      state.unnumbered.add(text);
    }
    if (++lossCount > MAX_LOSSES)
      throw new TidegateError('AUDIT_TOO_SCATTERED', 'more loss events than an audit can hold', {
        field: 'loss events',
        expected: `${MAX_LOSSES} at most; audit a shorter time`,
        got: `${lossCount}`,
      });
    state.losses.push(loss);
  }

  return {
    add,
    unsettled: () => [...nodes.values()].filter(state => state.lacking.size > 0).map(state => state.node),
    result: () =>
      [...nodes.values()]
        .filter(state => state.hasEvents)
        .map(auditNode)
        .sort((a, b) => compare(a.node, b.node) || compare(a.recordedBoot ?? '', b.recordedBoot ?? '')),
  };
}

/** Whether the audit of all these nodes found nothing amiss. */
export function isClean(nodes: readonly NodeAudit[]): boolean {
  return nodes.every(node => node.gapNumbers === 0 && node.duplicates === 0);
}

interface LossClaim extends SequenceRange {
  reason: string;
  count: number;
}

interface NodeState {
  sequences: SequenceSet;
  /** Numbers seen. */
  range: SequenceRange | undefined;
  losses: LossClaim[];
  unnumbered: Set<string>;
  duplicates: number;
  node: string;
  recordedBoot: string | undefined;
  /** `<boot>:<batch>` of the newest message of the window. */
  batch: string;
  /** Its parts that were not seen. */
  lacking: Set<number>;
  /** The same of a batch that began before the window. */
  torn: string | undefined;
  hasEvents: boolean;
}

function createNodeState({ node, boot, recorded }: BatchHeader): NodeState {
  return {
    sequences: new SequenceSet(),
    range: undefined,
    losses: [],
    unnumbered: new Set(),
    duplicates: 0,
    node,
    recordedBoot: recorded ? boot : undefined,
    batch: '',
    lacking: new Set(),
    torn: undefined,
    hasEvents: false,
  };
}

interface BatchHeader {
  node: string;
  boot: string;
  batch: number;
  recorded: boolean;
}

/** Header fields may stand anywhere, and the last of each counts: batches are put together by appending. */
function readHeader(payload: Uint8Array): BatchHeader {
  const header: BatchHeader = { node: '', boot: '', batch: 0, recorded: false };
  const cursor = new WireCursor(payload);
  walkFields(payload, (field, _wireType, _start, body, end) => {
    switch (field) {
      case BatchField.node:
        header.node = Buffer.from(payload.buffer, payload.byteOffset + body, end - body).toString();
        return;
      case BatchField.boot:
        header.boot = Buffer.from(payload.buffer, payload.byteOffset + body, end - body).toString();
        return;
      case BatchField.batch:
      case BatchField.recorded:
        cursor.offset = body;
        if (field === BatchField.batch) header.batch = cursor.varint();
        else header.recorded = cursor.varint() !== 0;
    }
  });
  return header;
}

function widened(range: SequenceRange | undefined, sequence: number): SequenceRange {
  if (!range) return { first: sequence, last: sequence };
  if (sequence < range.first) range.first = sequence;
  if (sequence > range.last) range.last = sequence;
  return range;
}

function auditNode(state: NodeState): NodeAudit {
  const lost: Record<string, number> = {};
  let unknownLosses = 0;
  for (const loss of state.losses) {
    if (loss.count === 0) unknownLosses++;
    else lost[loss.reason] = (lost[loss.reason] ?? 0) + loss.count;
  }
  const { first, last } = withAdjoiningLosses(state.range, state.losses);
  const missing = [...state.sequences.missing(first, last)];
  const missingNumbers = total(missing);
  const gaps = uncovered(missing, state.losses);
  return {
    node: state.node,
    ...(state.recordedBoot === undefined ? {} : { recordedBoot: state.recordedBoot }),
    first,
    last,
    events: last - first + 1 - missingNumbers,
    missing: missingNumbers,
    lost,
    unknownLosses,
    duplicates: state.duplicates,
    gapNumbers: total(gaps),
    gaps: gaps.slice(0, MAX_LISTED_GAPS),
  };
}

/**
 * The range with the losses that touch its ends and lack every number of theirs: those numbers are accounted for too. A loss further away says
 * nothing of the numbers between, which may have been stored before the window.
 */
function withAdjoiningLosses(range: SequenceRange | undefined, losses: readonly LossClaim[]): SequenceRange {
  const whole = losses.filter(loss => loss.first > 0 && loss.count === loss.last - loss.first + 1);
  let { first, last } = range ?? whole[0] ?? { first: 1, last: 0 };
  for (const loss of whole.toSorted((a, b) => b.last - a.last)) if (loss.last + 1 >= first && loss.first < first) first = loss.first;
  for (const loss of whole.toSorted((a, b) => a.first - b.first)) if (loss.first <= last + 1 && loss.last > last) last = loss.last;
  return { first, last };
}

/**
 * Gives each missing number to a loss that reaches over it and has not used up its count, and returns the numbers that are left. Taking the loss
 * that ends first leaves the fewest (a maximum matching in a convex graph, Glover 1967), so what is left cannot be explained by any reading.
 * @param missing ascending, disjoint
 */
export function uncovered(missing: readonly SequenceRange[], losses: readonly LossClaimed[]): SequenceRange[] {
  const byFirst = losses.filter(loss => loss.first > 0 && loss.count > 0).toSorted((a, b) => a.first - b.first);
  const open = new LossHeap();
  const left: SequenceRange[] = [];
  let next = 0;
  for (const run of missing) {
    let position = run.first;
    while (position <= run.last) {
      for (; next < byFirst.length && byFirst[next]!.first <= position; next++)
        open.push({ last: byFirst[next]!.last, count: byFirst[next]!.count });
      const loss = open.peek();
      if (loss && (loss.last < position || loss.count === 0)) {
        open.pop();
        continue;
      }
      // Up to where another loss begins, which may end sooner than this one.
      const bound = Math.min(run.last, (byFirst[next]?.first ?? Infinity) - 1);
      if (!loss) {
        append(left, position, bound);
        position = bound + 1;
        continue;
      }
      const taken = Math.min(loss.count, Math.min(loss.last, bound) - position + 1);
      loss.count -= taken;
      position += taken;
    }
  }
  return left;
}

/** A loss event's claim: `count` of the numbers first..last are missing. */
export interface LossClaimed extends SequenceRange {
  count: number;
}

function append(ranges: SequenceRange[], first: number, last: number): void {
  const previous = ranges.at(-1);
  if (previous && previous.last + 1 === first) previous.last = last;
  else ranges.push({ first, last });
}

function total(ranges: readonly SequenceRange[]): number {
  return ranges.reduce((sum, range) => sum + range.last - range.first + 1, 0);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

interface OpenLoss {
  last: number;
  count: number;
}

/** Losses by the number they end at, soonest on top. */
class LossHeap {
  readonly #items: OpenLoss[] = [];

  peek(): OpenLoss | undefined {
    return this.#items[0];
  }

  push(loss: OpenLoss): void {
    const items = this.#items;
    let at = items.push(loss) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (items[parent]!.last <= loss.last) break;
      items[at] = items[parent]!;
      at = parent;
    }
    items[at] = loss;
  }

  pop(): void {
    const items = this.#items;
    const moved = items.pop();
    if (!moved || items.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && items[child + 1]!.last < items[child]!.last) child++;
      if (items[child]!.last >= moved.last) break;
      items[at] = items[child]!;
      at = child;
    }
    items[at] = moved;
  }
}
