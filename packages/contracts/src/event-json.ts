/**
 * Events as people and SIEMs read them: every event whole by itself, with its process, parent, ancestors up to init, container and pod, field names as in the schema
 * (snake_case). Used by the API and the command line, so that both say the same.
 */
import { enteredBy, type Entered } from './entered.ts';
import { HOST_NAMESPACE } from './subjects.ts';
import { kindName } from './kinds.ts';
import type { Exact64 } from './protobuf-numbers.ts';
import {
  LossReason,
  ProcessOrigin,
  type Container,
  type Destination,
  type Event,
  type EventBatch,
  type Pod,
  type Process,
} from './schema.ts';
import { detailJson, type DetailsJson } from '#generated/details.js';

export interface ProcessJson {
  exec_id: string;
  pid: number;
  uid: number;
  binary: string;
  arguments: string[];
  arguments_truncated?: true;
  /** Exact argv as base64, each string ended by NUL; only when `arguments` had to be changed to be UTF-8. */
  raw_arguments?: string;
  cwd: string;
  /** RFC 3339: when the process (not the image) started. */
  start_time: string;
  /** exec, fork, running or unknown: how the sensor learned of it. */
  origin: string;
  kernel_thread?: true;
  /** Outside of what the reader may see: nothing but its exec_id is told. */
  redacted?: true;
  /** How it, or the one it descends from, came into its container from outside; absent: it grew up there. */
  entered?: Entered;
  /** Of one that entered: argv of the program with which it came in, cut to 256 bytes. */
  entry_arguments?: string[];
  parent_exec_id?: string;
  /** The parent that the kernel names, where that is not the one that forked this process. */
  kernel_parent_exec_id?: string;
  kernel_parent_pid?: number;
}

/** An ancestor beyond the parent, nearest first. */
export type AncestorJson = Pick<ProcessJson, 'exec_id' | 'pid' | 'uid' | 'binary' | 'arguments' | 'redacted'>;

export interface ContainerJson {
  id: string;
  name?: string;
  image?: string;
  image_id?: string;
  runtime?: string;
  privileged?: true;
  sandbox?: true;
  /** The runtime's own record of it was not found on the node: the name of its cgroup alone says that it is this container. */
  unconfirmed?: true;
  cgroup_path?: string;
}

export interface PodJson {
  uid: string;
  namespace?: string;
  name?: string;
  workload?: string;
  workload_kind?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  service_account?: string;
  ips?: string[];
  qos_class?: string;
  unresolved?: true;
}

/** What the remote end of a connection belongs to in the cluster. */
export interface DestinationJson {
  namespace?: string;
  pod?: string;
  workload?: string;
  workload_kind?: string;
  service?: string;
  node?: string;
}

/** An event: what all have, and under its kind's name (`exec`, `exit`, `connect`…) the kind's own fields, every one of them. */
export interface EventJson extends Partial<DetailsJson> {
  /**
   * `<cluster>:<node>:<sequence>`: unique for ever. Readers of EVENTS give one to a loss without a sequence number too, its message's Nats-Msg-Id. Absent in a batch of
   * RAW, which has no cluster yet.
   */
  id?: string;
  /** RFC 3339 in UTC with six digits of a second, cut, not rounded. */
  time: string;
  kind: string;
  /** Keys of two clusters may be equal but for this: store events by (cluster, exec_id). */
  cluster: string;
  node: string;
  boot: string;
  sequence: number;
  /** CLOCK_BOOTTIME in nanoseconds, a decimal: it passes 2^53 after 104 days. */
  ktime_ns: string;
  /** Played from a capture. */
  recorded?: true;
  /** The subject's tokens: a Kubernetes namespace, `_host` or `_none`; and a workload, node or container. */
  namespace: string;
  workload: string;
  tid?: number;
  process?: ProcessJson;
  parent?: ProcessJson;
  ancestors?: AncestorJson[];
  /** There are more than those here: an event has its parent and 31 further ones at most. */
  ancestors_cut?: true;
  container?: ContainerJson;
  pod?: PodJson;
  destination?: DestinationJson;
}

/**
 * The parent among them; as many as sensors send for one event, though a message of several may have more. Ends a walk through a malformed table that refers to
 * itself, too.
 */
export const MAX_ANCESTORS = 32;
/** The end of the year 9999: RFC 3339 has four digits. */
const MAX_TIME_US = Date.UTC(9999, 11, 31, 23, 59, 59, 999) * 1000 + 999;

