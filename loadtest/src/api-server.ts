/** The few requests the benchmarks make of a Kubernetes API server, with no more cost to the machine than they need. */
import { readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';

/** Where it is, and as whom to ask it. */
export interface ApiAccess {
  /** https://host:port */
  server: string;
  authority: string;
  token: string;
}

export interface ApiServer {
  readonly access: ApiAccess;
  /** Rejects with what the server said for every answer outside 2xx. */
  call<T>(method: 'GET' | 'POST' | 'PATCH' | 'DELETE', path: string, body?: object): Promise<ApiAnswer<T>>;
  /** All objects at a path, page by page. */
  list<T>(path: string): AsyncGenerator<T, void, undefined>;
  /** A metric of the server's own, all labels summed. */
  metric(name: string): Promise<number>;
  close(): void;
}

export interface ApiAnswer<T> {
  value: T;
  /** When it began to answer, milliseconds since 1970. */
  answeredAtMs: number;
}

/** Another process's watch: its own connection, one list, then changes. */
export interface NodeWatch {
  close(): void;
}

const PAGE = 500;
const SOCKETS = 128;
const CALL_TIMEOUT_MS = 60_000;

/** Milliseconds since 1970, finer than Date gives them. */
export function nowMs(): number {
  return performance.timeOrigin + performance.now();
}

/**
 * A metric in Prometheus' text, all labels summed.
 * @throws {Error} when it is not there: a name that is wrong must not read as 0
 */
export function sumOfSamples(text: string, name: string): number {
  const samples = text.split('\n').filter(line => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
  if (samples.length === 0) throw new Error(`no metric ${name}`);
  return samples.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
}

/** @param kubeconfigPath as testkit writes it */
export function adminAccess(kubeconfigPath: string): ApiAccess {
  const config = JSON.parse(readFileSync(kubeconfigPath, 'utf8')) as {
    clusters: [{ cluster: { server: string; 'certificate-authority-data': string } }];
    users: [{ user: { token: string } }];
  };
  const { cluster } = config.clusters[0];
  return {
    server: cluster.server,
    authority: Buffer.from(cluster['certificate-authority-data'], 'base64').toString(),
    token: config.users[0].user.token,
  };
}

export function openApiServer(access: ApiAccess, userAgent: string): ApiServer {
  const agent = new Agent({ keepAlive: true, maxSockets: SOCKETS, ca: access.authority });
  const call: ApiServer['call'] = async <T>(method: string, path: string, body?: object) => {
    const contentType = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    const response = await send(access, agent, userAgent, method, path, body && JSON.stringify(body), contentType);
    const answeredAtMs = nowMs();
    return { value: JSON.parse(await textOf(response)) as T, answeredAtMs };
  };
  return {
    access,
    call,
    async *list<T>(path: string) {
      let rest = '';
      do {
        const { value } = await call<{ items: T[]; metadata: { continue?: string } }>('GET', `${path}?limit=${PAGE}&continue=${rest}`);
        yield* value.items;
        rest = encodeURIComponent(value.metadata.continue ?? '');
      } while (rest !== '');
    },
    async metric(name) {
      return sumOfSamples(await textOf(await send(access, agent, userAgent, 'GET', '/metrics')), name);
    },
    close: () => agent.destroy(),
  };
}

/** Watches the pods of one node as an agent on that node would. Resolves when all it starts with has come. */
export async function watchNode(access: ApiAccess, userAgent: string, node: string, onPod: (uid: string) => void): Promise<NodeWatch> {
  const agent = new Agent({ ca: access.authority, keepAlive: true, maxSockets: 1 });
  const selector = `fieldSelector=${encodeURIComponent(`spec.nodeName=${node}`)}`;
  const listed = await send(access, agent, userAgent, 'GET', `/api/v1/pods?${selector}&resourceVersion=0`);
  const { metadata } = JSON.parse(await textOf(listed)) as { metadata: { resourceVersion: string } };
  const query = `${selector}&watch=true&allowWatchBookmarks=true&resourceVersion=${metadata.resourceVersion}`;
  const response = await send(access, agent, userAgent, 'GET', `/api/v1/pods?${query}`);
  let partial = '';
  response.setEncoding('utf8').on('data', (chunk: string) => {
    const lines = (partial + chunk).split('\n');
    partial = lines.pop() ?? '';
    for (const line of lines) {
      const { type, object } = JSON.parse(line) as { type: string; object: { metadata: { uid: string } } };
      if (type === 'ADDED') onPod(object.metadata.uid);
    }
  });
  response.on('error', () => undefined); // close() ends it in the middle.
  return { close: () => agent.destroy() };
}

async function send(
  { server, token }: ApiAccess,
  agent: Agent,
  userAgent: string,
  method: string,
  path: string,
  body?: string,
  contentType = 'application/json',
): Promise<IncomingMessage> {
  const headers = {
    authorization: `Bearer ${token}`,
    'user-agent': userAgent,
    ...(body !== undefined && { 'content-type': contentType, 'content-length': String(Buffer.byteLength(body)) }),
  };
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const outgoing = request(`${server}${path}`, { method, agent, headers }, resolve);
    // Until it answers only: a watch is silent for long.
    const timer = setTimeout(() => outgoing.destroy(new Error(`${method} ${path}: no answer in ${CALL_TIMEOUT_MS} ms`)), CALL_TIMEOUT_MS);
    outgoing
      .once('response', () => clearTimeout(timer))
      .once('error', error => {
        clearTimeout(timer);
        reject(error);
      });
    outgoing.end(body);
  });
  const { statusCode = 0 } = response;
  if (statusCode < 200 || statusCode >= 300)
    throw new Error(`${method} ${path}: status ${statusCode}: ${(await textOf(response)).slice(0, 500)}`);
  return response;
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}
