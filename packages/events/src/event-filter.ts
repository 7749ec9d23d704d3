/** Which events a request asks for: as subject filters for the server, and as a test of decoded events. */
import {
  containerName,
  enteredBy,
  eventFilter,
  MORE_WORKLOADS,
  kindName,
  type Container,
  type Entered,
  type Event,
  type Pod,
  type Process,
} from '@tidegate/contracts';
import type { EventMessage } from './event-message.ts';

/** What is wanted of one property of events. */
export interface Selection<T> {
  /** Alternatives; none: anything. */
  only: readonly T[];
  /** None of these. */
  except: readonly T[];
}

/** Which events are wanted: all selections must hold, and what is left out matches all. What an event has not (a pod, a container, a process) is not left out by any value. */
export interface EventFilter {
  kind?: Selection<string>;
  /** Kubernetes namespaces; `_host`: processes outside containers; `_none`: containers outside Kubernetes. */
  namespace?: Selection<string>;
  /** On `_host` the node, on `_none` the container. */
  workload?: Selection<string>;
  /** By name or UID. */
  pod?: Selection<string>;
  /** By name or id; of an id the first 12 digits or more. */
  container?: Selection<string>;
  /** How the process came into its container from outside. */
  entered?: Selection<Entered>;
  node?: Selection<string>;
  /** Whole paths, or their beginnings with `*` at the end. */
  binary?: Selection<string>;
  pid?: Selection<number>;
  exec_id?: Selection<string>;
  /** In lower case; looked for in binary, arguments, working directory, raw path, addresses, pod, workload and container name. */
  text?: string;
  /** `key=value` or `key`, all of which must match. */
  label?: Selection<string>;
  /** Event times, microseconds since 1970: from included, to not. */
  fromUs?: number;
  toUs?: number;
}

/** These values, and no others. */
export function only<T>(...values: T[]): Selection<T> {
  return { only: values, except: [] };
}

/** Whether a selection takes what `matches` holds for; without a selection everything. */
export function selects<T>(wanted: Selection<T> | undefined, matches: (value: T) => boolean): boolean {
  return !wanted || ((wanted.only.length === 0 || wanted.only.some(matches)) && !wanted.except.some(matches));
}

/** As the container runtimes' own tools shorten them. */
const SHORT_ID_LENGTH = 12;

/** Most filter subjects that one consumer is asked for; beyond, the widest part is filtered here. */
const MAX_FILTER_SUBJECTS = 64;

/**
 * Subjects that hold all matching events; empty: all subjects. They never overlap.
 * @param canFilterSeveral the server takes several filter subjects on one consumer (nats-server 2.10)
 */
export function filterSubjects({ kind, namespace, workload }: EventFilter, canFilterSeveral: boolean): string[] {
  const maxSubjects = canFilterSeveral ? MAX_FILTER_SUBJECTS : 1;
  // What is left out cannot be said to the server: it is filtered here.
  const [kindNames, namespaceNames, workloadNames] = [kind, namespace, workload].map(wanted =>
    wanted && wanted.only.length > 0 ? wanted.only : undefined,
  );
  // Any workload may be among those that share a subject.
  const parts = [kindNames, namespaceNames, workloadNames && [...new Set([...workloadNames, MORE_WORKLOADS])]];
  const count = () => parts.reduce((product, part) => product * (part?.length ?? 1), 1);
  while (count() > maxSubjects) {
    const widest = parts.reduce((most, part, i) => ((part?.length ?? 0) > (parts[most]?.length ?? 0) ? i : most), 0);
    parts[widest] = undefined;
  }
  const [kinds, namespaces, workloads] = parts.map(part => part ?? [undefined]);
  if (parts.every(part => part === undefined)) return [];
  return kinds!.flatMap(k => namespaces!.flatMap(n => workloads!.map(w => eventFilter({ kind: k, namespace: n, workload: w }))));
}

/** Gives the indices of a message's events that match, in the message's order. */
export type EventMatcher = (message: EventMessage) => number[];

export function createMatcher(filter: EventFilter): EventMatcher {
  const { kind, node, fromUs = -Infinity, toUs = Infinity } = filter;
  const ownTest = processTest(filter);
  const sharedTest = processTest(filter, filter.workload);
  const text = filter.text;
  return message => {
    const { place } = message;
    const testProcess = place.workload === MORE_WORKLOADS ? sharedTest : ownTest;
    if (!message.isInScope || !matchesSubject(filter, place)) return [];
    const batch = message.batch;
    if (!batch || !is(node, batch.node)) return [];
    const reader = message.reader!;
    const tested = new Map<number, boolean>();
    const texts = new Map<number, boolean>();
    const indices: number[] = [];
    for (let i = 0; i < batch.events.length; i++) {
      const event = batch.events[i]!;
      if (!is(kind, kindName(event.kind ?? 0))) continue;
      const timeUs = reader.timeUs(event);
      if (timeUs < fromUs || timeUs >= toUs) continue;
      const id = event.process ?? 0;
      if (testProcess && !remembered(tested, id, () => testProcess(reader.process(event), reader.container(event), reader.pod(event))))
        continue;
      if (text !== undefined && !detailHasText(event, text)) {
        const has = remembered(texts, id, () =>
          hasText(text, [place.workload, ...processTexts(reader.process(event), reader.container(event), reader.pod(event))]),
        );
        if (!has) continue;
      }
      indices.push(i);
    }
    return indices;
  };
}