/** Where the events were published: the subject's parts. */
export interface EventPlace {
  namespace: string;
  workload: string;
}

/**
 * @param batch decoded payload of a message of EVENTS (or of RAW, then without pods)
 * @param place the subject's namespace and workload; default: the host
 */
export function eventsToJson(batch: EventBatch, place?: EventPlace): EventJson[] {
  return createEventReader(batch, place).all();
}

/** Reads events of one batch one by one, so that a caller that filters does not pay for those it drops. */
export interface EventReader {
  readonly batch: EventBatch;
  toJson(event: Event): EventJson;
  /** What JSON.stringify makes of toJson, in a fraction of the time: what events of one process share is made once a batch. */
  toText(event: Event): string;
  /** As in `id`; undefined: it has no number, or its batch has not passed an enricher. */
  idOf(event: Event): string | undefined;
  /** Microseconds since 1970, as in `time`. */
  timeUs(event: Event): number;
  process(event: Event): Process | undefined;
  container(event: Event): Container | undefined;
  pod(event: Event): Pod | undefined;
  all(): EventJson[];
}

/** Which processes of a batch whoever reads it may see: of others it learns that they exist, and nothing else. */
export type ProcessVisibility = (batch: EventBatch) => (process: Process) => boolean;

export function createEventReader(
  batch: EventBatch,
  place: EventPlace = { namespace: HOST_NAMESPACE, workload: batch.node },
  visibility?: ProcessVisibility,
): EventReader {
  const isVisible = visibility?.(batch) ?? (() => true);
  const processes = new Map(batch.processes.map(process => [process.id ?? 0, isVisible(process) ? process : redacted(process)]));
  const containers = new Map(batch.containers.map(container => [container.id ?? 0, container]));
  const pods = new Map(batch.pods.map(pod => [pod.uid ?? '', pod]));
  const destinations = new Map(batch.destinations.map(destination => [destination.ip ?? '', destination]));
  const shared = new Map<number, SharedJson>();
  const sharedTexts = new Map<number, string>();
  const wallUs = createWallClock(batch.wallOffsetNs);

  const processOf = (event: Event) => processes.get(event.process ?? 0);
  const containerOf = (event: Event) => containers.get(processOf(event)?.container ?? 0);
  const timeUs = (event: Event) => wallUs(event.ktimeNs ?? 0);
  const podOf = (event: Event) => pods.get(containerOf(event)?.podUid ?? '');

  /** What all events of one process share, made once a batch. */
  function sharedOf(process: Process): SharedJson {
    const id = process.id ?? 0;
    let json = shared.get(id);
    if (!json) {
      json = processParts(process, { processes, containers, pods, wallUs });
      const container = containers.get(process.container ?? 0);
      const pod = pods.get(container?.podUid ?? '');
      if (container) json.container = containerJson(container, pod);
      if (pod) json.pod = podJson(pod);
      shared.set(id, json);
    }
    return json;
  }

  /** Of a process, as they stand within the braces of an event. */
  function sharedTextOf(process: Process): string {
    const id = process.id ?? 0;
    let text = sharedTexts.get(id);
    if (text === undefined) sharedTexts.set(id, (text = membersOf(JSON.stringify(sharedOf(process)))));
    return text;
  }

  function idOf({ sequence }: Event): string | undefined {
    return sequence && batch.cluster !== '' ? `${batch.cluster}:${batch.node}:${sequence}` : undefined;
  }

  /** What stands before what is shared. */
  function headOf(event: Event) {
    const id = idOf(event);
    return {
      ...(id !== undefined && { id }),
      time: formatTimeUs(timeUs(event)),
      kind: kindName(event.kind ?? 0),
      cluster: batch.cluster,
      node: batch.node,
      boot: batch.boot,
      sequence: event.sequence ?? 0,
      ktime_ns: String(event.ktimeNs ?? 0),
      ...(batch.recorded ? { recorded: true as const } : {}),
      namespace: place.namespace,
      workload: place.workload,
      ...(event.tid ? { tid: event.tid } : {}),
    };
  }

  /** What stands behind it. */
  function tailOf(event: Event): Partial<EventJson> | undefined {
    const kind = kindName(event.kind ?? 0);
    const detail = ownFields(kind, event);
    if (!detail) return undefined;
    const destination = destinations.get('destination_ip' in detail ? detail.destination_ip : '');
    return { [kind]: detail, ...(destination && { destination: destinationJson(destination) }) };
  }

  function toJson(event: Event): EventJson {
    const process = processOf(event);
    return { ...headOf(event), ...(process && sharedOf(process)), ...tailOf(event) };
  }

  function toText(event: Event): string {
    const process = processOf(event);
    const tail = tailOf(event);
    const head = JSON.stringify(headOf(event)).slice(0, -1);
    return `${head}${process ? `,${sharedTextOf(process)}` : ''}${tail ? `,${membersOf(JSON.stringify(tail))}` : ''}}`;
  }

  return {
    batch,
    toJson,
    toText,
    idOf,
    timeUs,
    process: processOf,
    container: containerOf,
    pod: podOf,
    all: () => batch.events.map(toJson),
  };
}

