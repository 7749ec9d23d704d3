/** What a cluster is called. Decided once, so that all of its events bear one name: entry CLUSTER_KEY of KV `settings`. */
import { jsonCodec } from './bucket-values.ts';
import { leaf, object, text } from './json-shape.ts';

export const CLUSTER_KEY = 'cluster';

export interface ClusterSetting {
  name: string;
  /** Where the name comes from, for people: ClusterOrigin. */
  origin: string;
}

export const ClusterOrigin = {
  configuration: 'configuration',
  /** The uid of the namespace kube-system, which lasts as long as the cluster. */
  kubernetes: 'kubernetes',
  /** Random. */
  made: 'made',
} as const;
export type ClusterOrigin = (typeof ClusterOrigin)[keyof typeof ClusterOrigin];

/** No colon, for ids are `<cluster>:<node>:<sequence>`. The longest names are those of EKS. */
const CLUSTER_NAME = /^[A-Za-z0-9](?:[\w.-]{0,98}[A-Za-z0-9])?$/;
/** For messages: what isClusterName takes. */
export const CLUSTER_NAME_RULE = '1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first and last';

export function isClusterName(name: string): boolean {
  return CLUSTER_NAME.test(name);
}

export const clusterSettingCodec = jsonCodec(
  object<ClusterSetting>({
    name: leaf<string>(`a name of ${CLUSTER_NAME_RULE}`, value => typeof value === 'string' && isClusterName(value)),
    origin: text,
  }),
);
