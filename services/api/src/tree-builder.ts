/** Collects one process and its descendants from messages of EVENTS, in any order. */
import { MAX_ANCESTORS, kindName, type EventJson, type Process, type ProcessNode, type FoundTree } from '@tidegate/contracts';
import type { EventMessage } from '@tidegate/events';
import { parseExecId, type ExecId } from './exec-id.ts';

/** Kinds that make a tree. */
export const LIFECYCLE = ['exec', 'exit'];
/** Processes in one tree; more are left out. */
export const MAX_TREE_PROCESSES = 5_000;
/** Longest line of parents that is followed in a message; ends the walk of a table that refers to itself. */
const MAX_DEPTH = 256;
/** A descendant that was forked and has called nothing since is not known; this long after the last end one is waited for. */
const SETTLE_MS = 10_000;

export class TreeBuilder {
  readonly needle: Buffer;
  readonly #execId: ExecId;
  readonly #nodes = new Map<string, { node: ProcessNode; parent: string }>();
  /** The latest image of each process, which may have called execve again and again. */
  readonly #latestImages = new Map<string, ExecId>();
  /** exec_ids of those that have neither ended nor become another image. */
  readonly #living = new Set<string>();
  #root: EventJson | undefined;
  /** When the latest message of the tree was stored. */
  #latestMs = 0;
  #isFull = false;
  #isDeep = false;

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

  /** There may be processes that it does not show: it is full, or goes as deep as messages name ancestors. */
  get leavesOut(): boolean {
    return this.#isFull || this.#isDeep;
  }

  add(message: EventMessage): void {
    const { batch, reader } = message;
    if (!batch || !reader || batch.node !== this.#execId.node) return;
    const processes = new Map(batch.processes.map(process => [process.id ?? 0, process]));
    const inTree = new Set<number>();
    for (const process of batch.processes) {
      const depth = this.#depthOf(process, processes);
      if (depth === undefined) continue;
      this.#isDeep ||= depth >= MAX_ANCESTORS;
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
      this.#latestMs = Math.max(this.#latestMs, message.storedAtMs);
      known.node[kind === 'exec' ? 'exec' : 'exit'] = json;
      if (kind === 'exit') this.#living.delete(json.process!.exec_id);
      // Arguments are whole in the exec event's message.
      if (kind === 'exec') known.node.process = json.process!;
    }
  }

  /** It and all its descendants that are known have ended. */
  get hasEnded(): boolean {
    return this.#nodes.size > 0 && this.#living.size === 0;
  }

  /** All has ended, and so long before this message that a descendant nobody heard of yet is not to be expected. */
  hasEndedBefore(message: EventMessage): boolean {
    return message.storedAtMs >= this.#latestMs + SETTLE_MS && this.hasEnded;
  }

  /** undefined: no event of the process was found. */
  result(): FoundTree | undefined {
    const root = this.#root;
    const top = this.#nodes.get(this.#execId.text)?.node;
    if (!root || !top) return undefined;
    for (const [execId, { node, parent }] of this.#nodes)
      if (execId !== this.#execId.text) this.#nodes.get(parent)?.node.children.push(node);
    for (const { node } of this.#nodes.values()) node.children.sort(byStart);
    const { parent, ancestors = [], ancestors_cut, container, pod, recorded } = root;
    const { exec_id, pid, uid, binary, arguments: parentArguments } = parent ?? {};
    return {
      node: this.#execId.node,
      ...(recorded && { recorded }),
      ...top,
      ancestors:
        exec_id === undefined ? [] : [{ exec_id, pid: pid!, uid: uid!, binary: binary!, arguments: parentArguments! }, ...ancestors],
      ...(ancestors_cut && { ancestors_cut }),
      ...(container && { container }),
      ...(pod && { pod }),
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
    this.#addImage(process, execId);
    this.#nodes.set(execId, { node: { process: json.process!, children: [] }, parent: json.parent?.exec_id ?? '' });
  }

  /** A process that calls execve goes on as another: it has no exit of its own. */
  #addImage({ pid, startKtimeNs }: Process, execId: string): void {
    const image = parseExecId(execId);
    if (!image) return;
    const key = `${pid ?? 0} ${startKtimeNs ?? 0}`;
    const known = this.#latestImages.get(key);
    if (known && known.ktimeNs > image.ktimeNs) return;
    if (known) this.#living.delete(known.text);
    this.#latestImages.set(key, image);
    this.#living.add(execId);
  }

  /** How far it is below the root; undefined: it is not. */
  #depthOf(process: Process, processes: ReadonlyMap<number, Process>): number | undefined {
    let current: Process | undefined = process;
    for (let depth = 0; current && depth < MAX_DEPTH; depth++) {
      if (current.execId === this.#execId.text) return depth;
      current = processes.get(current.parent ?? 0);
    }
    return undefined;
  }
}

function startOf({ process, exec }: ProcessNode): string {
  return exec?.time ?? process.start_time;
}

/** RFC 3339 times of one form sort as text. */
function byStart(a: ProcessNode, b: ProcessNode): number {
  const [first, second] = [startOf(a), startOf(b)];
  return first < second ? -1 : first > second ? 1 : 0;
}
