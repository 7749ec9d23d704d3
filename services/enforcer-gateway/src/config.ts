import { CLUSTER_SETTING, COMMON_SETTINGS, integer, text, textList, type Config, type ConfigSchema } from '@tidegate/runtime';

/** Settings of the gateway. Where Kubernetes is comes from KUBECONFIG or the pod's service account, as with every client of it. */
export const gatewaySettings = {
  ...COMMON_SETTINGS,
  ...CLUSTER_SETTING,
  healthPort: integer({
    default: 7404,
    minimum: 0,
    maximum: 65535,
    description: 'Port of /healthz, /readyz and /metrics; 0: any free one.',
  }),
  leaseNamespace: text({ default: 'default', description: 'Namespace of the Lease by which replicas choose their leader.' }),
  leaseName: text({ default: 'tidegate-enforcer-gateway', description: 'Name of that Lease.' }),
  identity: text({ optional: true, description: 'Name of this replica in the Lease; else host name and process id.' }),
  lingerMs: integer({
    default: 300_000,
    minimum: 0,
    maximum: 86_400_000,
    description: 'How long what is deleted from the cluster can still be looked up, for events that come late.',
  }),
  podAnnotations: textList({
    default: [],
    description: 'Annotations of pods that events carry; labels are always carried.',
  }),
} satisfies ConfigSchema;

export type GatewaySettings = Config<typeof gatewaySettings>;
