/**
 * Events as people and SIEMs read them: every event whole by itself, with its process, parent, ancestors up to init, container and pod, field names as in the schema
 * (snake_case). Used by the API and the command line, so that both say the same.
 */
import { HOST_NAMESPACE } from './subjects.ts';
import { kindName } from './kinds.ts';
import { Event, LossReason, ProcessOrigin, type Container, type Destination, type EventBatch, type Pod, type Process } from './schema.ts';

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
  entered?: true;
  parent_exec_id?: string;
}

/** An ancestor beyond the parent, nearest first. */
export type AncestorJson = Pick<ProcessJson, 'exec_id' | 'pid' | 'uid' | 'binary' | 'arguments'>;

export interface ContainerJson {
  id: string;
  name?: string;
  image?: string;
  image_id?: string;
  runtime?: string;
  privileged?: true;
  sandbox?: true;
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

export interface EventJson {
  /** `<node>:<sequence>`: unique for ever. Absent where the event has no sequence number (a loss found after the sensor). */
  id?: string;
  /** RFC 3339, microseconds. */
  time: string;
  kind: string;
  node: string;
  boot: string;
  sequence: number;
  ktime_ns: number;
  /** Played from a capture. */
  recorded?: true;
  /** The subject's tokens: a Kubernetes namespace, `_host` or `_none`; and a workload, node or container. */
  namespace: string;
  workload: string;
  tid?: number;
  process?: ProcessJson;
  parent?: ProcessJson;
  ancestors?: AncestorJson[];
  container?: ContainerJson;
  pod?: PodJson;
  destination?: Record<string, unknown>;
  /** The kind's own fields, under the kind's name: `exec`, `exit`, `connect`… */
  [detail: string]: unknown;
}

/** More than any process tree has; ends a walk through a malformed table that refers to itself. */
const MAX_ANCESTORS = 256;

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
  process(event: Event): Process | undefined;
  container(event: Event): Container | undefined;
  pod(event: Event): Pod | undefined;
  all(): EventJson[];
}

export function createEventReader(batch: EventBatch, place: EventPlace = { namespace: HOST_NAMESPACE, workload: batch.node }): EventReader {
  const processes = new Map(batch.processes.map(process => [process.id ?? 0, process]));
  const containers = new Map(batch.containers.map(container => [container.id ?? 0, container]));
  const pods = new Map(batch.pods.map(pod => [pod.uid ?? '', pod]));
  const destinations = new Map(batch.destinations.map(destination => [destination.ip ?? '', destination]));
  const shared = new Map<number, SharedJson>();

  const processOf = (event: Event) => processes.get(event.process ?? 0);
  const containerOf = (event: Event) => containers.get(processOf(event)?.container ?? 0);
  const podOf = (event: Event) => pods.get(containerOf(event)?.podUid ?? '');

  /** What all events of one process share, made once a batch. */
  function sharedOf(process: Process): SharedJson {
    const id = process.id ?? 0;
    let json = shared.get(id);
    if (!json) {
      json = processParts(process, processes, batch.wallOffsetNs);
      const container = containers.get(process.container ?? 0);
      const pod = pods.get(container?.podUid ?? '');
      if (container) json.container = containerJson(container, pod);
      if (pod) json.pod = podJson(pod);
      shared.set(id, json);
    }
    return json;
  }

  function toJson(event: Event): EventJson {
    const kind = kindName(event.kind ?? 0);
    const process = processOf(event);
    const sequence = event.sequence ?? 0;
    const json: EventJson = {
      ...(sequence > 0 ? { id: `${batch.node}:${sequence}` } : {}),
      time: wallTime(batch.wallOffsetNs, event.ktimeNs ?? 0),
      kind,
      node: batch.node,
      boot: batch.boot,
      sequence,
      ktime_ns: event.ktimeNs ?? 0,
      ...(batch.recorded ? { recorded: true } : {}),
      namespace: place.namespace,
      workload: place.workload,
      ...(event.tid ? { tid: event.tid } : {}),
      ...(process ? sharedOf(process) : {}),
    };
    // The field of the oneof that is set bears the kind's name.
    const detail = Event.toObject(event as Event & InstanceType<typeof Event>, { longs: Number, enums: String, bytes: String })[kind] as
      Record<string, unknown> | undefined;
    if (detail) {
      json[kind] = snakeCased(detail);
      if (kind === 'loss') (json[kind] as { reason?: string }).reason = lossReasonName(event.loss?.reason ?? 0);
      const destination = destinations.get(typeof detail['destinationIp'] === 'string' ? detail['destinationIp'] : '');
      if (destination) json.destination = destinationJson(destination);
    }
    return json;
  }

  return { batch, toJson, process: processOf, container: containerOf, pod: podOf, all: () => batch.events.map(toJson) };
}

