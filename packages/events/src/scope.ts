/**
 * What a reader may see at all, whatever it asks for. Events outside its scope are not given. Those inside may have parents and ancestors outside, as every process in a
 * container has: of these it learns that they exist and nothing else. This is the one place where that is decided.
 */
import { HOST_NAMESPACE, NO_NAMESPACE, type EventBatch, type Process, type ProcessVisibility } from '@tidegate/contracts';

/** What is left out matches all. */
export interface Scope {
  clusters?: readonly string[];
  /** Kubernetes namespaces, `_host` and `_none`. */
  namespaces?: readonly string[];
}

export function isInScope(scope: Scope | undefined, cluster: string, namespace: string): boolean {
  if (!scope) return true;
  const { clusters, namespaces } = scope;
  return (!clusters || clusters.includes(cluster)) && (!namespaces || namespaces.includes(namespace));
}

/** Which processes of a batch the scope shows; undefined: all. */
export function visibility(scope: Scope | undefined): ProcessVisibility | undefined {
  const namespaces = scope?.namespaces;
  if (!namespaces) return undefined;
  return batch => {
    const containers = new Map(batch.containers.map(container => [container.id ?? 0, container]));
    const pods = new Map(batch.pods.map(pod => [pod.uid ?? '', pod]));
    return process => namespaces.includes(namespaceOf(process, containers, pods));
  };
}

type Containers = ReadonlyMap<number, EventBatch['containers'][number]>;
type Pods = ReadonlyMap<string, EventBatch['pods'][number]>;

/** As the enricher names it in subjects. */
function namespaceOf(process: Process, containers: Containers, pods: Pods): string {
  const id = process.container ?? 0;
  if (id === 0) return HOST_NAMESPACE;
  return pods.get(containers.get(id)?.podUid ?? '')?.namespace || NO_NAMESPACE;
}
