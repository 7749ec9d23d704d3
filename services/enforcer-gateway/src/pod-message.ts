/** From the API server's pod to the message that enrichers splice. */
import { ContainerType, Pod } from '@tidegate/contracts';
import { containerCommands } from './container-commands.ts';
import { podAddresses, type ApiContainer, type ApiContainerStatus, type ApiPod } from './api-pod.ts';
import type { Workload } from './workloads.ts';

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

/** The same pod with another workload. */
export function withWorkload(message: Uint8Array, workload: Workload): Uint8Array {
  const pod = Pod.decode(message);
  pod.workload = workload.name;
  pod.workloadKind = workload.kind;
  return Pod.encode(pod).finish();
}

function containers(specs: ApiContainer[] = [], statuses: ApiContainerStatus[] = [], type: ContainerType) {
  return specs.map(spec => {
    const { name, image, securityContext } = spec;
    const status = statuses.find(candidate => candidate.name === name);
    return {
      name,
      image: image ?? '',
      imageId: status?.imageID ?? '',
      containerId: status?.containerID?.replace(/^[^:]*:\/\//, '') ?? '',
      privileged: securityContext?.privileged === true,
      type,
      commands: containerCommands(spec),
    };
  });
}
