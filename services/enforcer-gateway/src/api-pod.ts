/** The API server's pod, and what can be told from it alone. */
import type { KubernetesObject } from './reflector.ts';

/** As much of a pod as the gateway reads; the core/v1 API reference. */
export interface ApiPod extends KubernetesObject {
  spec: {
    nodeName?: string;
    hostNetwork?: boolean;
    serviceAccountName?: string;
    containers?: ApiContainer[];
    initContainers?: ApiContainer[];
    ephemeralContainers?: ApiContainer[];
  };
  status?: {
    phase?: string;
    qosClass?: string;
    podIPs?: { ip: string }[];
    containerStatuses?: ApiContainerStatus[];
    initContainerStatuses?: ApiContainerStatus[];
    ephemeralContainerStatuses?: ApiContainerStatus[];
  };
}

export interface ApiContainer {
  name: string;
  image?: string;
  env?: { name: string; value?: string; valueFrom?: object }[];
  securityContext?: { privileged?: boolean };
  startupProbe?: ApiHandler;
  readinessProbe?: ApiHandler;
  livenessProbe?: ApiHandler;
  lifecycle?: { postStart?: ApiHandler; preStop?: ApiHandler };
}

/** What the kubelet runs by itself; other forms than exec do not enter the container. */
export interface ApiHandler {
  exec?: { command?: string[] };
}

export interface ApiContainerStatus {
  name: string;
  imageID?: string;
  /** `<runtime>://<id>`. */
  containerID?: string;
}

/** Annotation of a static pod's mirror: the UID that the kubelet gave the pod itself, and with which its cgroups are named. */
const STATIC_POD_UID = 'kubernetes.io/config.hash';
const MIRROR_POD = 'kubernetes.io/config.mirror';

/** The UID by which the pod is known on its node. */
export function nodePodUid({ metadata }: ApiPod): string {
  const own = isStaticPod(metadata.annotations) ? metadata.annotations?.[STATIC_POD_UID] : undefined;
  return own ?? metadata.uid;
}

export function isStaticPod(annotations: Record<string, string> | undefined): boolean {
  return annotations?.[MIRROR_POD] !== undefined;
}

export function podAddresses({ status }: ApiPod): string[] {
  return (status?.podIPs ?? []).map(({ ip }) => ip);
}
