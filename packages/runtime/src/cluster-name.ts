/** Decides what the cluster is called, once and for all who ask. */
import { randomBytes } from 'node:crypto';
import { CLUSTER_KEY, CLUSTER_NAME_RULE, ClusterOrigin, isClusterName, type ClusterSetting } from '@tidegate/contracts';
import type { Bucket } from './bucket.ts';
import { checkedText } from './config.ts';
import { hasErrorCode } from './errors.ts';

/** Of those who decide: the gateway and `tidegate up`. */
export const CLUSTER_SETTING = {
  cluster: checkedText(
    { expected: CLUSTER_NAME_RULE, is: isClusterName },
    {
      optional: true,
      description:
        'Name of the cluster in all its events, decided at the first start; later ones keep it. Else the uid of the namespace kube-system, without Kubernetes a random name.',
    },
  ),
} as const;

/**
 * The cluster's name as KV `settings` has it. When it has none, that of `candidate` is written; of several who try at once, one succeeds and all return its name.
 * Rejects as the bucket's methods and `candidate` do.
 */
export async function decideCluster(
  settings: Bucket<ClusterSetting>,
  candidate: () => ClusterSetting | Promise<ClusterSetting>,
): Promise<ClusterSetting> {
  for (;;) {
    const { value } = await settings.get(CLUSTER_KEY);
    if (value) return value;
    const wanted = await candidate();
    try {
      await settings.create(CLUSTER_KEY, wanted);
      return wanted;
    } catch (error) {
      if (!hasErrorCode(error, 'BUCKET_CONFLICT')) throw error;
    }
  }
}

export function configuredCluster(name: string): ClusterSetting {
  return { name, origin: ClusterOrigin.configuration };
}

/** For an installation that nobody named. */
export function madeCluster(): ClusterSetting {
  return { name: `cluster-${randomBytes(4).toString('hex')}`, origin: ClusterOrigin.made };
}
