/** The pods of a simulated cluster: few workloads with many pods each, as clusters are. */
import { Destination, Pod } from '@tidegate/contracts';
import type { Random } from '../chaos/faults.ts';

export const NAMESPACES = 50;
export const WORKLOADS = 200;
export const PODS_PER_NODE = 20;

export interface SimulatedPod {
  uid: string;
  namespace: string;
  workload: string;
  name: string;
  ip: string;
  containerId: string;
  image: string;
}

/** Makes the pod of one place on one node; another each time, of the same workload. */
export function createPodMaker(random: Random): (node: number, place: number) => SimulatedPod {
  let made = 0;
  return (node, place) => {
    const number = (node + place * (WORKLOADS / PODS_PER_NODE)) % WORKLOADS;
    const workload = `app-${number}`;
    const serial = made++;
    return {
      uid: uuid(random),
      namespace: namespaceName(number),
      workload,
      name: `${workload}-${hex(random, 10)}-${hex(random, 5)}`,
      ip: `10.${(serial >> 16) & 255}.${(serial >> 8) & 255}.${serial & 255}`,
      containerId: hex(random, 64),
      image: `registry.example/${namespaceName(number)}/${workload}:1.${number}.0`,
    };
  };
}

export function namespaceName(workload: number): string {
  return `team-${workload % NAMESPACES}`;
}

/** As the gateway writes it to KV `pods`. */
export function podValue({ uid, namespace, workload, name, ip, containerId, image }: SimulatedPod): Uint8Array {
  return Pod.encode({
    uid,
    namespace,
    name,
    workload,
    workloadKind: 'Deployment',
    labels: { 'app.kubernetes.io/name': workload, 'app.kubernetes.io/part-of': namespace, 'pod-template-hash': name.split('-')[2]! },
    serviceAccount: 'default',
    ips: [ip],
    qosClass: 'Burstable',
    containers: [{ name: 'app', containerId, image, imageId: `${image.split(':')[0]!}@sha256:${containerId}` }],
  }).finish();
}

/** As the gateway writes it to KV `destinations`. */
export function destinationValue({ ip, namespace, workload, name }: SimulatedPod, node: string): Uint8Array {
  return Destination.encode({ ip, namespace, pod: name, workload, workloadKind: 'Deployment', node }).finish();
}

export function hex(random: Random, digits: number): string {
  let text = '';
  while (text.length < digits)
    text += Math.floor(random() * 0x1_0000_0000)
      .toString(16)
      .padStart(8, '0');
  return text.slice(0, digits);
}

function uuid(random: Random): string {
  const digits = hex(random, 32);
  return [digits.slice(0, 8), digits.slice(8, 12), digits.slice(12, 16), digits.slice(16, 20), digits.slice(20)].join('-');
}
