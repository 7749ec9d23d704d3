import type { Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';

export interface HealthOptions {
  /** Default 127.0.0.1: health and metrics tell a stranger too much. */
  host?: string;
  /** 0: any free port. */
  port: number;
  /** Reasons why the service is not ready; empty: ready. */
  readiness: () => readonly string[];
  registry: Registry;
}

export interface HealthServer {
  readonly url: string;
  close(): Promise<void>;
}

/** An import would ask the module for everything it exports, WebSocket too, and with it Node.js loads its whole HTTP client: 4 MB resident. */
const { createServer } = process.getBuiltinModule('node:http');
/** Requests are answered from memory; a client that does not finish one in this time is let go. */
const REQUEST_TIMEOUT_MS = 5_000;

/** Serves /healthz (the process answers), /readyz (503 with the reasons while not ready) and /metrics (Prometheus text). */
export async function startHealthServer({ host = '127.0.0.1', port, readiness, registry }: HealthOptions): Promise<HealthServer> {
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
    const path = (request.url ?? '/').split('?', 1)[0];
    if (request.method !== 'GET' && request.method !== 'HEAD') return answer(response, 405, 'text/plain', 'only GET\n');
    switch (path) {
      case '/healthz':
        return answer(response, 200, 'application/json', '{"status":"ok"}\n');
      case '/readyz': {
        const reasons = readiness();
        return answer(
          response,
          reasons.length === 0 ? 200 : 503,
          'application/json',
          `${JSON.stringify({ ready: reasons.length === 0, reasons })}\n`,
        );
      }
      case '/metrics':
        registry.metrics().then(
          text => answer(response, 200, registry.contentType, text),
          (error: unknown) => answer(response, 500, 'text/plain', `${String(error)}\n`),
        );
        return;
      default:
        return answer(response, 404, 'text/plain', 'there are /healthz, /readyz and /metrics\n');
    }
  });
  await listen(server, host, port);
  const { port: boundPort } = server.address() as AddressInfo;
  let closing: Promise<void> | undefined;
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${boundPort}`,
    close: () =>
      (closing ??= new Promise(resolve => {
        server.close(() => resolve());
        server.closeAllConnections();
      })),
  };
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

function answer(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body), connection: 'close' });
  response.end(body);
}