/** `ring_full` for LOSS_REASON_RING_FULL. */
export function lossReasonName(reason: number): string {
  const name = (LossReason as Record<number, string>)[reason] ?? `LOSS_REASON_${reason}`;
  return name.slice('LOSS_REASON_'.length).toLowerCase();
}

/** RFC 3339 with microseconds, UTC. */
export function wallTime(wallOffsetNs: number, ktimeNs: number): string {
  // Split before adding: the sum passes 2^53, the parts in microseconds do not.
  const totalUs = Math.floor(wallOffsetNs / 1000) + Math.floor(ktimeNs / 1000);
  const us = totalUs % 1_000_000;
  const seconds = new Date(totalUs / 1000).toISOString().slice(0, 19);
  return `${seconds}.${String(us).padStart(6, '0')}Z`;
}

interface SharedJson {
  process: ProcessJson;
  parent?: ProcessJson;
  ancestors?: AncestorJson[];
  container?: ContainerJson;
  pod?: PodJson;
}

function processParts(process: Process, processes: ReadonlyMap<number, Process>, wallOffsetNs: number): SharedJson {
  const json: SharedJson = { process: processJson(process, processes, wallOffsetNs) };
  const parent = processes.get(process.parent ?? 0);
  if (!parent) return json;
  json.parent = processJson(parent, processes, wallOffsetNs);
  const ancestors: AncestorJson[] = [];
  let ancestor = processes.get(parent.parent ?? 0);
  while (ancestor && ancestors.length < MAX_ANCESTORS) {
    ancestors.push({
      exec_id: ancestor.execId ?? '',
      pid: ancestor.pid ?? 0,
      uid: ancestor.uid ?? 0,
      binary: ancestor.binary ?? '',
      arguments: ancestor.arguments ?? [],
    });
    ancestor = processes.get(ancestor.parent ?? 0);
  }
  if (ancestors.length > 0) json.ancestors = ancestors;
  return json;
}

function processJson(process: Process, processes: ReadonlyMap<number, Process>, wallOffsetNs: number): ProcessJson {
  const parent = processes.get(process.parent ?? 0);
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
    start_time: wallTime(wallOffsetNs, process.startKtimeNs ?? 0),
    origin: ((ProcessOrigin as Record<number, string>)[process.origin ?? 0] ?? 'UNKNOWN').replace('PROCESS_ORIGIN_', '').toLowerCase(),
    ...(process.kernelThread ? { kernel_thread: true } : {}),
    ...(process.entered ? { entered: true } : {}),
    ...(parent?.execId ? { parent_exec_id: parent.execId } : {}),
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

function destinationJson(destination: Destination): Record<string, unknown> {
  const { ip: _ip, $unknowns: _unknowns, ...rest } = destination;
  return Object.fromEntries(Object.entries(snakeCased(rest)).filter(([, value]) => value !== ''));
}

function snakeCased(value: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(value).map(([key, entry]) => [
      key.replaceAll(/[A-Z]/g, letter => `_${letter.toLowerCase()}`),
      entry !== null && typeof entry === 'object' && !Array.isArray(entry) && key !== 'byKind' ? snakeCased(entry as object) : entry,
    ]),
  );
}
