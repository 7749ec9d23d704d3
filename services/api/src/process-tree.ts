/** Process trees out of EVENTS: every message that speaks of a process or of a descendant holds its exec_id, so a search for bytes finds them all. */
import {
  EVENTS_PREFIX,
  HOST_NAMESPACE,
  STREAMS,
  createWallClock,
  decodeBatch,
  kindName,
  recordedNode,
  subjectToken,
  type AncestorJson,
  type ContainerJson,
  type EventBatch,
  type EventJson,
  type PodJson,
  type Process,
  type ProcessJson,
} from '@tidegate/contracts';
import type { JetStreamManager } from '@nats-io/jetstream';
import { Order } from './cursor.ts';
import { ApiError } from './errors.ts';
import type { EventFilter } from './event-filter.ts';
import { selects, type Selection } from './parameters.ts';
import type { EventMessage } from './event-message.ts';
import type { ExecId } from './exec-id.ts';
import type { History } from './history.ts';
import { WorkMeter } from './work-meter.ts';

/** One process with those it started. */
export interface ProcessNode {
  process: ProcessJson;
  exec?: EventJson;
  exit?: EventJson;
  children: ProcessNode[];
}

export interface ProcessTree extends ProcessNode {
  node: string;
  recorded?: true;
  /** Nearest first, up to init. */
  ancestors: AncestorJson[];
  container?: ContainerJson;
  pod?: PodJson;
  /** false: there may be descendants, or an exit, that were not looked at. */
  complete: boolean;
}

/** A process that a pid may mean. */
export interface ProcessCandidate {
  node: string;
  /** Time of the latest event that speaks of it or of a descendant. */
  seen_at: string;
  process: ProcessJson;
  container?: ContainerJson;
  pod?: PodJson;
}

export interface ProcessTrees {
  /** @throws {ApiError} PROCESS_NOT_FOUND, STREAM_UNAVAILABLE */
  tree(execId: ExecId, signal: AbortSignal): Promise<ProcessTree>;
  /** Newest first. */
  candidates(query: CandidateQuery, signal: AbortSignal): Promise<{ processes: ProcessCandidate[]; complete: boolean }>;
}

export interface CandidateQuery {
  pid: number;
  /** Left out: all nodes. */
  node?: Selection<string> | undefined;
  limit: number;
}

/** Processes in one tree; more are left out, and the tree says it is not complete. */
export const MAX_TREE_PROCESSES = 5_000;
/** Longest line of parents in a message; ends the walk of a table that refers to itself. */
const MAX_DEPTH = 256;
/** Messages of other subjects may be stored this much later than those that happened after them. */
const SETTLE_US = 10_000_000;
/** A process's exec may come before its start as the clock offset has it now: wall clocks are adjusted. */
const CLOCK_SLACK_US = 60_000_000;
const LIFECYCLE = ['exec', 'exit'];
const LIFECYCLE_ONLY: Selection<string> = { only: LIFECYCLE, except: [] };
/** Each of up to three searches gets this part of a request's work. */
const SEARCH_SHARE = 1 / 3;

