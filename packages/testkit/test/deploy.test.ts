/** The chart on a real cluster, from images of this checkout. */
import assert from 'node:assert/strict';
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { NATS_SYNC_INTERVAL_MS } from '@tidegate/contracts';
import { provideHelm } from '../src/helm.ts';
import { createHost } from '../src/host.ts';
import { IMAGES, buildImages, prepareImages } from '../src/images.ts';
import { BUSYBOX_IMAGE, prepareCluster, startCluster, type Cluster } from '../src/kubernetes/cluster.ts';
import { findProgram } from '../src/kubernetes/programs.ts';
import { waitFor } from '../src/wait.ts';

interface ListedPod {
  metadata: { name: string };
  spec: { volumes?: { projected?: { sources: { serviceAccountToken?: object }[] } }[] };
}

interface ShownEvent {
  kind: string;
  process: { binary: string; arguments: string[]; entered?: string };
  pod?: { name: string; namespace: string; workload: string; workload_kind: string; labels: Record<string, string> };
  container?: { name: string; image: string };
}

interface RulesReview {
  status: { resourceRules: { verbs: string[]; apiGroups: string[]; resources: string[]; resourceNames?: string[] }[] };
}

const root = fileURLToPath(new URL('../../../', import.meta.url));
const chart = join(root, 'deploy/helm/tidegate');
const RELEASE = 'tidegate';
const NAMESPACE = 'tidegate';
const INSTALL_TIMEOUT = '240s';
/** For what goes through the cluster's own controllers on a busy machine. */
const CLUSTER_TIMEOUT_MS = 90_000;
/** Rights that Kubernetes gives everyone: to ask for one's own. */
const COMMON_GROUPS = ['authorization.k8s.io', 'authentication.k8s.io'];
/** CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_PERFMON, CAP_BPF. */
const SENSOR_CAPABILITIES = (1n << 2n) | (1n << 19n) | (1n << 38n) | (1n << 39n);

const execute = promisify(execFile);
const helm = await provideHelm();
const unavailable =
  helm.unavailable ??
  (findProgram('kubectl') === undefined ? 'the chart is tried with kubectl, which is not in PATH' : undefined) ??
  (await prepareImages()) ??
  (await prepareCluster('node')) ??
  false;

