/** All pods of the cluster that are on a node, each as the message that enrichers splice: about 1 KB of memory for one. */
import { podKey, tokenName } from '@tidegate/contracts';
import { nodePodUid, podAddresses, type ApiPod } from './api-pod.ts';
import type { BucketContents } from './bucket-writer.ts';
import { encodePod, withWorkload } from './pod-message.ts';
import type { ObjectSink } from './reflector.ts';
import { controllerOf, isOwnerKind, type Workload, type WorkloadListener, type Workloads } from './workloads.ts';

/** A pod as an address' owner. */
export interface AddressedPod {
  namespace: string;
  name: string;
  workload: Workload;
}

export interface PodsOptions {
  workloads: Workloads;
  /** Names of annotations to carry. */
  annotations: readonly string[];
  /** An entry of the bucket has changed. */
  onChange: (key: string) => void;
  /** The pod has taken these addresses, or changed. */
  onAddresses: (ips: readonly string[], pod: AddressedPod) => void;
  /** The pod has given them up. */
  onAddressesFreed: (ips: readonly string[], pod: AddressedPod) => void;
}

export interface Pods {
  readonly sink: ObjectSink<ApiPod>;
  readonly contents: BucketContents;
  /** For createWorkloads. */
  readonly onWorkload: WorkloadListener;
  stats(): PodsStats;
  close(): void;
}

export interface PodsStats {
  pods: number;
  /** Pods held back until their controller is seen. */
  waiting: number;
  /** Pods whose controller was not seen in time, so that their workload is told from names. */
  guessed: number;
}

interface PodRecord extends AddressedPod {
  key: string;
  /** The encoded message as latin1: a string costs 16 bytes beside its content, a Buffer about 200. */
  message: string;
  ips: readonly string[];
  /** Its ReplicaSet or Job. */
  ownerUid: string | undefined;
  /** Its workload was told from names. */
  isGuessed: boolean;
}

interface WaitingPod {
  pod: ApiPod;
  ownerUid: string;
  dueMs: number;
}

/**
 * Pods and their ReplicaSets come over two watches, in any order. The one behind is behind by milliseconds; a controller that stays away so long
 * is gone.
 */
const OWNER_WAIT_MS = 2_000;
/** Whole pods are kept for these; above it a workload is told from names at once. */
const WAITING_MAX = 5_000;
const NO_ADDRESSES: readonly string[] = [];
/** Their addresses may belong to other pods already. */
const FINISHED_PHASES: readonly (string | undefined)[] = ['Succeeded', 'Failed'];

export function createPods({ workloads, annotations, onChange, onAddresses, onAddressesFreed }: PodsOptions): Pods {
  const records = new Map<string, PodRecord>();
  // In the order in which they fall due.
  const waiting = new Map<string, WaitingPod>();
  let guessed = 0;
  let timer: NodeJS.Timeout | undefined;

  const forget = (uid: string): PodRecord | undefined => {
    const record = records.get(uid);
    records.delete(uid);
    if (record?.isGuessed === true) guessed--;
    return record;
  };

  const store = (uid: string, pod: ApiPod, workload: Workload, isGuessed = false) => {
    const known = forget(uid);
    const message = Buffer.from(encodePod(pod, uid, workload, annotations)).toString('latin1');
    const controller = controllerOf(pod.metadata.ownerReferences);
    const isAddressed = pod.spec.hostNetwork !== true && !FINISHED_PHASES.includes(pod.status?.phase);
    const ips = isAddressed ? podAddresses(pod) : NO_ADDRESSES;
    const record: PodRecord = {
      key: known?.key ?? podKey(pod.spec.nodeName ?? '', uid),
      message,
      namespace: pod.metadata.namespace ?? '',
      name: pod.metadata.name,
      workload,
      ips: ips.length === 0 ? NO_ADDRESSES : ips,
      ownerUid: controller && isOwnerKind(controller.kind) ? controller.uid : undefined,
      isGuessed,
    };
    records.set(uid, record);
    if (isGuessed) guessed++;
    if (known?.message !== message) onChange(record.key);
    if (known) {
      const freed = known.ips.filter(ip => !ips.includes(ip));
      if (freed.length > 0) onAddressesFreed(freed, known);
    }
    if (record.ips.length > 0) onAddresses(record.ips, record);
  };

  const storeGuessed = (uid: string, pod: ApiPod) => store(uid, pod, workloads.guess(pod), true);

  const schedule = () => {
    const [first] = waiting.values();
    if (timer || !first) return;
    timer = setTimeout(
      () => {
        timer = undefined;
        const nowMs = performance.now();
        for (const [uid, { pod, dueMs }] of waiting) {
          if (dueMs > nowMs) break;
          waiting.delete(uid);
          storeGuessed(uid, pod);
        }
        schedule();
      },
      Math.max(0, first.dueMs - performance.now()),
    );
  };

  const sink: ObjectSink<ApiPod> = {
    idOf: nodePodUid,
    upsert(uid, pod) {
      // Nothing of it runs anywhere yet.
      if (pod.spec.nodeName === undefined || pod.spec.nodeName === '') return;
      const ownerUid = controllerOf(pod.metadata.ownerReferences)?.uid;
      const known = records.get(uid);
      // A ReplicaSet goes before its pods when a Deployment is deleted: what is known stays.
      const workload = workloads.workloadOf(pod) ?? (known && known.ownerUid === ownerUid ? known.workload : undefined);
      if (workload) {
        waiting.delete(uid);
        store(uid, pod, workload, known?.isGuessed === true && known.workload === workload);
      } else if (waiting.has(uid) || waiting.size < WAITING_MAX) {
        const dueMs = waiting.get(uid)?.dueMs ?? performance.now() + OWNER_WAIT_MS;
        waiting.set(uid, { pod, ownerUid: ownerUid ?? '', dueMs });
        schedule();
      } else storeGuessed(uid, pod);
    },
    remove(uid) {
      waiting.delete(uid);
      const record = forget(uid);
      if (!record) return;
      onChange(record.key);
      if (record.ips.length > 0) onAddressesFreed(record.ips, record);
    },
    *ids() {
      yield* records.keys();
      yield* waiting.keys();
    },
  };

  return {
    sink,
    contents: {
      get(key) {
        const record = records.get(tokenName(key.slice(key.indexOf('.') + 1)));
        return record?.key === key ? Buffer.from(record.message, 'latin1') : undefined;
      },
      *keys() {
        for (const { key } of records.values()) yield key;
      },
    },
    onWorkload(ownerUid, workload, isNew) {
      for (const [uid, { pod, ownerUid: awaited }] of waiting) if (awaited === ownerUid) sink.upsert(uid, pod);
      // A ReplicaSet that is new has no other pods than those that wait for it, or waited too long.
      if (isNew && guessed === 0) return;
      for (const record of records.values()) {
        if (record.ownerUid !== ownerUid) continue;
        if (record.isGuessed) guessed--;
        record.isGuessed = false;
        record.workload = workload;
        record.message = Buffer.from(withWorkload(Buffer.from(record.message, 'latin1'), workload)).toString('latin1');
        onChange(record.key);
        if (record.ips.length > 0) onAddresses(record.ips, record);
      }
    },
    stats: () => ({ pods: records.size, waiting: waiting.size, guessed }),
    close() {
      clearTimeout(timer);
    },
  };
}