export function createProcessTrees(history: History, manager: JetStreamManager): ProcessTrees {
  /** Events of a capture that is played bear another node's name, and their exec_id still the recorded one's. */
  async function tree(execId: ExecId, signal: AbortSignal): Promise<ProcessTree> {
    try {
      return await treeOn(execId, signal);
    } catch (error) {
      if (!(error instanceof ApiError && error.code === 'PROCESS_NOT_FOUND')) throw error;
      return await treeOn({ ...execId, node: recordedNode(execId.node) }, signal);
    }
  }

  async function treeOn(execId: ExecId, signal: AbortSignal): Promise<ProcessTree> {
    const found = new TreeBuilder(execId);
    const startUs = await startTimeUs(execId, manager);
    // From its start on: a process that has ended is found whole.
    const filter: EventFilter = { kind: LIFECYCLE_ONLY, ...(startUs !== undefined && { fromUs: Math.max(0, startUs - CLOCK_SLACK_US) }) };
    let isComplete = await search(Order.oldest, filter, found, signal);
    // One that runs for long: what it did of late.
    if (!isComplete) isComplete = await search(Order.newest, { kind: LIFECYCLE_ONLY }, found, signal);
    // One that ran before the sensor did and started nothing since: whatever it did.
    if (!found.isKnown) isComplete = await search(Order.newest, {}, found, signal);
    return found.result(isComplete);
  }

  /** true: all there is was looked at, or nothing more can come. */
  async function search(order: Order, filter: EventFilter, found: TreeBuilder, signal: AbortSignal): Promise<boolean> {
    const query = await history.resolve(order, filter, 0);
    const work = new WorkMeter(SEARCH_SHARE);
    for await (const message of history.messages(query, signal)) {
      if (message.includes(found.needle)) found.add(message);
      work.count(message);
      if (order === Order.oldest && found.hasEndedBefore(message)) return true;
      if (work.isSpent || found.isFull) return false;
    }
    return true;
  }

  async function candidates({ pid, node, limit }: CandidateQuery, signal: AbortSignal) {
    const query = await history.resolve(Order.newest, {}, 0);
    const work = new WorkMeter();
    const processes = new Map<string, ProcessCandidate>();
    for await (const message of history.messages(query, signal)) {
      work.count(message);
      const { batch } = message;
      if (batch && batch.events.length > 0 && selects(node, each => each === batch.node)) {
        for (const process of batch.processes) {
          if (process.pid !== pid || processes.has(process.execId ?? '')) continue;
          const { container, pod, process: json } = message.reader!.toJson({ process: process.id ?? 0 });
          const seenAt = message.event(batch.events.length - 1).time;
          processes.set(process.execId ?? '', {
            node: batch.node,
            seen_at: seenAt,
            process: json!,
            ...(container && { container }),
            ...(pod && { pod }),
          });
          if (processes.size === limit) return { processes: [...processes.values()], complete: false };
        }
      }
      if (work.isSpent) return { processes: [...processes.values()], complete: false };
    }
    return { processes: [...processes.values()], complete: true };
  }

  return { tree, candidates };
}

/** Collects one process and its descendants from messages in any order. */
class TreeBuilder {
  readonly needle: Buffer;
  readonly #execId: ExecId;
  readonly #nodes = new Map<string, { node: ProcessNode; parent: string }>();
  /** The exec_id seen last of each process that called execve again and again. */
  readonly #latestImages = new Map<string, string>();
  #root: EventJson | undefined;
  #lastTimeUs = 0;
  #isFull = false;

  constructor(execId: ExecId) {
    this.#execId = execId;
    this.needle = Buffer.from(execId.text);
  }

  get isKnown(): boolean {
    return this.#root !== undefined;
  }

  get isFull(): boolean {
    return this.#isFull;
  }

