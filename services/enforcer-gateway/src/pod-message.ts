/** From the API server's pod to the message that enrichers splice. */
import { ContainerType, Pod } from '@tidegate/contracts';
import type { KubernetesObject } from './reflector.ts';
import type { Workload } from './workloads.ts';

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

interface ApiContainer {
  name: string;
  image?: string;
  securityContext?: { privileged?: boolean };
}

interface ApiContainerStatus {
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

/** Encodes a pod; equal pods give equal bytes, since the API server sorts the keys of labels and annotations. */
export function encodePod(pod: ApiPod, uid: string, workload: Workload, annotationNames: readonly string[]): Uint8Array {
  const { metadata, spec, status } = pod;
  const annotations = Object.entries(metadata.annotations ?? {}).filter(([name]) => annotationNames.includes(name));
  return Pod.encode({
    uid,
    namespace: metadata.namespace ?? '',
    name: metadata.name,
    workload: workload.name,
    workloadKind: workload.kind,
    labels: metadata.labels ?? {},
    annotations: Object.fromEntries(annotations),
    serviceAccount: spec.serviceAccountName ?? '',
    ips: podAddresses(pod),
    qosClass: status?.qosClass ?? '',
    hostNetwork: spec.hostNetwork === true,
    containers: [
      ...containers(spec.initContainers, status?.initContainerStatuses, ContainerType.CONTAINER_TYPE_INIT),
      ...containers(spec.containers, status?.containerStatuses, ContainerType.CONTAINER_TYPE_REGULAR),
      ...containers(spec.ephemeralContainers, status?.ephemeralContainerStatuses, ContainerType.CONTAINER_TYPE_EPHEMERAL),
    ],
  }).finish();
}

export function podAddresses({ status }: ApiPod): string[] {
  return (status?.podIPs ?? []).map(({ ip }) => ip);
}

/** The same pod with another workload. */
export function withWorkload(message: Uint8Array, workload: Workload): Uint8Array {
  const pod = Pod.decode(message);
  pod.workload = workload.name;
  pod.workloadKind = workload.kind;
  return Pod.encode(pod).finish();
}

function containers(specs: ApiContainer[] = [], statuses: ApiContainerStatus[] = [], type: ContainerType) {
  return specs.map(({ name, image, securityContext }) => {
    const status = statuses.find(candidate => candidate.name === name);
    return {
      name,
      image: image ?? '',
      imageId: status?.imageID ?? '',
      containerId: status?.containerID?.replace(/^[^:]*:\/\//, '') ?? '',
      privileged: securityContext?.privileged === true,
      type,
    };
  });
}
