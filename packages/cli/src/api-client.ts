/** The API over HTTP. */
import { printable } from '@tidegate/contracts';
import { TidegateError } from '@tidegate/runtime';

/** Values of a query string; undefined ones are left out. */
export type Query = Readonly<Record<string, string | number | undefined>>;

export interface ApiClient {
  readonly url: string;
  /**
   * @throws {TidegateError} API_UNREACHABLE, API_REFUSED
   */
  get<Answer>(path: string, query?: Query): Promise<Answer>;
  /** @throws {TidegateError} API_UNREACHABLE, API_REFUSED */
  delete<Answer>(path: string): Promise<Answer>;
}

/** Longest wait for an answer. Searches come in pages, each bounded on the server. */
const REQUEST_TIMEOUT_MS = 60_000;

export function createApiClient(url: string, signal: AbortSignal): ApiClient {
  const ask = async <Answer>(method: string, path: string, query: Query): Promise<Answer> => {
    let response: Response;
    let body: string;
    try {
      response = await fetch(apiUrl(url, path, query), {
        method,
        signal: AbortSignal.any([signal, AbortSignal.timeout(REQUEST_TIMEOUT_MS)]),
      });
      body = await response.text();
    } catch (error) {
      if (signal.aborted) throw error;
      throw unreachable(url, error);
    }
    if (!response.ok) throw refusal(response.status, body);
    return JSON.parse(body) as Answer;
  };
  return {
    url,
    get: (path, query = {}) => ask('GET', path, query),
    delete: path => ask('DELETE', path, {}),
  };
}

export function apiUrl(base: string, path: string, query: Query): URL {
  const url = new URL(path, base.endsWith('/') ? base : `${base}/`);
  for (const [name, value] of Object.entries(query)) if (value !== undefined) url.searchParams.set(name, String(value));
  return url;
}

export function unreachable(url: string, cause: unknown): TidegateError {
  const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause;
  const reason = inner instanceof Error ? ('code' in inner ? String(inner.code) : inner.message) : String(inner);
  return new TidegateError('API_UNREACHABLE', `no API answers at ${url}; \`tidegate up\` starts one`, { got: reason, cause });
}

/** The API's error as it says it, with every fault. */
export function refusal(status: number, body: string): TidegateError {
  const { message, code } = errorOf(body);
  return new TidegateError('API_REFUSED', printable(message ?? `the API answered ${status}`), {
    got: `${status}${code === undefined ? '' : ` ${code}`}`,
  });
}

function errorOf(body: string): { message?: string; code?: string } {
  try {
    return (JSON.parse(body) as { error?: { message?: string; code?: string } }).error ?? {};
  } catch {
    return {};
  }
}
