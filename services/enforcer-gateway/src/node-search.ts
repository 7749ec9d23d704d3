/**
 * Which node of the cluster runs on this machine's kernel. The kernel makes a random id at each boot (/proc/sys/kernel/random/boot_id), and each kubelet reports
 * it: unlike host names, addresses and machine ids it is never another machine's.
 */
import type { KubernetesApi } from './kubernetes-api.ts';

export interface NodeSearch {
  /** Nodes on this kernel, by name: none, one, or several where nodes are containers, as with kind. */
  here: string[];
  /** How many nodes the cluster has. */
  count: number;
  /** Names of the first of them. */
  some: string[];
}

interface NodeList {
  metadata: { continue?: string };
  items?: { metadata: { name: string }; status?: { nodeInfo?: { bootID?: string } } }[];
}

const PAGE_NODES = 200;
const PAGE_TIMEOUT_MS = 5_000;
const SOME = 10;

/** @throws {KubernetesApiError} and what the network gives */
export async function searchNodes(api: KubernetesApi, bootId: string): Promise<NodeSearch> {
  const search: NodeSearch = { here: [], count: 0, some: [] };
  let page: string | undefined;
  do {
    const query = { limit: PAGE_NODES, continue: page };
    const { items = [], metadata }: NodeList = await api.call('/api/v1/nodes', { query, timeoutMs: PAGE_TIMEOUT_MS });
    for (const { metadata, status } of items) {
      search.count++;
      if (search.some.length < SOME) search.some.push(metadata.name);
      if (status?.nodeInfo?.bootID?.toLowerCase() === bootId.toLowerCase()) search.here.push(metadata.name);
    }
    page = metadata.continue;
  } while (page !== undefined && page !== '');
  return search;
}
