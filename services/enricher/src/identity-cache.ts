/** Pods and addresses of the cluster, as the gateway writes them into KV, in the form the splicer copies. */
import { BatchField, DestinationField, NO_NAMESPACE, PodField, subjectToken, type BucketDecoder } from '@tidegate/contracts';
import { lengthDelimited, podField, type DestinationIdentity, type Identities, type PodIdentity } from './splice.ts';
import { textFields } from './text-fields.ts';
import { WorkloadBudget } from './workload-budget.ts';

export interface IdentityCacheLimits {
  maxPods: number;
  maxDestinations: number;
  /** How long a batch waits for a pod. */
  podWaitMs: number;
  /** Workloads of a namespace, and containers outside Kubernetes, that have subjects of their own. */
  workloadsPerNamespace: number;
}

export const IDENTITY_LIMITS = {
  maxPods: 200_000,
  maxDestinations: 200_000,
  podWaitMs: 2_000,
  workloadsPerNamespace: Infinity,
} as const satisfies IdentityCacheLimits;

/** Pods waited for in vain that are remembered, so that a node waits once for each and not once a batch. */
const MAX_MISSING = 10_000;

/** What of a pod makes its place. */
const PLACE_FIELDS: readonly number[] = [PodField.namespace, PodField.name, PodField.workload];
const FNV_OFFSET = 0x811c9dc5 | 0;
const FNV_PRIME = 0x01000193;
/** Keeps hashes in the range that V8 stores without an object. */
const HASH_MASK = 0x3fffffff;

/** A pod as KV has it. */
export interface PodEntry {
  namespace: string;
  name: string;
  workload: string;
  /** As field `pods` of an EventBatch. */
  field: Uint8Array;
}

export interface DestinationEntry extends DestinationIdentity {
  ip: Uint8Array;
}

/** tidegate.v1.Pod, as far as routing asks for it; the rest is copied as it is. */
export const podDecoder: BucketDecoder<PodEntry> = {
  decode(bytes) {
    const [namespace = '', name = '', workload = ''] = textFields(bytes, PLACE_FIELDS);
    return { namespace, name, workload, field: podField(bytes) };
  },
};

/** tidegate.v1.Destination. */
export const destinationDecoder: BucketDecoder<DestinationEntry> = {
  decode(bytes) {
    const [ip = ''] = textFields(bytes, [DestinationField.ip]);
    if (ip === '') throw new Error('ip: expected an address, got nothing');
    return { ip: Buffer.from(ip), field: lengthDelimited(BatchField.destinations, bytes) };
  },
};

export class IdentityCache implements Identities {
  readonly #limits: IdentityCacheLimits;
  readonly #workloads: WorkloadBudget;
  /** By node token, then by pod uid token: a sensor gets the pods of its own node only. */
  readonly #nodes = new Map<string, Map<string, PodIdentity>>();
  #podCount = 0;
  /** By hash of the address, then compared byte by byte: looking one up makes no string. */
  readonly #destinations = new Map<number, DestinationEntry[]>();
  readonly #destinationKeys = new Map<string, DestinationEntry>();
  /** When a pod was first asked for in vain, by KV key. */
  readonly #missingSinceMs = new Map<string, number>();
  readonly #waiting = new Map<string, Set<() => void>>();
  #lastNode = '';
  #lastPods: Map<string, PodIdentity> | undefined;
  /** Entries that were one too many, or whose key names no node. */
  refused = 0;

  cluster: Uint8Array = clusterField('');

  constructor(limits: IdentityCacheLimits = IDENTITY_LIMITS) {
    this.#limits = limits;
    this.#workloads = new WorkloadBudget(limits.workloadsPerNamespace);
  }

  setCluster(name: string): void {
    this.cluster = clusterField(name);
  }

  get pods(): number {
    return this.#podCount;
  }

  get destinations(): number {
    return this.#destinationKeys.size;
  }

  pod(node: string, uid: string): PodIdentity | undefined {
    if (node !== this.#lastNode) {
      this.#lastNode = node;
      this.#lastPods = this.#nodes.get(subjectToken(node));
    }
    return this.#lastPods?.get(subjectToken(uid));
  }

  place(namespace: string, workload: string): string {
    return this.#workloads.place(namespace, workload);
  }

  /** Times a workload or container got the shared place of its namespace. */
  get folded(): number {
    return this.#workloads.folded;
  }

  destination(bytes: Uint8Array, start: number, end: number): DestinationIdentity | undefined {
    const entries = this.#destinations.get(hash(bytes, start, end));
    return entries?.find(entry => equals(entry.ip, bytes, start, end));
  }

