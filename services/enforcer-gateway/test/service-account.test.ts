import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { KubeConfig, RbacAuthorizationV1Api, type V1PolicyRule } from '@kubernetes/client-node';
import { NatsRole, createMetrics } from '@tidegate/runtime';
import { connectAs, prepareCluster, waitFor } from '@tidegate/testkit';
import { createGateway } from '../src/gateway.ts';
import { createKubernetesApi, findKubernetes } from '../src/kubernetes-api.ts';
import { LINGER_MS, podTemplate, startFixture, type Fixture } from './fixture.ts';

const skip = (await prepareCluster('control-plane')) ?? false;
/** More than a page, so that pages are put together. */
const PODS = 620;

/** All that the gateway may do; README.md has the same. */
const RULES: V1PolicyRule[] = [
  { apiGroups: [''], resources: ['pods', 'nodes', 'services'], verbs: ['list', 'watch'] },
  { apiGroups: [''], resources: ['namespaces'], resourceNames: ['kube-system'], verbs: ['get'] },
  { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
  { apiGroups: ['apps'], resources: ['replicasets'], verbs: ['list', 'watch'] },
  { apiGroups: ['batch'], resources: ['jobs'], verbs: ['list', 'watch'] },
  { apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs: ['get', 'create', 'update'] },
];

describe('as a service account with the least rights, at an API server that cannot stream lists', { skip }, () => {
  let fixture: Fixture;
  before(async () => {
    fixture = await startFixture({ apiServerFlags: ['--feature-gates=WatchList=false'] });
  });
  after(() => fixture[Symbol.asyncDispose]());

  test('every pod is there, those deleted while it watches go', async () => {
    const { core, host, nats } = fixture;
    const namespace = 'default';
    const spec = podTemplate({}).spec!;
    for (let first = 0; first < PODS; first += 20) {
      const names = Array.from({ length: Math.min(20, PODS - first) }, (_, i) => `pod-${first + i}`);
      await Promise.all(names.map(name => core.createNamespacedPod({ namespace, body: { metadata: { name }, spec } })));
    }
    const access = await findKubernetes(serviceAccountEnv(fixture), await serviceAccountFolder(fixture));
    assert.ok(access);
    const metrics = createMetrics('enforcer-gateway');
    const gateway = await createGateway({
      api: createKubernetesApi(access),
      server: access.server,
      nc: await connectAs(NatsRole.gateway, nats.url, host),
      cluster: undefined,
      logger: host.logger,
      metrics,
      identity: 'in-cluster',
      leaseNamespace: namespace,
      leaseName: 'tidegate',
      lingerMs: LINGER_MS,
      podAnnotations: [],
    });
    try {
      await waitFor(() => gateway.isLeader && gateway.readiness().length === 0, { what: 'the gateway to lead', timeoutMs: 30_000 });
      const { items } = await core.listNamespacedPod({ namespace });
      assert.equal(items.length, PODS);
      await waitFor(async () => (await fixture.bucketMessages('pods')) === PODS, { what: 'an entry for each pod' });
      await core.deleteNamespacedPod({ namespace, name: 'pod-0' });
      await waitFor(async () => (await fixture.bucketMessages('pods')) === PODS - 1, { what: 'one to go' });
    } finally {
      await gateway.close();
    }
  });
});

function serviceAccountEnv({ cluster }: Fixture): NodeJS.ProcessEnv {
  const config = new KubeConfig();
  config.loadFromFile(cluster.kubeconfigPath);
  const { hostname, port } = new URL(config.getCurrentCluster()!.server);
  return { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port };
}

/** What the kubelet mounts into a pod. */
async function serviceAccountFolder({ cluster, core, host }: Fixture): Promise<string> {
  const config = new KubeConfig();
  config.loadFromFile(cluster.kubeconfigPath);
  const rbac = config.makeApiClient(RbacAuthorizationV1Api);
  const name = 'gateway';
  await core.createNamespacedServiceAccount({ namespace: 'default', body: { metadata: { name } } });
  await rbac.createClusterRole({ body: { metadata: { name }, rules: RULES } });
  await rbac.createClusterRoleBinding({
    body: {
      metadata: { name },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name },
      subjects: [{ kind: 'ServiceAccount', name, namespace: 'default' }],
    },
  });
  const request = { spec: { audiences: [], expirationSeconds: 3600 } };
  const { status } = await core.createNamespacedServiceAccountToken({ name, namespace: 'default', body: request });
  const folder = host.folder();
  writeFileSync(join(folder, 'token'), `${status!.token}\n`);
  const kubeconfig = JSON.parse(readFileSync(cluster.kubeconfigPath, 'utf8')) as { clusters: [{ cluster: Record<string, string> }] };
  writeFileSync(join(folder, 'ca.crt'), Buffer.from(kubeconfig.clusters[0].cluster['certificate-authority-data']!, 'base64'));
  return folder;
}
