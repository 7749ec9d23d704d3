/**
 * What a pod belongs to. A ReplicaSet and a Job are means, not ends: their own controller is the workload (Deployment, CronJob, Argo's Rollout);
 * every other controller of a pod is its workload itself (StatefulSet, DaemonSet, any custom kind); a pod without one is its own; static pods of
 * all nodes with the same manifest are one workload. Of a Job, a pod without a controller and a custom kind, what makes their names unique is left out:
 * the runs of a pipeline are one workload, not thousands.
 */
import { isStaticPod, type ApiPod } from './api-pod.ts';
import type { KubernetesObject, ObjectMetadata, ObjectSink, OwnerReference } from './reflector.ts';

export interface Workload {
  name: string;
  kind: string;
}

/** Kinds between a pod and its workload, of which the gateway watches the metadata. */
export const OWNER_PATHS = { ReplicaSet: '/apis/apps/v1/replicasets', Job: '/apis/batch/v1/jobs' } as const;
export type OwnerKind = keyof typeof OWNER_PATHS;

/** Kinds whose objects people name. */
const NAMED_KINDS: ReadonlySet<string> = new Set([
  'Deployment',
  'StatefulSet',
  'DaemonSet',
  'ReplicaSet',
  'ReplicationController',
  'CronJob',
  'Node',
]);
/** What generateName appends (five of these, without vowels), and counters, times and hashes, at the end of a name and before such an end. */
const GENERATED = /(?:[-.](?:[bcdfghjklmnpqrstvwxz2456789]{5}|\d{3,}|(?=[a-f]*\d)[0-9a-f]{8,}))+$/;

export interface Workloads {
  /** For a reflector of the kind's metadata. */
  sink(kind: OwnerKind): ObjectSink<KubernetesObject>;
  /** undefined: its controller has not been seen yet, or is gone. */
  workloadOf(pod: ApiPod): Workload | undefined;
  /** The best answer from the pod alone, for one whose controller is gone. */
  guess(pod: ApiPod): Workload;
}

/** Separates kind and name in a workload kept as one string. */
const SEPARATOR = '/';
/** The CronJob controller appends the scheduled time in minutes since 1970. */
const CRON_JOB_NAME = /^(.+)-\d{8,10}$/;

/** The workload of the pods of a ReplicaSet or Job has become known (`isNew`), or is another now. */
export type WorkloadListener = (ownerUid: string, workload: Workload, isNew: boolean) => void;

export function createWorkloads(onChange: WorkloadListener): Workloads {
  // One string each: there may be ten old ReplicaSets for every live one.
  const known: Record<OwnerKind, Map<string, string>> = { ReplicaSet: new Map(), Job: new Map() };
  return {
    sink(kind) {
      const workloads = known[kind];
      return {
        idOf: ({ metadata }) => metadata.uid,
        upsert(uid, { metadata }) {
          const controller = controllerOf(metadata.ownerReferences);
          const workload = controller ? ownerAsWorkload(controller) : { kind, name: kind === 'Job' ? stemOf(metadata) : metadata.name };
          const text = workload.kind + SEPARATOR + workload.name;
          const before = workloads.get(uid);
          if (before === text) return;
          workloads.set(uid, text);
          onChange(uid, workload, before === undefined);
        },
        remove: uid => void workloads.delete(uid),
        ids: () => workloads.keys(),
      };
    },
    workloadOf({ metadata, spec }) {
      if (isStaticPod(metadata.annotations)) return { name: withoutSuffix(metadata.name, `-${spec.nodeName}`), kind: 'Pod' };
      const controller = controllerOf(metadata.ownerReferences);
      if (!controller) return { name: stemOf(metadata), kind: 'Pod' };
      if (!isOwnerKind(controller.kind)) return ownerAsWorkload(controller);
      const text = known[controller.kind].get(controller.uid);
      if (text === undefined) return undefined;
      const separator = text.indexOf(SEPARATOR);
      return { kind: text.slice(0, separator), name: text.slice(separator + 1) };
    },
    guess({ metadata }) {
      const controller = controllerOf(metadata.ownerReferences);
      if (!controller) return { kind: 'Pod', name: stemOf(metadata) };
      const { kind, name } = controller;
      const templateHash = metadata.labels?.['pod-template-hash'];
      if (kind === 'ReplicaSet' && templateHash !== undefined && name.endsWith(`-${templateHash}`))
        return { kind: 'Deployment', name: withoutSuffix(name, `-${templateHash}`) };
      const cronJob = kind === 'Job' ? CRON_JOB_NAME.exec(name)?.[1] : undefined;
      return cronJob === undefined ? ownerAsWorkload(controller) : { kind: 'CronJob', name: cronJob };
    },
  };
}

function ownerAsWorkload({ kind, name }: OwnerReference): Workload {
  return { kind, name: NAMED_KINDS.has(kind) ? name : stemOf({ name }) };
}

/** The name without what makes it unique. */
function stemOf({ name, generateName }: Pick<ObjectMetadata, 'name' | 'generateName'>): string {
  const given =
    generateName !== undefined && generateName !== '' && name.startsWith(generateName) ? generateName.replace(/[-.]+$/, '') : name;
  return given.replace(GENERATED, '') || given || name;
}

/** The one owner that manages the object. */
export function controllerOf(owners: readonly OwnerReference[] | undefined): OwnerReference | undefined {
  return owners?.find(({ controller }) => controller === true);
}

export function isOwnerKind(kind: string): kind is OwnerKind {
  return Object.hasOwn(OWNER_PATHS, kind);
}

function withoutSuffix(text: string, suffix: string): string {
  return text.endsWith(suffix) ? text.slice(0, -suffix.length) : text;
}
