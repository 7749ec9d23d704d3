/** Which events a request asks for: as subject filters for the server, and as a test of decoded events. */
import { KIND_NAMES, eventFilter, kindName, type Container, type Event, type Pod, type Process } from '@tidegate/contracts';
import { list, single, integerOf, type ParameterValues } from './parameters.ts';
import { eventTimeUs, type EventMessage } from './event-message.ts';

const NAME = 'a name';
const MAX_PID = 4_194_304;

/** The filters that history and live feed share. Values of one parameter are alternatives (except labels); different parameters must all match. */
export const filterParameters = {
  kind: list({ description: 'Kinds of events.', example: 'exec,exit', expected: `kinds among ${KIND_NAMES.join(', ')}` }, text =>
    KIND_NAMES.includes(text) ? text : undefined,
  ),
  namespace: list(
    {
      description: 'Kubernetes namespaces; _host: processes outside containers; _none: containers outside Kubernetes.',
      example: '_host',
      expected: NAME,
    },
    text => text,
  ),
  workload: list({ description: 'Workloads: on _host the node, on _none the container.', example: 'web', expected: NAME }, text => text),
  pod: list({ description: 'Pods, by name or UID.', example: 'web-7d4b9c-x2x1z', expected: 'a name or UID' }, text => text),
  node: list({ description: 'Nodes.', example: 'worker-1', expected: NAME }, text => text),
  binary: list(
    { description: "The process's binary: a whole path, or its beginning with * at the end.", example: '/usr/bin/*', expected: 'a path' },
    text => text,
  ),
  pid: list({ description: 'Process ids on the node.', example: '4711', expected: `integers from 1 to ${MAX_PID}` }, text =>
    integerOf(text, 1, MAX_PID),
  ),
  exec_id: list(
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
  label: list(
    { description: "Labels of the event's pod, all of which must match.", example: 'app=web', expected: 'key=value, or key' },
    text => (text.startsWith('=') ? undefined : text),
  ),
} as const;

/** A request's filters, and the interval of event times: from included, to not. */
export type EventFilter = ParameterValues<typeof filterParameters> & { fromUs?: number; toUs?: number };

/** Most filter subjects that one consumer is asked for; beyond, the widest part is filtered here. */
const MAX_FILTER_SUBJECTS = 64;

/**
 * Subjects that hold all matching events; empty: all subjects. They never overlap.
 * @param canFilterSeveral the server takes several filter subjects on one consumer (nats-server 2.10)
 */
export function filterSubjects({ kind, namespace, workload }: EventFilter, canFilterSeveral: boolean): string[] {
  const maxSubjects = canFilterSeveral ? MAX_FILTER_SUBJECTS : 1;
  const parts: (string[] | undefined)[] = [kind, namespace, workload];
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
  const { kind, namespace, workload, node, fromUs = -Infinity, toUs = Infinity } = filter;
  const testProcess = processTest(filter);
  const text = filter.text;
  return message => {
    const { place } = message;
    if (kind && !kind.includes(place.kind)) return [];
    if (namespace && !namespace.includes(place.namespace)) return [];
    if (workload && !workload.includes(place.workload)) return [];
    const batch = message.batch;
    if (!batch || (node && !node.includes(batch.node))) return [];
    const reader = message.reader!;
    const tested = new Map<number, boolean>();
    const texts = new Map<number, boolean>();
    const indices: number[] = [];
    for (let i = 0; i < batch.events.length; i++) {
      const event = batch.events[i]!;
      if (kind && !kind.includes(kindName(event.kind ?? 0))) continue;
      const timeUs = eventTimeUs(batch, event);
      if (timeUs < fromUs || timeUs >= toUs) continue;
      const id = event.process ?? 0;
      if (testProcess && !remembered(tested, id, () => testProcess(reader.process(event), reader.pod(event)))) continue;
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
  return (
    (!kind || kind.includes(place.kind)) &&
    (!namespace || namespace.includes(place.namespace)) &&
    (!workload || workload.includes(place.workload))
  );
}

/** What the filters ask of an event's process and pod; undefined: nothing. */
function processTest({ pod, binary, pid, exec_id: execId, label }: EventFilter): ((process?: Process, pod?: Pod) => boolean) | undefined {
  const labels = label?.map(parseLabel);
  if (!pod && !binary && !pid && !execId && !labels) return undefined;
  return (process, itsPod) => {
    if (pod && !(itsPod && (pod.includes(itsPod.name ?? '') || pod.includes(itsPod.uid ?? '')))) return false;
    if (labels && !labels.every(({ key, value }) => hasLabel(itsPod, key, value))) return false;
    if (!binary && !pid && !execId) return true;
    if (!process) return false;
    if (pid && !pid.includes(process.pid ?? 0)) return false;
    if (execId && !execId.includes(process.execId ?? '')) return false;
    return !binary || binary.some(pattern => matchesBinary(process.binary ?? '', pattern));
  };
}

function matchesBinary(binary: string, pattern: string): boolean {
  return pattern.endsWith('*') ? binary.startsWith(pattern.slice(0, -1)) : binary === pattern;
}

function parseLabel(text: string): { key: string; value: string | undefined } {
  const equals = text.indexOf('=');
  return equals < 0 ? { key: text, value: undefined } : { key: text.slice(0, equals), value: text.slice(equals + 1) };
}

function hasLabel(pod: Pod | undefined, key: string, value: string | undefined): boolean {
  if (!pod?.labels || !Object.hasOwn(pod.labels, key)) return false;
  return value === undefined || pod.labels[key] === value;
}

function processTexts(process: Process | undefined, container: Container | undefined, pod: Pod | undefined): (string | null | undefined)[] {
  return [process?.binary, process?.arguments?.join(' '), process?.cwd, container?.name, container?.containerId, pod?.name, pod?.workload];
}

function detailHasText(event: Event, text: string): boolean {
  const connection = event.connect ?? event.accept ?? event.listen ?? event.close;
  if (connection) {
    return hasText(text, [
      `${connection.sourceIp ?? ''}:${connection.sourcePort ?? 0}`,
      `${connection.destinationIp ?? ''}:${connection.destinationPort ?? 0}`,
    ]);
  }
  return event.exec ? hasText(text, [event.exec.rawPath]) : false;
}

function hasText(text: string, places: readonly (string | null | undefined)[]): boolean {
  return places.some(place => place?.toLowerCase().includes(text));
}

function remembered(known: Map<number, boolean>, id: number, test: () => boolean): boolean {
  let result = known.get(id);
  if (result === undefined) known.set(id, (result = test()));
  return result;
}
