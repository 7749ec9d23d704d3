/** Waits until every node has cleaned up after its sensor, for `helm uninstall`: exit status 1 when some have not in time. Environment: NAMESPACE, DAEMON_SET, TIMEOUT_SECONDS. */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

const ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';
const POLL_MS = 500;
const REQUEST_TIMEOUT_MS = 5_000;

const { NAMESPACE, DAEMON_SET, TIMEOUT_SECONDS, KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = process.env;
// NODE_EXTRA_CA_CERTS names the cluster's authority.
const url = `https://${host.includes(':') ? `[${host}]` : host}:${port}/apis/apps/v1/namespaces/${NAMESPACE}/daemonsets/${DAEMON_SET}`;
const deadlineMs = performance.now() + Number(TIMEOUT_SECONDS) * 1000;

let last = 'no answer from the API server';
while (performance.now() < deadlineMs) {
  try {
    const headers = { authorization: `Bearer ${readFileSync(`${ACCOUNT}/token`, 'utf8')}` };
    const response = await fetch(url, { headers, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
    const { metadata, status, message } = await response.json();
    if (response.ok && status.observedGeneration === metadata.generation) {
      last = `${status.numberReady} of ${status.desiredNumberScheduled} nodes are clean`;
      if (status.numberReady === status.desiredNumberScheduled) {
        process.stdout.write(`${last}\n`);
        process.exit(0);
      }
    } else if (!response.ok) last = message;
  } catch (error) {
    last = error instanceof Error ? error.message : String(error);
  }
  await delay(POLL_MS);
}
process.stderr.write(`gave up after ${TIMEOUT_SECONDS} s: ${last}\n`);
process.exit(1);