test('the users of nats-server have the permissions that the runtime says', () => {
  const { status, stderr } = spawnSync(process.execPath, [join(root, 'deploy/nats/generate.js'), '--check'], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});

test('helm finds no fault in the chart, and names every wrong value', { skip: helm.unavailable ?? false }, () => {
  execFileSync(helm.path!, ['lint', '--strict', chart], { stdio: 'pipe' });
  const wrong = [
    '--set',
    'sensor.capabilities={CAP_BPF},streams.events.maxMib=lots,images.pullPolicy=always,sensor.colour=red,cluster=a:b',
  ];
  const { status, stderr } = spawnSync(helm.path!, ['template', RELEASE, chart, '--kube-version', '1.36.0', ...wrong], {
    encoding: 'utf8',
  });
  assert.notEqual(status, 0);
  for (const path of ['/sensor/capabilities/0', '/streams/events/maxMib', '/images/pullPolicy', '/cluster', "'colour' not allowed"])
    assert.match(stderr, new RegExp(path));
});

test('the chart has nats-server write to its disk as often as sensors and enrichers rely on', { skip: helm.unavailable ?? false }, () => {
  const syncInterval = (...more: string[]) =>
    /sync_interval: (\S+)/.exec(
      execFileSync(helm.path!, ['template', RELEASE, chart, '--kube-version', '1.36.0', ...more], { encoding: 'utf8' }),
    )?.[1];
  assert.equal(syncInterval(), `${NATS_SYNC_INTERVAL_MS / 1000}s`);
  assert.equal(syncInterval('--set', 'nats.storage.syncAlways=true'), 'always');
});

describe('the chart on a cluster', { skip: unavailable }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'tidegate-deploy-'));
  const stateFolder = join(folder, 'tidegate-state');
  const host = createHost();
  // A machine need not have a bpffs mounted.
  const pinFolder = join(host.bpffs(), 'tidegate');
  let cluster: Cluster;

  before(async () => {
    const images = await buildImages(folder);
    cluster = await startCluster({ scope: 'node' });
    for (const name of IMAGES) {
      await cluster.importImage(images.archives[name]);
      rmSync(images.archives[name]);
    }
  });
  after(async () => {
    await cluster?.stop();
    rmSync(folder, { recursive: true, force: true });
    await host[Symbol.asyncDispose]();
  });

  const environment = () => ({ ...process.env, KUBECONFIG: cluster.kubeconfigPath });
  const kubectl = async (...args: string[]) => (await execute('kubectl', args, { env: environment(), timeout: CLUSTER_TIMEOUT_MS })).stdout;
  const runHelm = (...args: string[]) => execute(helm.path!, [...args, '--namespace', NAMESPACE], { env: environment() });
  const podsOf = async (namespace: string) =>
    (JSON.parse(await kubectl('-n', namespace, 'get', 'pods', '-o', 'json')) as { items: ListedPod[] }).items;
  const kinds = async (...filter: string[]) =>
    (await kubectl('api-resources', '--verbs=list', '-o', 'name', ...filter)).trim().split('\n').join(',');
  const objectsOfRelease = async () =>
    (await kubectl('get', await kinds(), '--all-namespaces', '-l', `app.kubernetes.io/instance=${RELEASE}`, '-o', 'name')).trim();
  // As the chart's README says for this cluster.
  const values = () => [
    '--values',
    join(chart, 'values-cluster.yaml'),
    '--set',
    [
      // Nothing of this machine's own installation is touched.
      `sensor.stateFolder=${stateFolder},sensor.pin=true,sensor.pinFolder=${pinFolder}`,
    ].join(','),
  ];

  test('what a kubectl exec starts in a pod shows up in `tidegate events` with its identity', async () => {
    await using host = createHost();
    await runHelm('install', RELEASE, chart, '--create-namespace', ...values(), '--wait', '--timeout', INSTALL_TIMEOUT);
    await kubectl('create', 'namespace', 'shop');
    await kubectl('-n', 'shop', 'create', 'deployment', 'web', '--image', BUSYBOX_IMAGE, '--', 'sleep', 'infinity');
    await kubectl('-n', 'shop', 'rollout', 'status', 'deployment/web', '--timeout', '60s');

    const events: ShownEvent[] = [];
    const command = [
      '-n',
      NAMESPACE,
      'exec',
      'deploy/tidegate-api',
      '--',
      'tidegate',
      'events',
      '--since',
      '1m',
      '-n',
      'shop',
      '-o',
      'ndjson',
    ];
    const follower = host.spawn('kubectl', command, { env: environment(), stdio: ['ignore', 'pipe', 'inherit'] });
    createInterface(follower.stdout!).on('line', line => events.push(JSON.parse(line) as ShownEvent));
    await kubectl('-n', 'shop', 'exec', 'deploy/web', '--', 'echo', 'tide goes out');
    const {
      process: started,
      pod,
      container,
    } = await waitFor(() => events.find(({ kind, process: { arguments: words } }) => kind === 'exec' && words.includes('tide goes out')), {
      what: 'the exec',
      timeoutMs: CLUSTER_TIMEOUT_MS,
    });
    assert.equal(started.binary, '/bin/busybox');
    assert.equal(started.entered, 'exec');
    const [web] = await podsOf('shop');
    assert.equal(pod?.name, web?.metadata.name);
    assert.deepEqual([pod?.namespace, pod?.workload, pod?.workload_kind, pod?.labels.app], ['shop', 'web', 'Deployment', 'web']);
    assert.deepEqual([container?.name, container?.image], ['busybox', BUSYBOX_IMAGE]);
  });

  test('no event is missing, as `tidegate audit` proves in the pod', async () => {
    await kubectl('-n', NAMESPACE, 'exec', 'deploy/tidegate-api', '--', 'tidegate', 'audit', '--from', '10m');
  });

  test('only the gateway can read the cluster, and nothing it does not need', async () => {
    for (const component of ['sensor', 'enricher', 'api', 'connectors', 'nats', 'gateway']) {
      const token = (await kubectl('-n', NAMESPACE, 'create', 'token', `tidegate-${component}`)).trim();
      const asComponent = ['--token', token];
      const review = { apiVersion: 'authorization.k8s.io/v1', kind: 'SelfSubjectRulesReview', spec: { namespace: NAMESPACE } };
      const answer = execFileSync(
        'kubectl',
        [...asComponent, 'create', '--raw', '/apis/authorization.k8s.io/v1/selfsubjectrulesreviews', '-f', '-'],
        { env: environment(), input: JSON.stringify(review), encoding: 'utf8' },
      );
      const rules = (JSON.parse(answer) as RulesReview).status.resourceRules
        .filter(({ apiGroups }) => !apiGroups.every(group => COMMON_GROUPS.includes(group)))
        .flatMap(({ verbs, resources, resourceNames }) => resources.map(each => [each, ...(resourceNames ?? []), ...verbs].join(' ')))
        .sort();
      const needed = [
        'endpointslices list watch',
        'jobs list watch',
        'leases tidegate-gateway get update',
        'namespaces kube-system get',
        'nodes list watch',
        'pods list watch',
        'replicasets list watch',
        'services list watch',
      ];
      assert.deepEqual(rules, component === 'gateway' ? needed : [], component);
      for (const path of ['/api/v1/pods', '/api/v1/secrets', '/api/v1/nodes', `/api/v1/namespaces/${NAMESPACE}/configmaps`]) {
        const { status, stderr } = spawnSync('kubectl', [...asComponent, 'get', '--raw', path], { env: environment(), encoding: 'utf8' });
        const isAllowed = component === 'gateway' && !/secrets|configmaps/.test(path);
        assert.equal(status === 0, isAllowed, `${component} ${path}: ${stderr}`);
        if (!isAllowed) assert.match(stderr, /Forbidden/);
      }
    }
    const withToken = (await podsOf(NAMESPACE)).filter(({ spec }) =>
      spec.volumes?.some(({ projected }) => projected?.sources.some(source => source.serviceAccountToken)),
    );
    assert.deepEqual([...new Set(withToken.map(componentOf))], ['gateway']);
  });

  test('all pods but the sensor are restricted, and the sensor has four capabilities', async () => {
    const label = 'pod-security.kubernetes.io/enforce=restricted';
    const { stderr } = await execute('kubectl', ['label', '--dry-run=server', 'namespace', NAMESPACE, label], { env: environment() });
    const violating = [...stderr.matchAll(/^Warning: (tidegate-\S+):/gm)].map(match => match[1]);
    assert.deepEqual(
      violating,
      (await podsOf(NAMESPACE)).filter(pod => componentOf(pod) === 'sensor').map(({ metadata }) => metadata.name),
      stderr,
    );
    const status = await kubectl('-n', NAMESPACE, 'exec', 'daemonset/tidegate-sensor', '--', 'cat', '/proc/self/status');
    for (const set of ['CapEff', 'CapBnd'])
      assert.equal(BigInt(`0x${new RegExp(`^${set}:\\s*(\\w+)$`, 'm').exec(status)?.[1]}`), SENSOR_CAPABILITIES, set);
    assert.match(status, /^Seccomp:\s*2$/m);
  });

  test('an upgrade keeps the passwords of the NATS users', async () => {
    const passwords = () => kubectl('-n', NAMESPACE, 'get', 'secret', 'tidegate-nats-users', '-o', 'jsonpath={.data}');
    const before = await passwords();
    await runHelm('upgrade', RELEASE, chart, ...values(), '--set', 'logLevel=debug', '--wait', '--timeout', INSTALL_TIMEOUT);
    assert.equal(Object.keys(JSON.parse(before) as object).length, 7);
    assert.equal(await passwords(), before);
  });

  test('uninstalling leaves nothing, in the cluster or on the node', async () => {
    assert.ok(existsSync(stateFolder));
    assert.ok(existsSync(pinFolder));
    await runHelm('uninstall', RELEASE, '--wait', '--timeout', INSTALL_TIMEOUT);
    assert.equal(existsSync(stateFolder), false);
    assert.equal(existsSync(pinFolder), false);
    // Some go a moment after what they belong to: the end of a service's addresses.
    await waitFor(async () => (await objectsOfRelease()).length === 0, { what: 'every object to go', timeoutMs: CLUSTER_TIMEOUT_MS });
    const objects = (await kubectl('-n', NAMESPACE, 'get', await kinds('--namespaced'), '-o', 'name')).trim().split('\n');
    assert.deepEqual(
      objects.filter(name => !/^(event|configmap\/kube-root-ca.crt$|serviceaccount\/default$)/.test(name)),
      [],
    );
  });
});

function componentOf({ metadata }: ListedPod): string {
  return metadata.name.split('-')[1]!;
}
