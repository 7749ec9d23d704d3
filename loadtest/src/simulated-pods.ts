/** Nodes and pods that exist in the API only: no kubelet runs them, no controller touches them. */
import { waitFor } from '@tidegate/testkit';
import type { ApiServer } from './api-server.ts';
import { concurrently } from './pace.ts';

export interface SimulatedPod {
  namespace: string;
  name: string;
  uid: string;
  node: string;
  /** The CronJob it belongs to. */
  workload: string;
  labels: Record<string, string>;
}

export interface PodFactory {
  readonly nodes: readonly string[];
  /** The pod with this number, as it is or will be in the API. */
  describe(index: number): Omit<SimulatedPod, 'uid'>;
  create(index: number): Promise<{ pod: SimulatedPod; answeredAtMs: number }>;
  /** Gives it an address and container ids, as its kubelet would. */
  run(index: number): Promise<void>;
  remove(pod: Pick<SimulatedPod, 'namespace' | 'name'>): Promise<void>;
}

export const CONTAINER_NAME = 'web';
export const IMAGE = 'registry.example/shop/web:1.2.3';
export const SERVICE_ACCOUNT = 'default';
export const WORKLOAD_KIND = 'CronJob';

const NAMESPACES = 10;
const WORKLOADS_PER_NAMESPACE = 10;
const SETUP_AT_ONCE = 16;
/** Its jobs are left alone by Kubernetes' own controller, so the pods are exactly those the benchmark makes. */
const MANAGED_BY = 'tidegate.test/bench';
const SERVICE_ACCOUNT_TIMEOUT_MS = 60_000;

/** Makes nodes, namespaces, CronJobs and their Jobs. */
export async function createPodFactory(api: ApiServer, nodeCount: number): Promise<PodFactory> {
  const nodes = Array.from({ length: nodeCount }, (_, i) => `node-${i}`);
  await concurrently(nodeCount, SETUP_AT_ONCE, i =>
    api.call('POST', '/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name: nodes[i] } }),
  );
  const jobUids: string[] = [];
  for (let i = 0; i < NAMESPACES; i++) {
    const namespace = namespaceName(i);
    await api.call('POST', '/api/v1/namespaces', { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } });
    const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${SERVICE_ACCOUNT}`;
    await waitFor(() => api.call('GET', path), { what: `the service account of ${namespace}`, timeoutMs: SERVICE_ACCOUNT_TIMEOUT_MS });
    for (let workload = 0; workload < WORKLOADS_PER_NAMESPACE; workload++)
      jobUids.push(await createJob(api, namespace, workloadName(workload)));
  }

  const describe: PodFactory['describe'] = index => {
    const owner = index % jobUids.length;
    const workload = workloadName(owner % WORKLOADS_PER_NAMESPACE);
    return {
      namespace: namespaceName(Math.floor(owner / WORKLOADS_PER_NAMESPACE)),
      name: `${jobName(workload)}-${index}`,
      node: nodes[index % nodes.length]!,
      workload,
      labels: { app: workload, 'app.kubernetes.io/part-of': 'bench', 'batch.kubernetes.io/job-name': jobName(workload), round: '1' },
    };
  };
  return {
    nodes,
    describe,
    async create(index) {
      const { namespace, name, node, workload, labels } = describe(index);
      const owner = {
        apiVersion: 'batch/v1',
        kind: 'Job',
        name: jobName(workload),
        uid: jobUids[index % jobUids.length],
        controller: true,
      };
      const { value, answeredAtMs } = await api.call<{ metadata: { uid: string } }>('POST', `/api/v1/namespaces/${namespace}/pods`, {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, labels, ownerReferences: [owner] },
        spec: podSpec(node),
      });
      return { pod: { namespace, name, node, workload, labels, uid: value.metadata.uid }, answeredAtMs };
    },
    async run(index) {
      const { namespace, name } = describe(index);
      const ip = `10.${128 + ((index >> 16) & 127)}.${(index >> 8) & 255}.${index & 255}`;
      const containerID = `containerd://${index.toString(16).padStart(64, 'c')}`;
      const container = { name: CONTAINER_NAME, containerID, image: IMAGE, imageID: IMAGE, ready: true, restartCount: 0 };
      const status = { phase: 'Running', podIP: ip, podIPs: [{ ip }], containerStatuses: [container] };
      await api.call('PATCH', `/api/v1/namespaces/${namespace}/pods/${name}/status`, { status });
    },
    async remove({ namespace, name }) {
      await api.call('DELETE', `/api/v1/namespaces/${namespace}/pods/${name}`, { gracePeriodSeconds: 0 });
    },
  };
}

async function createJob(api: ApiServer, namespace: string, workload: string): Promise<string> {
  const template = { spec: { ...podSpec(undefined), restartPolicy: 'Never' } };
  const cronJob = await api.call<{ metadata: { uid: string } }>('POST', `/apis/batch/v1/namespaces/${namespace}/cronjobs`, {
    apiVersion: 'batch/v1',
    kind: 'CronJob',
    metadata: { name: workload },
    spec: { schedule: '0 0 1 1 *', suspend: true, jobTemplate: { spec: { template } } },
  });
  const owner = { apiVersion: 'batch/v1', kind: 'CronJob', name: workload, uid: cronJob.value.metadata.uid, controller: true };
  const job = await api.call<{ metadata: { uid: string } }>('POST', `/apis/batch/v1/namespaces/${namespace}/jobs`, {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name: jobName(workload), ownerReferences: [owner] },
    spec: { managedBy: MANAGED_BY, template },
  });
  return job.value.metadata.uid;
}

function podSpec(nodeName: string | undefined) {
  return {
    ...(nodeName !== undefined && { nodeName }),
    // No kubelet reports for these nodes; without it their pods would be evicted.
    tolerations: [{ operator: 'Exists' }],
    terminationGracePeriodSeconds: 0,
    containers: [
      { name: CONTAINER_NAME, image: IMAGE, env: [{ name: 'LISTEN', value: '0.0.0.0:8080' }], ports: [{ containerPort: 8080 }] },
    ],
  };
}

function namespaceName(index: number): string {
  return `shop-${index}`;
}

function workloadName(index: number): string {
  return `web-${index}`;
}

function jobName(workload: string): string {
  return `${workload}-29000000`;
}
