/**
 * Without sign-in, who may talk to the API is who is on this machine. Two ways lead past that through a browser on it: a name of an attacker's that resolves
 * to 127.0.0.1 (DNS rebinding), and a page that opens a WebSocket across sites. The Host and Origin headers tell both.
 */
import type { FastifyInstance } from 'fastify';
import { ApiError } from './errors.ts';

const LOOPBACK_HOSTS = ['127.0.0.1', 'localhost', '[::1]'];

export function guardRequests(app: FastifyInstance, allowedHosts: readonly string[]): void {
  const hosts = new Set([...LOOPBACK_HOSTS, ...allowedHosts.map(host => host.toLowerCase())]);
  app.addHook('onRequest', async request => {
    const { host, origin } = request.headers;
    if (!host || !hosts.has(withoutPort(host)))
      throw new ApiError('HOST_NOT_ALLOWED', 'expected a Host header with a name of this API, such as localhost');
    if (origin !== undefined && hostOfOrigin(origin) !== host.toLowerCase())
      throw new ApiError('ORIGIN_NOT_ALLOWED', 'expected an Origin header with the host that is asked, or none');
  });
}

function withoutPort(host: string): string {
  return host.toLowerCase().replace(/:\d{1,5}$/, '');
}

/** undefined for `null` and what is no origin. */
function hostOfOrigin(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined;
}
