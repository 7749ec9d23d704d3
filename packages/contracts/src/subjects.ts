/** Subjects of the streams, and names made safe as one subject token. */
import { kindName } from './kinds.ts';

export const RAW_PREFIX = 'tidegate.raw';
export const EVENTS_PREFIX = 'tidegate.events';
export const DEAD_LETTER_PREFIX = 'tidegate.deadletter';
/** Events as JSON, one a message, for plain subscribers: the other tokens are those of EVENTS. No stream holds them. */
export const FEED_PREFIX = 'tidegate.feed';

/** Namespace token of processes outside containers; the workload token is then the node's. */
export const HOST_NAMESPACE = '_host';
/** Namespace token of containers outside Kubernetes, and of pods not resolved in time; the workload token is then the container's name or id. */
export const NO_NAMESPACE = '_none';

/** Workload token of what is one too many of its namespace: how many names a cluster makes in a day does not decide how many subjects a server must keep. */
export const MORE_WORKLOADS = '_more';

/** Letters, digits and '-' stay, '.' becomes '_' (no Kubernetes name holds one), the rest =XX of its UTF-8: a token is also good as a key in KV. Distinct names stay distinct. */
export function subjectToken(name: string): string {
  if (/^[A-Za-z0-9-]+$/.test(name)) return name;
  if (name === '') return '=';
  let token = '';
  for (const byte of Buffer.from(name)) {
    const char = String.fromCharCode(byte);
    if (/[A-Za-z0-9-]/.test(char)) token += char;
    else if (char === '.') token += '_';
    else token += `=${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }
  return token;
}

/** The name a token was made of. */
export function tokenName(token: string): string {
  if (token === '=') return '';
  const bytes: number[] = [];
  for (let i = 0; i < token.length; i++) {
    if (token[i] === '=') {
      bytes.push(parseInt(token.slice(i + 1, i + 3), 16));
      i += 2;
    } else bytes.push(token[i] === '_' ? 0x2e : token.charCodeAt(i));
  }
  return Buffer.from(bytes).toString();
}

/** The node whose name a played capture's events bear. Their exec_id still names the node that was recorded. */
export function recordedNode(node: string): string {
  return `${node}-recorded`;
}

/** Where a node's sensor publishes. */
export function rawSubject(node: string): string {
  return `${RAW_PREFIX}.${subjectToken(node)}`;
}

/**
 * Where an event is published once enriched.
 * @param namespace a Kubernetes namespace, HOST_NAMESPACE or NO_NAMESPACE
 * @param workload name of the workload, node or container, or MORE_WORKLOADS
 */
export function eventSubject(kind: number, namespace: string, workload: string): string {
  return `${EVENTS_PREFIX}.${kindName(kind)}.${namespaceToken(namespace)}.${workloadToken(workload)}`;
}

/** Where an event of this subject of EVENTS is published as JSON. */
export function feedSubject(kind: string, namespace: string, workload: string): string {
  return `${FEED_PREFIX}.${kind}.${namespaceToken(namespace)}.${workloadToken(workload)}`;
}

/** Subject filter of EVENTS; what is left out matches all. */
export function eventFilter(filter: { kind?: string | undefined; namespace?: string | undefined; workload?: string | undefined }): string {
  const namespace = filter.namespace === undefined ? undefined : namespaceToken(filter.namespace);
  const workload = filter.workload === undefined ? undefined : workloadToken(filter.workload);
  return `${EVENTS_PREFIX}.${filter.kind ?? '*'}.${namespace ?? '*'}.${workload ?? '*'}`;
}

/** The parts of an EVENTS subject; undefined when it is none. */
export function parseEventSubject(subject: string): { kind: string; namespace: string; workload: string } | undefined {
  const [prefix, events, kind, namespace, workload, ...rest] = subject.split('.');
  if (`${prefix}.${events}` !== EVENTS_PREFIX || kind === undefined || namespace === undefined || workload === undefined || rest.length > 0)
    return undefined;
  const isReserved = namespace === HOST_NAMESPACE || namespace === NO_NAMESPACE;
  return {
    kind,
    namespace: isReserved ? namespace : tokenName(namespace),
    workload: workload === MORE_WORKLOADS ? workload : tokenName(workload),
  };
}

function namespaceToken(namespace: string): string {
  return namespace === HOST_NAMESPACE || namespace === NO_NAMESPACE ? namespace : subjectToken(namespace);
}

function workloadToken(workload: string): string {
  return workload === MORE_WORKLOADS ? workload : subjectToken(workload);
}
