import { COMMON_SETTINGS, type ConfigSchema } from '@tidegate/runtime';
import { Type, type Static } from 'typebox';

/** Settings of the gateway. Where Kubernetes is comes from KUBECONFIG or the pod's service account, as with every client of it. */
export const gatewaySettings = Type.Object({
  ...COMMON_SETTINGS,
  healthPort: Type.Integer({
    default: 7404,
    minimum: 0,
    maximum: 65535,
    description: 'Port of /healthz, /readyz and /metrics; 0: any free one.',
  }),
  leaseNamespace: Type.String({ default: 'default', description: 'Namespace of the Lease by which replicas choose their leader.' }),
  leaseName: Type.String({ default: 'tidegate-enforcer-gateway', description: 'Name of that Lease.' }),
  identity: Type.Optional(Type.String({ minLength: 1, description: 'Name of this replica in the Lease; else host name and process id.' })),
  lingerMs: Type.Integer({
    default: 300_000,
    minimum: 0,
    maximum: 86_400_000,
    description: 'How long what is deleted from the cluster can still be looked up, for events that come late.',
  }),
  podAnnotations: Type.Array(Type.String(), {
    default: [],
    description: 'Annotations of pods that events carry; labels are always carried.',
  }),
}) satisfies ConfigSchema;

export type GatewaySettings = Static<typeof gatewaySettings>;