  /** @param key of KV `pods`: `<node token>.<pod uid>` */
  putPod(key: string, { namespace, name, workload, field }: PodEntry): void {
    const dot = key.indexOf('.');
    if (dot < 0) {
      this.refused++;
      return;
    }
    const node = key.slice(0, dot);
    const uid = key.slice(dot + 1);
    let pods = this.#nodes.get(node);
    if (!pods?.has(uid)) {
      if (this.#podCount >= this.#limits.maxPods) {
        this.refused++;
        return;
      }
      this.#podCount++;
    }
    if (!pods) {
      this.#nodes.set(node, (pods = new Map<string, PodIdentity>()));
      this.#lastNode = '';
      this.#lastPods = undefined;
    }
    const namespaceToken = namespace === '' ? NO_NAMESPACE : subjectToken(namespace);
    pods.set(uid, { place: this.place(namespaceToken, subjectToken(workload || name || uid)), field });
    this.#missingSinceMs.delete(key);
    for (const wake of this.#waiting.get(key) ?? []) wake();
  }

  deletePod(key: string): void {
    const dot = key.indexOf('.');
    const node = key.slice(0, dot);
    const pods = this.#nodes.get(node);
    if (!pods?.delete(key.slice(dot + 1))) return;
    this.#podCount--;
    if (pods.size > 0) return;
    this.#nodes.delete(node);
    this.#lastNode = '';
    this.#lastPods = undefined;
  }

  /** @param key of KV `destinations` */
  putDestination(key: string, entry: DestinationEntry): void {
    if (!this.#destinationKeys.has(key) && this.#destinationKeys.size >= this.#limits.maxDestinations) {
      this.refused++;
      return;
    }
    this.deleteDestination(key);
    this.#destinationKeys.set(key, entry);
    const slot = hash(entry.ip, 0, entry.ip.length);
    const entries = this.#destinations.get(slot);
    if (entries) entries.push(entry);
    else this.#destinations.set(slot, [entry]);
  }

  deleteDestination(key: string): void {
    const entry = this.#destinationKeys.get(key);
    if (!entry) return;
    this.#destinationKeys.delete(key);
    const slot = hash(entry.ip, 0, entry.ip.length);
    const left = (this.#destinations.get(slot) ?? []).filter(other => other !== entry);
    if (left.length > 0) this.#destinations.set(slot, left);
    else this.#destinations.delete(slot);
  }

  /**
   * Resolves when all pods are known, or when the longest wait for the last of them is over. A pod is waited for once: counted from the first time
   * it was asked for.
   */
  async waitForPods(node: string, uids: readonly string[], signal: AbortSignal): Promise<void> {
    // No gateway has written a pod, so none will come: an installation without one must not pay for it at every new pod.
    if (this.#podCount === 0) return;
    await Promise.all(uids.map(uid => this.#waitForPod(`${subjectToken(node)}.${subjectToken(uid)}`, signal)));
  }

  #waitForPod(key: string, signal: AbortSignal): Promise<void> {
    const nowMs = performance.now();
    let sinceMs = this.#missingSinceMs.get(key);
    if (sinceMs === undefined) {
      sinceMs = nowMs;
      if (this.#missingSinceMs.size >= MAX_MISSING) this.#missingSinceMs.delete(this.#missingSinceMs.keys().next().value ?? '');
      this.#missingSinceMs.set(key, sinceMs);
    }
    const leftMs = sinceMs + this.#limits.podWaitMs - nowMs;
    if (leftMs <= 0 || signal.aborted) return Promise.resolve();
    return new Promise(resolve => {
      const wakers = this.#waiting.get(key) ?? new Set();
      this.#waiting.set(key, wakers);
      const wake = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', wake);
        wakers.delete(wake);
        if (wakers.size === 0) this.#waiting.delete(key);
        resolve();
      };
      const timer = setTimeout(wake, leftMs);
      signal.addEventListener('abort', wake);
      wakers.add(wake);
    });
  }
}

function clusterField(name: string): Uint8Array {
  return lengthDelimited(BatchField.cluster, Buffer.from(name));
}

function hash(bytes: Uint8Array, start: number, end: number): number {
  let value = FNV_OFFSET;
  for (let i = start; i < end; i++) value = Math.imul(value ^ bytes[i]!, FNV_PRIME);
  return value & HASH_MASK;
}

function equals(text: Uint8Array, bytes: Uint8Array, start: number, end: number): boolean {
  if (text.length !== end - start) return false;
  for (let i = 0; i < text.length; i++) if (text[i] !== bytes[start + i]) return false;
  return true;
}
