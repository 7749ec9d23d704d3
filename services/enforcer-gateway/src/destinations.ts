/** What the addresses of the cluster belong to: pods, services, nodes, and what services lead to outside. */
import { Destination, addressKey } from '@tidegate/contracts';
import type { BucketContents } from './bucket-writer.ts';
import type { AddressedPod } from './pods.ts';
import type { KubernetesObject, ObjectSink } from './reflector.ts';

export interface ApiService extends KubernetesObject {
  spec: { clusterIPs?: string[]; externalIPs?: string[] };
  status?: { loadBalancer?: { ingress?: { ip?: string }[] } };
}

export interface ApiEndpointSlice extends KubernetesObject {
  endpoints?: { addresses: string[] }[] | null;
}

export interface Destinations {
  readonly services: ObjectSink<ApiService>;
  readonly endpointSlices: ObjectSink<ApiEndpointSlice>;
  readonly contents: BucketContents;
  setPod(ips: readonly string[], pod: AddressedPod): void;
  freePod(ips: readonly string[], pod: AddressedPod): void;
  setNode(node: string, ips: readonly string[]): void;
  /** Number of addresses known. */
  size(): number;
}

interface ServiceName {
  namespace: string;
  name: string;
}

/** All that is known of one address; at least one field is set. */
interface Address {
  ip: string;
  /** The service whose own address it is. */
  service?: ServiceName;
  pod?: AddressedPod;
  node?: string;
  /** Services that lead to it. */
  backedServices?: readonly ServiceName[];
}

interface AddressSet {
  ips: readonly string[];
  service: ServiceName;
}

const SERVICE_LABEL = 'kubernetes.io/service-name';
const NO_CLUSTER_IP = 'None';

/** @param onChange an entry of the bucket may have changed */
export function createDestinations(onChange: (key: string) => void): Destinations {
  const addresses = new Map<string, Address>();
  const services = new Map<string, AddressSet>();
  const slices = new Map<string, AddressSet>();
  const nodes = new Map<string, readonly string[]>();

  const change = (ip: string, edit: (address: Address) => void) => {
    const key = addressKey(ip);
    const address = addresses.get(key) ?? { ip };
    edit(address);
    if (address.service || address.pod || address.node !== undefined || address.backedServices) addresses.set(key, address);
    else addresses.delete(key);
    onChange(key);
  };

  const addressSink = <T extends KubernetesObject>(
    sets: Map<string, AddressSet>,
    read: (object: T) => AddressSet | undefined,
    add: (address: Address, service: ServiceName) => void,
    drop: (address: Address, service: ServiceName) => void,
  ): ObjectSink<T> => {
    const replace = (uid: string, after: AddressSet | undefined) => {
      const before = sets.get(uid);
      if (after) sets.set(uid, after);
      else sets.delete(uid);
      for (const ip of before?.ips ?? []) if (after?.ips.includes(ip) !== true) change(ip, address => drop(address, before!.service));
      for (const ip of after?.ips ?? []) if (before?.ips.includes(ip) !== true) change(ip, address => add(address, after!.service));
    };
    return {
      idOf: ({ metadata }) => metadata.uid,
      upsert: (uid, object) => replace(uid, read(object)),
      remove: uid => replace(uid, undefined),
      ids: () => sets.keys(),
    };
  };

  return {
    services: addressSink(
      services,
      readService,
      (address, service) => {
        address.service = service;
      },
      (address, service) => {
        if (isSameService(address.service, service)) delete address.service;
      },
    ),
    endpointSlices: addressSink(
      slices,
      readEndpointSlice,
      (address, service) => {
        // One address stands in several slices of a service when it has several ports or families.
        address.backedServices = [...(address.backedServices ?? []), service].sort(compareServices);
      },
      (address, service) => {
        const left = [...(address.backedServices ?? [])];
        left.splice(
          left.findIndex(other => isSameService(other, service)),
          1,
        );
        if (left.length > 0) address.backedServices = left;
        else delete address.backedServices;
      },
    ),
    contents: {
      get(key) {
        const address = addresses.get(key);
        return address && Destination.encode(destinationOf(address)).finish();
      },
      keys: () => addresses.keys(),
    },
    setPod(ips, pod) {
      for (const ip of ips) {
        change(ip, address => {
          address.pod = pod;
        });
      }
    },
    freePod(ips, pod) {
      for (const ip of ips) {
        change(ip, address => {
          // Another pod may have it already. The record of a pod changes with each of its versions, its name does not.
          if (address.pod?.name === pod.name && address.pod.namespace === pod.namespace) delete address.pod;
        });
      }
    },
    setNode(node, ips) {
      const before = nodes.get(node) ?? [];
      if (ips.length > 0) nodes.set(node, ips);
      else nodes.delete(node);
      for (const ip of before.filter(old => !ips.includes(old))) {
        change(ip, address => {
          if (address.node === node) delete address.node;
        });
      }
      for (const ip of ips.filter(young => !before.includes(young))) {
        change(ip, address => {
          address.node = node;
        });
      }
    },
    size: () => addresses.size,
  };
}

/** The nearest owner wins. Of several services that lead to a pod the first by name is told. */
function destinationOf({ ip, service, pod, node, backedServices }: Address): Destination {
  const backed = backedServices?.[0];
  if (service) return { ip, namespace: service.namespace, service: service.name };
  if (pod) {
    const { namespace, name, workload } = pod;
    return { ip, namespace, pod: name, workload: workload.name, workloadKind: workload.kind, service: backed?.name ?? '' };
  }
  if (node !== undefined) return { ip, node };
  return { ip, namespace: backed?.namespace ?? '', service: backed?.name ?? '' };
}

function readService({ metadata, spec, status }: ApiService): AddressSet {
  const ips = [
    ...(spec.clusterIPs ?? []).filter(ip => ip !== NO_CLUSTER_IP && ip !== ''),
    ...(spec.externalIPs ?? []),
    ...(status?.loadBalancer?.ingress ?? []).flatMap(({ ip }) => (ip === undefined ? [] : [ip])),
  ];
  return { ips: [...new Set(ips)], service: { namespace: metadata.namespace ?? '', name: metadata.name } };
}

/** Slices without the label lead nowhere: they belong to no service. Those of host names (addressType FQDN) hold no addresses. */
function readEndpointSlice({ metadata, endpoints }: ApiEndpointSlice): AddressSet | undefined {
  const name = metadata.labels?.[SERVICE_LABEL];
  if (name === undefined) return undefined;
  const ips = (endpoints ?? []).flatMap(({ addresses }) => addresses);
  return { ips: [...new Set(ips)], service: { namespace: metadata.namespace ?? '', name } };
}

function isSameService(a: ServiceName | undefined, b: ServiceName): boolean {
  return a?.name === b.name && a.namespace === b.namespace;
}

function compareServices(a: ServiceName, b: ServiceName): number {
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}
