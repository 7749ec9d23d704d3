/** The cluster's nodes, each as JSON. */
import { nodeKey, tokenName, type ClusterNode } from '@tidegate/contracts';
import type { BucketContents } from './bucket-writer.ts';
import type { KubernetesObject, ObjectSink } from './reflector.ts';

export interface ApiNode extends KubernetesObject {
  status?: {
    addresses?: { type: string; address: string }[];
    nodeInfo?: { architecture: string; osImage: string; kernelVersion: string; kubeletVersion: string; containerRuntimeVersion: string };
  };
}

export interface Nodes {
  readonly sink: ObjectSink<ApiNode>;
  readonly contents: BucketContents;
}

const ADDRESS_TYPES = ['InternalIP', 'ExternalIP'];

export interface NodesOptions {
  onChange: (key: string) => void;
  onAddresses: (node: string, ips: readonly string[]) => void;
}

export function createNodes({ onChange, onAddresses }: NodesOptions): Nodes {
  const entries = new Map<string, string>();
  return {
    sink: {
      // A node that is made anew under its name takes the place of the old one.
      idOf: ({ metadata }) => metadata.name,
      upsert(name, node) {
        const entry = readNode(node);
        const text = JSON.stringify(entry);
        if (entries.get(name) === text) return;
        entries.set(name, text);
        onAddresses(name, entry.addresses);
        onChange(nodeKey(name));
      },
      remove(name) {
        entries.delete(name);
        onAddresses(name, []);
        onChange(nodeKey(name));
      },
      ids: () => entries.keys(),
    },
    contents: {
      get(key) {
        const text = entries.get(tokenName(key));
        return text === undefined ? undefined : Buffer.from(text);
      },
      *keys() {
        for (const name of entries.keys()) yield nodeKey(name);
      },
    },
  };
}

function readNode({ metadata, status }: ApiNode): ClusterNode {
  const { architecture = '', osImage = '', kernelVersion = '', kubeletVersion = '', containerRuntimeVersion = '' } = status?.nodeInfo ?? {};
  const addresses = (status?.addresses ?? []).filter(({ type }) => ADDRESS_TYPES.includes(type)).map(({ address }) => address);
  return {
    name: metadata.name,
    addresses: [...new Set(addresses)],
    labels: metadata.labels ?? {},
    architecture,
    osImage,
    kernelVersion,
    kubeletVersion,
    containerRuntimeVersion,
  };
}
