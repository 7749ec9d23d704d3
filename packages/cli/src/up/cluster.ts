/** What the supervisor does so that the cluster has a name: without one enrichers wait. */
import { setTimeout as delay } from 'node:timers/promises';
import { BUCKETS, CLUSTER_KEY, clusterSettingCodec } from '@tidegate/contracts';
import { TidegateError, configuredCluster, createBuckets, createLogger, decideCluster, madeCluster } from '@tidegate/runtime';
import type { NatsConnection } from '@nats-io/nats-core';

export interface ClusterChoice {
  nc: NatsConnection;
  /** undefined: nobody gave it a name. */
  configured: string | undefined;
  /** A gateway runs, which can ask Kubernetes: it comes first. */
  hasGateway: boolean;
  signal: AbortSignal;
}

/** So long the gateway may take: a kubeconfig may lead to a cluster that is off, and this machine has events all the same. */
const GATEWAY_TIMEOUT_MS = 15_000;
const POLL_MS = 250;

/**
 * The name of the cluster, decided here or before.
 * @throws {TidegateError} INVALID_ARGUMENT when it has another name than the configured one
 */
export async function nameCluster({ nc, configured, hasGateway, signal }: ClusterChoice): Promise<string> {
  const buckets = await createBuckets({ nc, logger: createLogger({ name: 'tidegate', level: 'silent' }) });
  try {
    const settings = buckets.open(BUCKETS.settings, clusterSettingCodec);
    if (configured === undefined && hasGateway) {
      const deadlineMs = performance.now() + GATEWAY_TIMEOUT_MS;
      while (performance.now() < deadlineMs && !signal.aborted && !(await settings.get(CLUSTER_KEY)).value)
        await delay(POLL_MS, undefined, { signal }).catch(() => undefined);
    }
    const { name } = await decideCluster(settings, () => (configured === undefined ? madeCluster() : configuredCluster(configured)));
    if (configured === undefined || configured === name) return name;
    throw new TidegateError('INVALID_ARGUMENT', 'the cluster has a name already, which all its events bear', {
      field: '--cluster',
      expected: name,
      got: configured,
    });
  } finally {
    buckets.close();
  }
}
