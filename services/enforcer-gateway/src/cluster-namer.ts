/** Sees to it that the cluster has a name in KV `settings`: without one enrichers wait. Every replica does, leader or not: the first to write decides. */
import { setTimeout as delay } from 'node:timers/promises';
import { ClusterOrigin, type ClusterSetting } from '@tidegate/contracts';
import { configuredCluster, decideCluster, madeCluster, type Bucket, type Logger } from '@tidegate/runtime';
import { KubernetesApiError, type KubernetesApi } from './kubernetes-api.ts';

export interface ClusterNamerOptions {
  api: KubernetesApi;
  settings: Bucket<ClusterSetting>;
  /** From the configuration; undefined: Kubernetes names it. */
  configured: string | undefined;
  logger: Logger;
}

export interface ClusterNamer {
  /** undefined: not decided yet. */
  readonly name: string | undefined;
  /** Makes sure again: a server may have lost its disk. */
  check(): void;
  close(): Promise<void>;
}

/** Lasts as long as the cluster, and every cluster has one. */
const NAMESPACE_PATH = '/api/v1/namespaces/kube-system';
const RETRY_MIN_MS = 250;
const RETRY_MAX_MS = 5_000;
const HTTP_UNAUTHORIZED = 401;
const HTTP_FORBIDDEN = 403;
const HTTP_NOT_FOUND = 404;

/** Starts at once, and tries until it is done. */
export function startClusterNamer({ api, settings, configured, logger }: ClusterNamerOptions): ClusterNamer {
  const stop = new AbortController();
  let decided: ClusterSetting | undefined;
  let running: Promise<void> | undefined;

  const candidate = async (): Promise<ClusterSetting> => {
    if (decided) return decided;
    if (configured !== undefined) return configuredCluster(configured);
    try {
      const { metadata } = await api.call<{ metadata: { uid: string } }>(NAMESPACE_PATH, { signal: stop.signal });
      return { name: metadata.uid, origin: ClusterOrigin.kubernetes };
    } catch (error) {
      if (!(error instanceof KubernetesApiError) || ![HTTP_UNAUTHORIZED, HTTP_FORBIDDEN, HTTP_NOT_FOUND].includes(error.status))
        throw error;
      const made = madeCluster();
      logger.warn(
        { reason: error.message, cluster: made.name },
        'the namespace kube-system may not be read: the cluster gets a random name',
      );
      return made;
    }
  };

  const decide = async () => {
    for (let retryMs = RETRY_MIN_MS; !stop.signal.aborted; retryMs = Math.min(retryMs * 2, RETRY_MAX_MS)) {
      try {
        const setting = await decideCluster(settings, candidate);
        if (setting.name !== decided?.name) report(setting);
        decided = setting;
        return;
      } catch (error) {
        if (stop.signal.aborted) return;
        logger.warn({ reason: error instanceof Error ? error.message : String(error), retryMs }, 'the cluster has no name yet');
      }
      await delay(retryMs, undefined, { signal: stop.signal }).catch(() => undefined);
    }
  };

  const report = ({ name, origin }: ClusterSetting) => {
    logger.info({ cluster: name, origin }, 'the cluster has its name');
    if (configured !== undefined && configured !== name)
      logger.error({ field: 'TIDEGATE_CLUSTER', expected: name, got: configured }, 'the cluster has another name already, and keeps it');
  };

  const check = () => {
    running ??= decide().finally(() => (running = undefined));
  };
  check();

  return {
    get name() {
      return decided?.name;
    },
    check,
    async close() {
      stop.abort();
      await running;
    },
  };
}
