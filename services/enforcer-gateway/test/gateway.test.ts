import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import {
  BUCKETS,
  CLUSTER_KEY,
  ClusterOrigin,
  clusterSettingCodec,
  ContainerType,
  leftNodeCodec,
  leftNodeKey,
  nodeKey,
  sensorStatusCodec,
} from '@tidegate/contracts';
import { createBuckets } from '@tidegate/runtime';
import { prepareCluster, testLogger, waitFor } from '@tidegate/testkit';
import type { V1Pod } from '@kubernetes/client-node';
import { NODE, podTemplate, startFixture, type Fixture, type GatewayProcess } from './fixture.ts';

const skip = (await prepareCluster('control-plane')) ?? false;

describe('identity of a cluster', { skip }, () => {
  let fixture: Fixture;
  let gateway: GatewayProcess;
  before(async () => {
    fixture = await startFixture();
    gateway = await fixture.startGateway({ env: { TIDEGATE_POD_ANNOTATIONS: 'team.test/owner,team.test/tier' } });
  });
  after(() => fixture[Symbol.asyncDispose]());

  /** `<kind>/<name>` of the workload of each of so many pods, in order. */
  async function workloadsIn(namespace: string, count: number): Promise<string[]> {
    const { core, podEntry } = fixture;
    const pods = await waitFor(async () => hasLength((await core.listNamespacedPod({ namespace })).items, count), {
      what: `${count} pods`,
    });
    const found = await waitFor(async () => allFound(await Promise.all(pods.map(pod => podEntry(pod)))), { what: 'their entries' });
    return found.map(({ workloadKind, workload }) => `${workloadKind}/${workload}`).sort();
  }

  test('the cluster is called by the uid of kube-system, and keeps its name when another is configured', async () => {
    const { core } = fixture;
    const { metadata } = await core.readNamespace({ name: 'kube-system' });
    const setting = async () => {
      const entry = await fixture.entry(BUCKETS.settings.name, CLUSTER_KEY);
      return entry && clusterSettingCodec.decode(entry);
    };
    const expected = { name: metadata!.uid!, origin: ClusterOrigin.kubernetes };
    assert.deepEqual(await setting(), expected);
    const replica = await fixture.startGateway({ env: { TIDEGATE_CLUSTER: 'another' }, leads: false });
    assert.deepEqual(await setting(), expected);
    replica.child.kill();
  });

  test('a pod has its names, labels, chosen annotations, addresses and containers', async () => {
    const { core } = fixture;
    await fixture.createNamespace('bare');
    const created = await core.createNamespacedPod({
      namespace: 'bare',
      body: {
        metadata: { name: 'lonely', labels: { app: 'web', 'x.test/y': 'z' }, annotations: { 'team.test/owner': 'ana', other: 'no' } },
        spec: {
          ...podTemplate({}).spec!,
          initContainers: [{ name: 'prepare', image: 'shop/prepare:2' }],
          containers: [{ name: 'main', image: 'shop/web:1', securityContext: { privileged: true } }],
        },
      },
    });
    const running = {
      phase: 'Running',
      podIP: '10.2.0.9',
      podIPs: [{ ip: '10.2.0.9' }, { ip: 'fd00::9' }],
      containerStatuses: [containerStatus('main', 'containerd://abc123', 'shop/web@sha256:1')],
      initContainerStatuses: [containerStatus('prepare', 'containerd://def456', 'shop/prepare@sha256:2')],
    };
    await core.patchNamespacedPodStatus({ name: 'lonely', namespace: 'bare', body: [{ op: 'add', path: '/status', value: running }] });
    const pod = await waitFor(
      async () => (await fixture.podEntry(created))?.containers.every(({ containerId }) => containerId !== '') && fixture.podEntry(created),
      {
        what: 'the pod with its containers',
      },
    );
    assert.ok(pod);
    assert.equal(pod.uid, created.metadata?.uid);
    assert.equal(pod.namespace, 'bare');
    assert.equal(pod.name, 'lonely');
    assert.deepEqual([pod.workload, pod.workloadKind], ['lonely', 'Pod']);
    assert.deepEqual({ ...pod.labels }, { app: 'web', 'x.test/y': 'z' });
    assert.deepEqual({ ...pod.annotations }, { 'team.test/owner': 'ana' });
    assert.equal(pod.serviceAccount, 'default');
    assert.deepEqual(pod.ips, ['10.2.0.9', 'fd00::9']);
    assert.equal(pod.qosClass, 'BestEffort');
    assert.deepEqual(
      pod.containers.map(({ name, containerId, image, imageId, privileged, type }) => [
        name,
        containerId,
        image,
        imageId,
        privileged,
        type,
      ]),
      [
        ['prepare', 'def456', 'shop/prepare:2', 'shop/prepare@sha256:2', false, ContainerType.CONTAINER_TYPE_INIT],
        ['main', 'abc123', 'shop/web:1', 'shop/web@sha256:1', true, ContainerType.CONTAINER_TYPE_REGULAR],
      ],
    );
    await waitFor(async () => (await fixture.destination('fd00::9'))?.pod === 'lonely', { what: 'its address' });
  });

  test('a pod belongs to the workload at the end of its chain of owners', async () => {
    const { core, apps, batch } = fixture;
    const namespace = 'chains';
    await fixture.createNamespace(namespace);
    const selected = (app: string) => ({ selector: { matchLabels: { app } }, template: podTemplate({ app }) });
    await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'web' }, spec: { replicas: 2, ...selected('web') } } });
    await apps.createNamespacedStatefulSet({
      namespace,
      body: { metadata: { name: 'db' }, spec: { serviceName: 'db', ...selected('db') } },
    });
    await apps.createNamespacedReplicaSet({
      namespace,
      body: { metadata: { name: 'loose' }, spec: { replicas: 1, ...selected('loose') } },
    });
    const jobSpec = { template: { ...podTemplate({ app: 'job' }), spec: { ...podTemplate({}).spec!, restartPolicy: 'Never' } } };
    await batch.createNamespacedJob({ namespace, body: { metadata: { name: 'migrate' }, spec: jobSpec } });
    const cronJob = await batch.createNamespacedCronJob({
      namespace,
      body: { metadata: { name: 'nightly' }, spec: { schedule: '0 0 1 1 *', suspend: true, jobTemplate: { spec: jobSpec } } },
    });
    await batch.createNamespacedJob({
      namespace,
      body: {
        metadata: {
          name: 'nightly-29000000',
          ownerReferences: [{ apiVersion: 'batch/v1', kind: 'CronJob', name: 'nightly', uid: cronJob.metadata!.uid!, controller: true }],
        },
        spec: jobSpec,
      },
    });
    // An owner of a kind nobody here knows; its controller would have made the pod. The garbage collector leaves it: it cannot look the kind up.
    const wizard = {
      apiVersion: 'magic.test/v1',
      kind: 'Wizard',
      name: 'merlin',
      uid: '11111111-2222-3333-4444-555555555555',
      controller: true,
    };
    await core.createNamespacedPod({
      namespace,
      body: { metadata: { name: 'spell', ownerReferences: [wizard] }, spec: podTemplate({}).spec! },
    });

    assert.deepEqual(await workloadsIn(namespace, 7), [
      'CronJob/nightly',
      'Deployment/web',
      'Deployment/web',
      'Job/migrate',
      'ReplicaSet/loose',
      'StatefulSet/db',
      'Wizard/merlin',
    ]);
    assert.equal(await gateway.metric('guessed_pods'), 0);
  });

  test('what makes names unique is no part of the workload: runs of a pipeline are one, also as subjects', async () => {
    const { core, batch } = fixture;
    const namespace = 'pipelines';
    await fixture.createNamespace(namespace);
    const spec = podTemplate({}).spec!;
    const ownedBy = (kind: string, name: string) => [
      { apiVersion: 'ci.test/v1', kind, name, uid: '11111111-2222-3333-4444-555555555556', controller: true },
    ];
    await core.createNamespacedPod({ namespace, body: { metadata: { generateName: 'runner-' }, spec } });
    await core.createNamespacedPod({ namespace, body: { metadata: { generateName: 'runner-' }, spec } });
    await core.createNamespacedPod({ namespace, body: { metadata: { name: 'worker-1' }, spec } });
    await core.createNamespacedPod({
      namespace,
      body: { metadata: { name: 'a', ownerReferences: ownedBy('Workflow', 'build-x7k2p') }, spec },
    });
    await core.createNamespacedPod({
      namespace,
      body: { metadata: { name: 'b', ownerReferences: ownedBy('TaskRun', 'deploy-1764150000-4f9c2d71') }, spec },
    });
    await core.createNamespacedPod({
      namespace,
      body: { metadata: { name: 'c', ownerReferences: ownedBy('Kafka', 'orders-kafka') }, spec },
    });
    await batch.createNamespacedJob({
      namespace,
      body: {
        metadata: { generateName: 'migrate-' },
        spec: { template: { ...podTemplate({}), spec: { ...spec, restartPolicy: 'Never' } } },
      },
    });
    assert.deepEqual(await workloadsIn(namespace, 7), [
      'Job/migrate',
      'Kafka/orders-kafka',
      'Pod/runner',
      'Pod/runner',
      'Pod/worker-1',
      'TaskRun/deploy',
      'Workflow/build',
    ]);
  });

  test('a static pod is found by the UID that its cgroups have, and is one workload on all nodes', async () => {
    const { core } = fixture;
    const hash = 'c0ffee00c0ffee00c0ffee00c0ffee00';
    await core.createNamespacedPod({
      namespace: 'default',
      body: {
        metadata: {
          name: `etcd-${NODE}`,
          annotations: { 'kubernetes.io/config.hash': hash, 'kubernetes.io/config.mirror': hash, 'kubernetes.io/config.source': 'file' },
          ownerReferences: [
            { apiVersion: 'v1', kind: 'Node', name: NODE, uid: (await core.readNode({ name: NODE })).metadata!.uid!, controller: true },
          ],
        },
        spec: { ...podTemplate({}).spec!, automountServiceAccountToken: false, serviceAccountName: '' },
      },
    });
    const pod = await waitFor(() => fixture.podEntryOf(hash), { what: 'the static pod' });
    assert.equal(pod.uid, hash);
    assert.equal(pod.name, `etcd-${NODE}`);
    assert.deepEqual([pod.workload, pod.workloadKind], ['etcd', 'Pod']);
  });

  test('a new label shows at once, and a deployment that lets go of its pods too', async () => {
    const { core, apps } = fixture;
    const namespace = 'relabel';
    await fixture.createNamespace(namespace);
    const spec = { replicas: 1, selector: { matchLabels: { app: 'a' } }, template: podTemplate({ app: 'a' }) };
    await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'web' }, spec } });
    const [pod] = await waitFor(async () => hasLength((await core.listNamespacedPod({ namespace })).items, 1), { what: 'the pod' });
    await waitFor(async () => (await fixture.podEntry(pod!))?.workload === 'web', { what: 'its entry' });
    await core.patchNamespacedPod({
      name: pod!.metadata!.name!,
      namespace,
      body: [{ op: 'add', path: '/metadata/labels/tier', value: 'front' }],
    });
    await waitFor(async () => (await fixture.podEntry(pod!))?.labels.tier === 'front', { what: 'the label' });

    await apps.deleteNamespacedDeployment({ name: 'web', namespace, propagationPolicy: 'Orphan' });
    await waitFor(async () => (await fixture.podEntry(pod!))?.workloadKind === 'ReplicaSet', { what: 'the ReplicaSet as workload' });
    assert.equal((await fixture.podEntry(pod!))?.labels.tier, 'front');
  });

  test('a deleted pod keeps its whole identity for a while, and then leaves nothing', async () => {
    const { core, apps } = fixture;
    const namespace = 'deleted';
    await fixture.createNamespace(namespace);
    const spec = { replicas: 1, selector: { matchLabels: { app: 'a' } }, template: podTemplate({ app: 'a' }) };
    await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'web' }, spec } });
    const [pod] = await waitFor(async () => hasLength((await core.listNamespacedPod({ namespace })).items, 1), { what: 'the pod' });
    await waitFor(() => fixture.podEntry(pod!), { what: 'its entry' });
    await apps.deleteNamespacedDeployment({ name: 'web', namespace, propagationPolicy: 'Foreground' });
    await waitFor(async () => (await core.listNamespacedPod({ namespace })).items.length === 0, { what: 'the pod to be deleted' });
    assert.equal((await fixture.podEntry(pod!))?.workload, 'web');
    await waitFor(async () => (await fixture.podEntry(pod!)) === undefined, { what: 'its entry to go' });
    await waitFor(async () => (await fixture.bucketMessages(BUCKETS.pods.name)) === (await countPods(core)), {
      what: 'its delete marker to go',
    });
  });

  test('addresses lead to services, pods and nodes, and to their next owner', async () => {
    const { core, discovery } = fixture;
    const namespace = 'network';
    await fixture.createNamespace(namespace);
    const service = await core.createNamespacedService({
      namespace,
      body: { metadata: { name: 'shop' }, spec: { selector: { app: 'shop' }, ports: [{ port: 80 }], externalIPs: ['203.0.113.7'] } },
    });
    const clusterIp = service.spec!.clusterIP!;
    const create = async (name: string, ip: string) => {
      const body = { metadata: { name, labels: { app: 'shop' } }, spec: podTemplate({}).spec! };
      await core.createNamespacedPod({ namespace, body });
      const status = { phase: 'Running', podIP: ip, podIPs: [{ ip }], conditions: [{ type: 'Ready', status: 'True' }] };
      await core.patchNamespacedPodStatus({ name, namespace, body: [{ op: 'add', path: '/status', value: status }] });
    };
    await create('first', '10.2.0.1');
    await waitFor(async () => (await fixture.destination('10.2.0.1'))?.service === 'shop', { what: 'the service of a pod' });
    const { namespace: podNamespace, pod, workload, workloadKind, node } = (await fixture.destination('10.2.0.1'))!;
    assert.deepEqual(
      { podNamespace, pod, workload, workloadKind, node },
      { podNamespace: namespace, pod: 'first', workload: 'first', workloadKind: 'Pod', node: '' },
    );
    for (const ip of [clusterIp, '203.0.113.7']) {
      const destination = await waitFor(() => fixture.destination(ip), { what: `the service's address ${ip}` });
      assert.deepEqual([destination.ip, destination.namespace, destination.service, destination.pod], [ip, namespace, 'shop', '']);
    }
    const nodeDestination = await waitFor(() => fixture.destination('10.1.0.1'), { what: "the node's address" });
    assert.deepEqual([nodeDestination.node, nodeDestination.pod], [NODE, '']);

    // A finished pod has given its address up, even while its object still names it.
    await core.patchNamespacedPodStatus({ name: 'first', namespace, body: [{ op: 'replace', path: '/status/phase', value: 'Succeeded' }] });
    await create('second', '10.2.0.1');
    await waitFor(async () => (await fixture.destination('10.2.0.1'))?.pod === 'second', { what: 'the next owner' });
    await core.deleteNamespacedPod({ name: 'first', namespace });
    await waitFor(async () => (await core.listNamespacedPod({ namespace })).items.length === 1, { what: 'the first to go' });

    // Endpoints outside the cluster, written by hand.
    await core.createNamespacedService({
      namespace,
      body: { metadata: { name: 'legacy' }, spec: { clusterIP: 'None', ports: [{ port: 5432 }] } },
    });
    await discovery.createNamespacedEndpointSlice({
      namespace,
      body: {
        metadata: { name: 'legacy-1', labels: { 'kubernetes.io/service-name': 'legacy' } },
        addressType: 'IPv4',
        endpoints: [{ addresses: ['198.51.100.5'] }],
        ports: [{ port: 5432 }],
      },
    });
    await waitFor(async () => (await fixture.destination('198.51.100.5'))?.service === 'legacy', { what: 'the outside endpoint' });
    assert.equal((await fixture.destination('10.2.0.1'))?.pod, 'second');
  });

  test('a node is an entry of its own', async () => {
    const value = await waitFor(() => fixture.entry(BUCKETS.nodes.name, 'node-a_test'), { what: 'the node' });
    const { name, addresses } = JSON.parse(Buffer.from(value).toString()) as { name: string; addresses: string[] };
    assert.deepEqual({ name, addresses }, { name: NODE, addresses: ['10.1.0.1'] });
  });

  test('a node that Kubernetes removes has left: the state of its sensor goes, its last number stays', async () => {
    const { core, nc } = fixture;
    const name = 'short-lived.example';
    await core.createNode({ body: { metadata: { name } } });
    await waitFor(() => fixture.entry(BUCKETS.nodes.name, nodeKey(name)), { what: 'the node' });
    const buckets = await createBuckets({ nc, logger: testLogger() });
    const sensors = buckets.open(BUCKETS.sensors, sensorStatusCodec);
    const time = new Date().toISOString();
    const spool = { bytes: 0, batches: 0, maxBytes: 0 };
    const counts = { events: 4_711, lastSequence: 4_711, lost: {}, spool, hooks: [], recorded: false };
    await sensors.put(nodeKey(name), { node: name, boot: 'b', version: '1', kernel: '6', startedAt: time, reportedAt: time, ...counts });
    await core.deleteNode({ name });
    const leftNodes = buckets.open(BUCKETS.nodes, leftNodeCodec);
    const { value } = await waitFor(
      async () => {
        const entry = await leftNodes.get(leftNodeKey(name));
        return entry.value && entry;
      },
      { what: 'the node to leave' },
    );
    assert.deepEqual([value?.removedBy, value?.lastSequence], ['kubernetes', 4_711]);
    await waitFor(async () => (await sensors.get(nodeKey(name))).value === undefined, { what: "the sensor's state to go" });
    await waitFor(async () => (await fixture.entry(BUCKETS.nodes.name, nodeKey(name))) === undefined, { what: 'the entry to go' });
    // A leader that compares the bucket leaves alone who has left.
    assert.equal((await leftNodes.get(leftNodeKey(name))).value?.lastSequence, 4_711);
    buckets.close();
  });
});

function containerStatus(name: string, containerID: string, imageID: string) {
  return { name, containerID, imageID, image: 'x', ready: true, restartCount: 0 };
}

function hasLength<T>(items: T[], length: number): T[] | undefined {
  return items.length === length ? items : undefined;
}

function allFound<T>(items: (T | undefined)[]): T[] | undefined {
  const found = items.filter(item => item !== undefined);
  return found.length === items.length ? found : undefined;
}

async function countPods(core: Fixture['core']): Promise<number> {
  const { items } = await core.listPodForAllNamespaces();
  return items.filter((pod: V1Pod) => pod.spec?.nodeName !== undefined).length;
}
