/** Nodes and pods that exist in the API only: no kubelet runs them, no controller touches them. */
import { randomUUID } from 'node:crypto';
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
  /**
   * Puts pods into the API server's store like the running one given, many times as fast as the API server takes them: for sizes at which creating is not
   * what is measured. Like any pod they come over watches and lists.
   */
  store(like: SimulatedPod, first: number, count: number): Promise<SimulatedPod[]>;
  remove(pod: Pick<SimulatedPod, 'namespace' | 'name'>): Promise<void>;
}

export const CONTAINER_NAME = 'web';
export const IMAGE = 'registry.example/shop/web:1.2.3';
export const SERVICE_ACCOUNT = 'default';
export const WORKLOAD_KIND = 'CronJob';

const NAMESPACES = 10;
const WORKLOADS_PER_NAMESPACE = 10;
const SETUP_AT_ONCE = 16;
const STORE_AT_ONCE = 32;
/** Its jobs are left alone by Kubernetes' own controller, so the pods are exactly those the benchmark makes. */
const MANAGED_BY = 'tidegate.test/bench';
const SERVICE_ACCOUNT_TIMEOUT_MS = 60_000;

/** Makes nodes, namespaces, CronJobs and their Jobs. */
export async function createPodFactory(api: ApiServer, etcdUrl: string, nodeCount: number): Promise<PodFactory> {
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
  const ownerOf = (index: number) => {
    const name = jobName(describe(index).workload);
    return { apiVersion: 'batch/v1', kind: 'Job', name, uid: jobUids[index % jobUids.length], controller: true };
  };
  return {
    nodes,
    describe,
    async create(index) {
      const { namespace, name, node, workload, labels } = describe(index);
      const { value, answeredAtMs } = await api.call<{ metadata: { uid: string } }>('POST', `/api/v1/namespaces/${namespace}/pods`, {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, labels, ownerReferences: [ownerOf(index)] },
        spec: podSpec(node),
      });
      return { pod: { namespace, name, node, workload, labels, uid: value.metadata.uid }, answeredAtMs };
    },
    async run(index) {
      const { namespace, name } = describe(index);
      await api.call('PATCH', `/api/v1/namespaces/${namespace}/pods/${name}/status`, { status: runningStatus(index) });
    },
    async store(like, first, count) {
      const path = `/api/v1/namespaces/${like.namespace}/pods/${like.name}`;
      const { value: template } = await api.call<StoredPod>('GET', path);
      delete template.metadata['resourceVersion'];
      const stored = Array.from({ length: count }, (_, i): SimulatedPod => ({ ...describe(first + i), uid: randomUUID() }));
      await concurrently(count, STORE_AT_ONCE, async i => {
        const { namespace, name, uid, labels, node } = stored[i]!;
        const metadata = { ...template.metadata, namespace, name, uid, labels, ownerReferences: [ownerOf(first + i)] };
        const status = { ...template.status, ...runningStatus(first + i) };
        const object = { ...template, metadata, spec: { ...template.spec, nodeName: node }, status };
        // One by one, as the API server writes: watches resume behind a revision, so objects that share one could be missed.
        const put = { key: base64(`/registry/pods/${namespace}/${name}`), value: base64(JSON.stringify(object)) };
        const response = await fetch(`${etcdUrl}/v3/kv/put`, { method: 'POST', body: JSON.stringify(put) });
        if (!response.ok) throw new Error(`etcd: status ${response.status}: ${await response.text()}`);
        await response.arrayBuffer();
      });
      return stored;
    },
    async remove({ namespace, name }) {
      await api.call('DELETE', `/api/v1/namespaces/${namespace}/pods/${name}`, { gracePeriodSeconds: 0 });
    },
  };
}

interface StoredPod {
  metadata: Record<string, unknown>;
  spec: Record<string, unknown>;
  status: Record<string, unknown>;
}

function runningStatus(index: number) {
  const ip = `10.${128 + ((index >> 16) & 127)}.${(index >> 8) & 255}.${index & 255}`;
  const containerID = `containerd://${index.toString(16).padStart(64, 'c')}`;
  const container = { name: CONTAINER_NAME, containerID, image: IMAGE, imageID: IMAGE, ready: true, restartCount: 0 };
  return { phase: 'Running', podIP: ip, podIPs: [{ ip }], containerStatuses: [container] };
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64');
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