  add(message: EventMessage): void {
    const { batch, reader } = message;
    if (!batch || !reader || batch.node !== this.#execId.node) return;
    const processes = new Map(batch.processes.map(process => [process.id ?? 0, process]));
    const inTree = new Set<number>();
    for (const process of batch.processes) {
      if (!this.#descends(process, processes)) continue;
      inTree.add(process.id ?? 0);
      this.#addProcess(process, reader.toJson({ process: process.id ?? 0 }));
    }
    for (const [i, event] of batch.events.entries()) {
      if (!inTree.has(event.process ?? 0)) continue;
      const kind = kindName(event.kind ?? 0);
      if (!LIFECYCLE.includes(kind)) continue;
      const json = message.event(i);
      const known = this.#nodes.get(json.process?.exec_id ?? '');
      if (!known) continue;
      this.#lastTimeUs = Math.max(this.#lastTimeUs, message.timeUs(i));
      known.node[kind === 'exec' ? 'exec' : 'exit'] = json;
      // Arguments are whole in the exec event's message.
      if (kind === 'exec') known.node.process = json.process!;
    }
  }

  /** It and all its descendants have ended, and nothing that happened before can still come. */
  hasEndedBefore(message: EventMessage): boolean {
    if (this.#nodes.size === 0 || message.storedAtMs * 1000 < this.#lastTimeUs + SETTLE_US) return false;
    for (const { node } of this.#nodes.values()) if (!node.exit && !this.#hasNextImage(node)) return false;
    return true;
  }

  result(isComplete: boolean): ProcessTree {
    const root = this.#root;
    const top = this.#nodes.get(this.#execId.text)?.node;
    if (!root || !top) {
      const searched = isComplete ? '' : ' in what could be searched in one request';
      throw new ApiError('PROCESS_NOT_FOUND', `no event of this process was found${searched}`);
    }
    for (const [execId, { node, parent }] of this.#nodes)
      if (execId !== this.#execId.text) this.#nodes.get(parent)?.node.children.push(node);
    for (const { node } of this.#nodes.values()) node.children.sort(byStart);
    const { parent, ancestors = [], container, pod, recorded } = root;
    const { exec_id, pid, uid, binary, arguments: parentArguments } = parent ?? {};
    return {
      node: this.#execId.node,
      ...(recorded && { recorded }),
      ...top,
      ancestors:
        exec_id === undefined ? [] : [{ exec_id, pid: pid!, uid: uid!, binary: binary!, arguments: parentArguments! }, ...ancestors],
      ...(container && { container }),
      ...(pod && { pod }),
      complete: isComplete && !this.#isFull,
    };
  }

  #addProcess(process: Process, json: EventJson): void {
    const execId = process.execId ?? '';
    if (execId === this.#execId.text) this.#root ??= json;
    if (this.#nodes.has(execId)) return;
    if (this.#nodes.size >= MAX_TREE_PROCESSES) {
      this.#isFull = true;
      return;
    }
    this.#latestImages.set(imageKey(json.process!), execId);
    this.#nodes.set(execId, { node: { process: json.process!, children: [] }, parent: json.parent?.exec_id ?? '' });
  }

  /** A process that called execve goes on as another: it has no exit of its own. */
  #hasNextImage({ process }: ProcessNode): boolean {
    return this.#latestImages.get(imageKey(process)) !== process.exec_id;
  }

  #descends(process: Process, processes: ReadonlyMap<number, Process>): boolean {
    let current: Process | undefined = process;
    for (let depth = 0; current && depth < MAX_DEPTH; depth++) {
      if (current.execId === this.#execId.text) return true;
      current = processes.get(current.parent ?? 0);
    }
    return false;
  }
}

/** The same for all images of one process. */
function imageKey({ pid, start_time: startTime }: ProcessJson): string {
  return `${pid} ${startTime}`;
}

function startOf({ process, exec }: ProcessNode): string {
  return exec?.time ?? process.start_time;
}

/** RFC 3339 times of one form sort as text. */
function byStart(a: ProcessNode, b: ProcessNode): number {
  const [first, second] = [startOf(a), startOf(b)];
  return first < second ? -1 : first > second ? 1 : 0;
}

/** When the process started, by the node's present clock offset; undefined when no event of the node's host is left. */
async function startTimeUs({ node, ktimeNs }: ExecId, manager: JetStreamManager): Promise<number | undefined> {
  const batch = await lastHostBatch(node, manager);
  return batch && createWallClock(batch.wallOffsetNs)(ktimeNs);
}

async function lastHostBatch(node: string, manager: JetStreamManager): Promise<EventBatch | undefined> {
  for (const kind of LIFECYCLE) {
    try {
      const subject = `${EVENTS_PREFIX}.${kind}.${HOST_NAMESPACE}.${subjectToken(node)}`;
      const message = await manager.streams.getMessage(STREAMS.events.name, { last_by_subj: subject });
      if (message) return decodeBatch(message.data);
    } catch {
      // No such message, or not a batch: the search then begins at the stream's beginning.
    }
  }
  return undefined;
}