/** Of the text of an object that has some. */
function membersOf(text: string): string {
  return text.slice(1, -1);
}

/** `ring_full` for LOSS_REASON_RING_FULL. */
export function lossReasonName(reason: number): string {
  const name = (LossReason as Record<number, string>)[reason] ?? `LOSS_REASON_${reason}`;
  return name.slice('LOSS_REASON_'.length).toLowerCase();
}

/**
 * Makes microseconds since 1970, cut, of a ktime.
 * @param wallOffsetNs of the batch
 */
export function createWallClock(wallOffsetNs: Exact64): WallClock {
  // The sum passes 2^53, its parts in microseconds do not.
  const offset = microseconds(wallOffsetNs);
  return ktimeNs => {
    const ktime = microseconds(ktimeNs);
    return offset.us + ktime.us + (offset.restNs + ktime.restNs >= 1000 ? 1 : 0);
  };
}

function microseconds(ns: Exact64): { us: number; restNs: number } {
  if (typeof ns === 'bigint') return { us: Number(ns / 1000n), restNs: Number(ns % 1000n) };
  // Not a rounded quotient: it may reach the next integer.
  const restNs = ns % 1000;
  return { us: (ns - restNs) / 1000, restNs };
}

/** RFC 3339 with microseconds, UTC; the nearest that there is for a time that no calendar has. */
export function formatTimeUs(timeUs: number): string {
  const us = Math.min(Math.max(0, Math.floor(timeUs)), MAX_TIME_US);
  const seconds = new Date(Math.floor(us / 1_000_000) * 1000).toISOString().slice(0, 19);
  return `${seconds}.${String(us % 1_000_000).padStart(6, '0')}Z`;
}

/** The kind's own fields: the schema's oneof bears the kind's name. */
function ownFields(kind: string, event: Event): DetailsJson[keyof DetailsJson] | undefined {
  if (!Object.hasOwn(detailJson, kind)) return undefined;
  const name = kind as keyof DetailsJson;
  const detail = event[name];
  return detail ? (detailJson[name] as (message: typeof detail) => DetailsJson[typeof name])(detail) : undefined;
}

export type WallClock = (ktimeNs: Exact64) => number;

interface SharedJson {
  process: ProcessJson;
  parent?: ProcessJson;
  ancestors?: AncestorJson[];
  ancestors_cut?: true;
  container?: ContainerJson;
  pod?: PodJson;
}

/** A batch's tables by their ids. */
interface Tables {
  processes: ReadonlyMap<number, ShownProcess>;
  containers: ReadonlyMap<number, Container>;
  pods: ReadonlyMap<string, Pod>;
  wallUs: WallClock;
}

function processParts(process: ShownProcess, tables: Tables): SharedJson {
  const { processes } = tables;
  const json: SharedJson = { process: processJson(process, tables) };
  const parent = processes.get(process.parent ?? 0);
  if (parent) json.parent = processJson(parent, tables);
  const ancestors: AncestorJson[] = [];
  let oldest = parent ?? process;
  let ancestor = parent && processes.get(parent.parent ?? 0);
  while (ancestor && ancestors.length < MAX_ANCESTORS - 1) {
    ancestors.push({
      exec_id: ancestor.execId ?? '',
      pid: ancestor.pid ?? 0,
      uid: ancestor.uid ?? 0,
      binary: ancestor.binary ?? '',
      arguments: ancestor.arguments ?? [],
      ...(ancestor.redacted ? { redacted: true } : {}),
    });
    oldest = ancestor;
    ancestor = processes.get(ancestor.parent ?? 0);
  }
  if (ancestors.length > 0) json.ancestors = ancestors;
  if (ancestor || oldest.ancestorsCut) json.ancestors_cut = true;
  return json;
}

