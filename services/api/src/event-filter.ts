/** Which events a request asks for: as subject filters for the server, and as a test of decoded events. */
import { KIND_NAMES, containerName, eventFilter, kindName, type Container, type Event, type Pod, type Process } from '@tidegate/contracts';
import { integerOf, selection, selects, single, type ParameterValues, type Selection } from './parameters.ts';
import type { EventMessage } from './event-message.ts';

const NAME = 'a name';
const MAX_PID = 4_194_304;

/**
 * The filters that history and live feed share. Values of one parameter are alternatives (except labels), those with ! before them are left out;
 * different parameters must all match. What an event has not (a pod, a container, a process) is not left out by any value.
 */
export const filterParameters = {
  kind: selection({ description: 'Kinds of events.', example: 'exec,exit', expected: `kinds among ${KIND_NAMES.join(', ')}` }, text =>
    KIND_NAMES.includes(text) ? text : undefined,
  ),
  namespace: selection(
    {
      description: 'Kubernetes namespaces; _host: processes outside containers; _none: containers outside Kubernetes.',
      example: '_host',
      expected: NAME,
    },
    text => text,
  ),
  workload: selection(
    { description: 'Workloads: on _host the node, on _none the container.', example: 'web', expected: NAME },
    text => text,
  ),
  pod: selection({ description: 'Pods, by name or UID.', example: 'web-7d4b9c-x2x1z', expected: 'a name or UID' }, text => text),
  container: selection(
    { description: 'Containers, by name or id; of an id the first 12 digits or more.', example: 'nginx', expected: 'a name or id' },
    text => text,
  ),
  node: selection({ description: 'Nodes.', example: 'worker-1', expected: NAME }, text => text),
  binary: selection(
    { description: "The process's binary: a whole path, or its beginning with * at the end.", example: '/usr/bin/*', expected: 'a path' },
    text => text,
  ),
  pid: selection({ description: 'Process ids on the node.', example: '4711', expected: `integers from 1 to ${MAX_PID}` }, text =>
    integerOf(text, 1, MAX_PID),
  ),
  exec_id: selection(
    { description: 'Processes, by exec_id.', example: 'd29ya2VyLTE6MTIzNDU2Nzg5OjQ3MTE=', expected: 'an exec_id' },
    text => text,
  ),
  text: single(
    {
      description: 'Text, in any case, in binary, arguments, working directory, raw path, addresses, pod, workload or container name.',
      example: 'curl',
      expected: 'text',
    },
    text => text.toLowerCase(),
  ),
  label: selection(
    { description: "Labels of the event's pod, all of which must match.", example: 'app=web', expected: 'key=value, or key' },
    text => (text.startsWith('=') ? undefined : text),
  ),
} as const;

/** A request's filters, and the interval of event times: from included, to not. */
export type EventFilter = ParameterValues<typeof filterParameters> & { fromUs?: number; toUs?: number };

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
  const parts = [kind, namespace, workload].map(wanted => (wanted && wanted.only.length > 0 ? wanted.only : undefined));
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
  const testProcess = processTest(filter);
  const text = filter.text;
  return message => {
    const { place } = message;
    if (!matchesSubject(filter, place)) return [];
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
  return is(kind, place.kind) && is(namespace, place.namespace) && is(workload, place.workload);
}

type ProcessTest = (process?: Process, container?: Container, pod?: Pod) => boolean;

/** What the filters ask of an event's process, container and pod; undefined: nothing. */
function processTest({ pod, container, binary, pid, exec_id: execId, label }: EventFilter): ProcessTest | undefined {
  if (!pod && !container && !binary && !pid && !execId && !label) return undefined;
  const labels = label && { only: label.only.map(parseLabel), except: label.except.map(parseLabel) };
  return (process, itsContainer, itsPod) =>
    selects(pod, wanted => wanted === itsPod?.name || wanted === itsPod?.uid) &&
    (!labels || (labels.only.every(wanted => hasLabel(itsPod, wanted)) && !labels.except.some(wanted => hasLabel(itsPod, wanted)))) &&
    selects(container, wanted => isContainer(itsContainer, itsPod, wanted)) &&
    is(pid, process?.pid ?? undefined) &&
    is(execId, process?.execId ?? undefined) &&
    selects(binary, pattern => matchesBinary(process?.binary, pattern));
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