/** Whether an EVENTS message can hold matches at all, by its subject. */
export function matchesSubject({ kind, namespace, workload }: EventFilter, place: EventMessage['place']): boolean {
  return is(kind, place.kind) && is(namespace, place.namespace) && (place.workload === MORE_WORKLOADS || is(workload, place.workload));
}

type ProcessTest = (process?: Process, container?: Container, pod?: Pod) => boolean;

/**
 * What the filters ask of an event's process, container and pod; undefined: nothing.
 * @param workload asked here where the subject does not tell it
 */
function processTest(
  { pod, container, entered, binary, pid, exec_id: execId, label }: EventFilter,
  workload?: Selection<string>,
): ProcessTest | undefined {
  if (!workload && !pod && !container && !entered && !binary && !pid && !execId && !label) return undefined;
  const labels = label && { only: label.only.map(parseLabel), except: label.except.map(parseLabel) };
  return (process, itsContainer, itsPod) =>
    selects(workload, wanted => wanted === MORE_WORKLOADS || wanted === workloadOf(itsContainer, itsPod)) &&
    selects(pod, wanted => wanted === itsPod?.name || wanted === itsPod?.uid) &&
    (!labels || (labels.only.every(wanted => hasLabel(itsPod, wanted)) && !labels.except.some(wanted => hasLabel(itsPod, wanted)))) &&
    selects(container, wanted => isContainer(itsContainer, itsPod, wanted)) &&
    (!entered || is(entered, process && enteredBy(process, itsContainer, itsPod))) &&
    is(pid, process?.pid ?? undefined) &&
    is(execId, process?.execId ?? undefined) &&
    selects(binary, pattern => matchesBinary(process?.binary, pattern));
}

/** What the subject would have said if it were not shared. */
function workloadOf(container: Container | undefined, pod: Pod | undefined): string | undefined {
  if (pod) return pod.workload || pod.name || pod.uid || undefined;
  return container && (container.name || (container.containerId ?? '').slice(0, SHORT_ID_LENGTH));
}

function is<T>(wanted: Selection<T> | undefined, value: T | undefined): boolean {
  return selects(wanted, each => each === value);
}

function isContainer(container: Container | undefined, pod: Pod | undefined, wanted: string): boolean {
  if (!container) return false;
  const id = container.containerId ?? '';
  return wanted === containerName(container, pod) || wanted === id || (wanted.length >= SHORT_ID_LENGTH && id.startsWith(wanted));
}

function matchesBinary(binary: string | null | undefined, pattern: string): boolean {
  return pattern.endsWith('*') ? binary?.startsWith(pattern.slice(0, -1)) === true : binary === pattern;
}

interface Label {
  key: string;
  /** undefined: any. */
  value: string | undefined;
}

function parseLabel(text: string): Label {
  const equals = text.indexOf('=');
  return equals < 0 ? { key: text, value: undefined } : { key: text.slice(0, equals), value: text.slice(equals + 1) };
}

function hasLabel(pod: Pod | undefined, { key, value }: Label): boolean {
  if (!pod?.labels || !Object.hasOwn(pod.labels, key)) return false;
  return value === undefined || pod.labels[key] === value;
}

function processTexts(process: Process | undefined, container: Container | undefined, pod: Pod | undefined): (string | null | undefined)[] {
  return [process?.binary, process?.arguments?.join(' '), process?.cwd, container?.name, container?.containerId, pod?.name, pod?.workload];
}

function detailHasText(event: Event, text: string): boolean {
  const connection = event.connect ?? event.accept ?? event.close;
  const local = connection ?? event.listen;
  return hasText(text, [
    event.exec?.rawPath,
    local && `${local.sourceIp ?? ''}:${local.sourcePort ?? 0}`,
    connection && `${connection.destinationIp ?? ''}:${connection.destinationPort ?? 0}`,
  ]);
}

function hasText(text: string, places: readonly (string | null | undefined)[]): boolean {
  return places.some(place => place?.toLowerCase().includes(text));
}

function remembered(known: Map<number, boolean>, id: number, test: () => boolean): boolean {
  let result = known.get(id);
  if (result === undefined) known.set(id, (result = test()));
  return result;
}