type ShownProcess = Process & { redacted?: true };

function redacted({ id = 0, parent = 0, execId = '', ancestorsCut = false }: Process): ShownProcess {
  return { id, parent, execId, ancestorsCut, redacted: true };
}

function processJson(process: ShownProcess, { processes, containers, pods, wallUs }: Tables): ProcessJson {
  const parent = processes.get(process.parent ?? 0);
  const container = containers.get(process.container ?? 0);
  const entered = enteredBy(process, container, pods.get(container?.podUid ?? ''));
  return {
    exec_id: process.execId ?? '',
    pid: process.pid ?? 0,
    uid: process.uid ?? 0,
    binary: process.binary ?? '',
    arguments: process.arguments ?? [],
    ...(process.argumentsTruncated ? { arguments_truncated: true } : {}),
    ...(process.rawArguments && process.rawArguments.length > 0
      ? { raw_arguments: Buffer.from(process.rawArguments).toString('base64') }
      : {}),
    cwd: process.cwd ?? '',
    start_time: formatTimeUs(wallUs(process.startKtimeNs ?? 0)),
    origin: ((ProcessOrigin as Record<number, string>)[process.origin ?? 0] ?? 'UNKNOWN').replace('PROCESS_ORIGIN_', '').toLowerCase(),
    ...(process.kernelThread ? { kernel_thread: true } : {}),
    ...(process.redacted ? { redacted: true } : {}),
    ...(entered ? { entered } : {}),
    ...(process.entryArguments && process.entryArguments.length > 0 ? { entry_arguments: process.entryArguments } : {}),
    ...(parent?.execId ? { parent_exec_id: parent.execId } : {}),
    ...(process.kernelParentExecId
      ? { kernel_parent_exec_id: process.kernelParentExecId, kernel_parent_pid: process.kernelParentPid ?? 0 }
      : {}),
  };
}

/** As its runtime's files say, else as its pod does; '' when neither knows. */
export function containerName({ name, containerId }: Container, pod: Pod | undefined): string {
  return name || (pod?.containers?.find(each => each.containerId === containerId)?.name ?? '');
}

function containerJson(container: Container, pod: Pod | undefined): ContainerJson {
  const id = container.containerId ?? '';
  const known = pod?.containers?.find(each => each.containerId === id);
  const name = containerName(container, pod);
  const image = known?.image || container.image;
  return {
    id,
    ...(name ? { name } : {}),
    ...(image ? { image } : {}),
    ...(known?.imageId ? { image_id: known.imageId } : {}),
    ...(container.runtime ? { runtime: container.runtime } : {}),
    ...(known?.privileged ? { privileged: true } : {}),
    ...(container.sandbox ? { sandbox: true } : {}),
    ...(container.unconfirmed ? { unconfirmed: true } : {}),
    ...(container.cgroupPath ? { cgroup_path: container.cgroupPath } : {}),
  };
}

function podJson(pod: Pod): PodJson {
  return {
    uid: pod.uid ?? '',
    ...(pod.namespace ? { namespace: pod.namespace } : {}),
    ...(pod.name ? { name: pod.name } : {}),
    ...(pod.workload ? { workload: pod.workload } : {}),
    ...(pod.workloadKind ? { workload_kind: pod.workloadKind } : {}),
    ...(pod.labels && Object.keys(pod.labels).length > 0 ? { labels: pod.labels } : {}),
    ...(pod.annotations && Object.keys(pod.annotations).length > 0 ? { annotations: pod.annotations } : {}),
    ...(pod.serviceAccount ? { service_account: pod.serviceAccount } : {}),
    ...(pod.ips && pod.ips.length > 0 ? { ips: pod.ips } : {}),
    ...(pod.qosClass ? { qos_class: pod.qosClass } : {}),
    ...(pod.unresolved ? { unresolved: true } : {}),
  };
}

function destinationJson({ namespace, pod, workload, workloadKind, service, node }: Destination): DestinationJson {
  return {
    ...(namespace ? { namespace } : {}),
    ...(pod ? { pod } : {}),
    ...(workload ? { workload } : {}),
    ...(workloadKind ? { workload_kind: workloadKind } : {}),
    ...(service ? { service } : {}),
    ...(node ? { node } : {}),
  };
}
