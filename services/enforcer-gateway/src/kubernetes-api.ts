/** The few requests the gateway makes of a Kubernetes API server, streamed, so that a list of 100,000 pods is never in memory at once. */
import { existsSync, readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { Agent, request, type RequestOptions } from 'node:https';
import { join } from 'node:path';
import { TidegateError } from '@tidegate/runtime';

/** Where the API server is, and as whom to ask it. */
export interface KubernetesAccess {
  server: string;
  /** Adds credentials, certificates and agent to a request. */
  authorize(options: RequestOptions): Promise<void>;
}

export interface ApiQuery {
  readonly [parameter: string]: string | number | boolean | undefined;
}

export interface ApiCall {
  method?: 'GET' | 'POST' | 'PUT';
  query?: ApiQuery;
  /** Default: plain JSON. */
  accept?: string;
  body?: object;
  signal?: AbortSignal;
  timeoutMs?: number;
}

export interface WatchCall {
  query: ApiQuery;
  accept?: string;
  signal: AbortSignal;
  /** Silence after which the connection counts as dead. */
  idleTimeoutMs: number;
  /** Once the server has accepted the watch. */
  onOpen: () => void;
  /** One line: one watch event. What it throws ends the watch. */
  onLine: (line: string) => void;
}

export interface KubernetesApi {
  /** @throws {KubernetesApiError} for every answer outside 2xx */
  call<T>(path: string, call?: ApiCall): Promise<T>;
  /** Resolves when the server ends the watch in order. */
  watch(path: string, call: WatchCall): Promise<void>;
}

/** The API server refused; `status` is HTTP's. */
export class KubernetesApiError extends TidegateError {
  readonly status: number;

  constructor(status: number, message: string) {
    super('KUBERNETES_REFUSED', message, { got: `status ${status}` });
    this.status = status;
  }
}

const SERVICE_ACCOUNT_FOLDER = '/var/run/secrets/kubernetes.io/serviceaccount';
const CALL_TIMEOUT_MS = 30_000;
const ERROR_MAX_BYTES = 16 * 1024;
/** etcd refuses objects above 1.5 MiB; a watch event wraps one. */
const LINE_MAX_BYTES = 16 * 1024 * 1024;
const NEWLINE = 0x0a;

/** KUBECONFIG first, then the pod's service account; undefined: neither is there. */
export async function findKubernetes(
  env: NodeJS.ProcessEnv,
  serviceAccountFolder = SERVICE_ACCOUNT_FOLDER,
): Promise<KubernetesAccess | undefined> {
  if (env.KUBECONFIG !== undefined && env.KUBECONFIG !== '') return kubeconfigAccess();
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = env;
  if (host === undefined || port === undefined || !existsSync(join(serviceAccountFolder, 'token'))) return undefined;
  return serviceAccountAccess(`https://${host.includes(':') ? `[${host}]` : host}:${port}`, serviceAccountFolder);
}

export function createKubernetesApi(access: KubernetesAccess): KubernetesApi {
  return {
    async call<T>(path: string, { method = 'GET', query = {}, accept, body, signal, timeoutMs = CALL_TIMEOUT_MS }: ApiCall = {}) {
      const bound = AbortSignal.timeout(timeoutMs);
      const response = await send(access, path, query, {
        method,
        signal: signal ? AbortSignal.any([signal, bound]) : bound,
        headers: { accept: accept ?? 'application/json', ...(body && { 'content-type': 'application/json' }) },
        ...(body && { body: JSON.stringify(body) }),
      });
      return JSON.parse(await readText(response)) as T;
    },
    async watch(path, { query, accept, signal, idleTimeoutMs, onOpen, onLine }) {
      const headers = { accept: accept ?? 'application/json' };
      const response = await send(access, path, { ...query, watch: true }, { method: 'GET', signal, headers, timeout: idleTimeoutMs });
      onOpen();
      await readLines(response, onLine);
    },
  };
}

/** client-node knows every form of kubeconfig, and takes 90 MB of memory: inside a cluster it is never loaded. */
async function kubeconfigAccess(): Promise<KubernetesAccess> {
  const { KubeConfig } = await import('@kubernetes/client-node');
  const config = new KubeConfig();
  config.loadFromDefault();
  const cluster = config.getCurrentCluster();
  if (!cluster)
    throw new TidegateError('CONFIG_INVALID', 'no cluster is chosen', {
      field: 'KUBECONFIG',
      expected: 'a current-context with a cluster',
    });
  return { server: cluster.server, authorize: options => config.applyToHTTPSOptions(options) };
}

function serviceAccountAccess(server: string, folder: string): KubernetesAccess {
  const agent = new Agent({ keepAlive: true, ca: readFileSync(join(folder, 'ca.crt')) });
  return {
    server,
    authorize: options => {
      options.agent = agent;
      // Read each time: the kubelet replaces the token before it expires.
      options.headers = { ...options.headers, authorization: `Bearer ${readFileSync(join(folder, 'token'), 'utf8').trim()}` };
      return Promise.resolve();
    },
  };
}

async function send(
  access: KubernetesAccess,
  path: string,
  query: ApiQuery,
  { body, ...options }: RequestOptions & { headers: Record<string, string>; body?: string },
): Promise<IncomingMessage> {
  const url = new URL(access.server.replace(/\/$/, '') + path);
  for (const [name, value] of Object.entries(query)) if (value !== undefined) url.searchParams.set(name, String(value));
  options.headers['user-agent'] = 'tidegate-enforcer-gateway';
  await access.authorize(options);
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const outgoing = request(url, options, resolve);
    outgoing.on('timeout', () => outgoing.destroy(new Error('the API server fell silent')));
    outgoing.on('error', reject);
    outgoing.end(body);
  });
  const { statusCode = 0 } = response;
  if (statusCode >= 200 && statusCode < 300) return response;
  const text = (await readText(response)).slice(0, ERROR_MAX_BYTES);
  throw new KubernetesApiError(statusCode, `the API server refused ${options.method} ${path}: ${statusMessage(text)}`);
}

/** Errors come as a Status object, or as plain text from what stands before the server. */
function statusMessage(text: string): string {
  try {
    return (JSON.parse(text) as { message?: string }).message ?? text;
  } catch {
    return text.trim();
  }
}

async function readText(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

async function readLines(response: IncomingMessage, onLine: (line: string) => void): Promise<void> {
  let partial: Buffer[] = [];
  let partialBytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      const rest = chunk.subarray(start, end);
      onLine((partial.length === 0 ? rest : Buffer.concat([...partial, rest])).toString());
      partial = [];
      partialBytes = 0;
      start = end + 1;
    }
    if (start < chunk.length) {
      partial.push(chunk.subarray(start));
      partialBytes += chunk.length - start;
      if (partialBytes > LINE_MAX_BYTES) {
        throw new TidegateError('KUBERNETES_REFUSED', 'a watch event is too long', {
          expected: `${LINE_MAX_BYTES} bytes at most`,
          got: `${partialBytes}`,
        });
      }
    }
  }
}
