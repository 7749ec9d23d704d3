/** Every event of every container on a real cluster, through the real sensor, enricher and gateway: whose is it? */
import assert from 'node:assert/strict';
import { execFile, type ChildProcess } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import {
  BUCKETS,
  STREAMS,
  decodeBatch,
  enteredBy,
  kindNumber,
  type Container,
  type Entered,
  type Event,
  type Pod,
  type Process,
} from '@tidegate/contracts';
import { connectNats, createStreamReaders, ensureBuckets, ensureStreams } from '@tidegate/runtime';
import { createHost, endChild, testLogger, type Host } from '../src/host.ts';
import { BUSYBOX_IMAGE, prepareCluster, startCluster, type Cluster } from '../src/kubernetes/cluster.ts';
import { findProgram } from '../src/kubernetes/programs.ts';
import { startNatsServer } from '../src/nats-server.ts';
import { waitFor } from '../src/wait.ts';

interface SeenEvent {
  event: Event;
  process: Process;
  container: Container;
  pod: Pod | undefined;
}

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const NODE = 'node-a';
const NAMESPACE = 'shop';
const STREAM_MAX_BYTES = 256 * 1024 ** 2;
/** For what goes through the cluster's own controllers on a busy machine. */
const CLUSTER_TIMEOUT_MS = 90_000;
const SHORT_LIVED_PODS = 10;
const CRASHES = 2;

const execute = promisify(execFile);
const unavailable =
  (findProgram('kubectl') === undefined ? 'the cluster is driven with kubectl, which is not in PATH' : undefined) ??
  (await prepareCluster('node')) ??
  false;

/** A container that runs one program with `mark` as its argument, and then the rest of the script. */
const container = (name: string, mark: string, rest = 'exec sleep infinity', more: object = {}) => ({
  name,
  image: BUSYBOX_IMAGE,
  imagePullPolicy: 'Never',
  command: ['sh', '-c', `/bin/true ${mark}; ${rest}`],
  ...more,
});
const podSpec = (containers: object[], more: object = {}) => ({ terminationGracePeriodSeconds: 0, containers, ...more });
const template = (app: string, spec: object) => ({ metadata: { labels: { app } }, spec });
const bare = (name: string, spec: object) => ({ apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: NAMESPACE }, spec });
const owned = (apiVersion: string, kind: string, name: string, spec: object) => ({
  apiVersion,
  kind,
  metadata: { name, namespace: NAMESPACE },
  spec,
});
const jobSpec = (mark: string) => ({ template: { spec: podSpec([container('task', mark, 'exit 0')], { restartPolicy: 'Never' }) } });

const OBJECTS = [
  owned('apps/v1', 'Deployment', 'web', {
    replicas: 2,
    selector: { matchLabels: { app: 'web' } },
    template: template(
      'web',
      podSpec(
        [
          container('app', 'mark-app', undefined, {
            env: [{ name: 'MARK', value: 'mark-probe' }],
            readinessProbe: { exec: { command: ['sh', '-c', 'sh -c "exec /bin/true $(MARK)"; :'] }, periodSeconds: 1 },
            lifecycle: { postStart: { exec: { command: ['/bin/true', 'mark-hook'] } } },
          }),
        ],
        {
          initContainers: [
            container('prepare', 'mark-init', 'exit 0'),
            container('proxy', 'mark-sidecar', undefined, { restartPolicy: 'Always' }),
          ],
        },
      ),
    ),
  }),
  owned('batch/v1', 'Job', 'import', jobSpec('mark-job')),
  owned('batch/v1', 'CronJob', 'report', { schedule: '0 0 1 1 *', jobTemplate: { spec: jobSpec('mark-cron-job') } }),
  bare('shared', podSpec([container('first', 'mark-shared-1'), container('second', 'mark-shared-2')], { shareProcessNamespace: true })),
  bare('host-pid', podSpec([container('main', 'mark-host-pid')], { hostPID: true })),
  bare('host-network', podSpec([container('main', 'mark-host-network')], { hostNetwork: true })),
  bare('crash', podSpec([container('main', 'mark-crash', 'exit 1')])),
  owned('apps/v1', 'StatefulSet', 'store', {
    replicas: 1,
    serviceName: 'store',
    selector: { matchLabels: { app: 'store' } },
    template: template('store', podSpec([container('db', 'mark-stateful')])),
  }),
  owned('apps/v1', 'DaemonSet', 'agent', {
    selector: { matchLabels: { app: 'agent' } },
    template: template('agent', podSpec([container('agent', 'mark-daemon', 'while sleep 1; do /bin/true mark-loop; done')])),
  }),
];

/** What is executed with a mark, and whose it must be. */
const EXPECTED: [mark: string, container: string, pod: RegExp, workload: string, workloadKind: string, entered: Entered | undefined][] = [
  ['mark-app', 'app', /^web-/, 'web', 'Deployment', undefined],
  ['mark-init', 'prepare', /^web-/, 'web', 'Deployment', undefined],
  ['mark-sidecar', 'proxy', /^web-/, 'web', 'Deployment', undefined],
  ['mark-probe', 'app', /^web-/, 'web', 'Deployment', 'probe'],
  ['mark-hook', 'app', /^web-/, 'web', 'Deployment', 'hook'],
  ['mark-exec', 'app', /^web-/, 'web', 'Deployment', 'exec'],
  ['mark-ephemeral', 'debugger', /^web-/, 'web', 'Deployment', 'debug'],
  ['mark-job', 'task', /^import-/, 'import', 'Job', undefined],
  ['mark-cron-job', 'task', /^report-now-/, 'report', 'CronJob', undefined],
  ['mark-shared-1', 'first', /^shared$/, 'shared', 'Pod', undefined],
  ['mark-shared-2', 'second', /^shared$/, 'shared', 'Pod', undefined],
  ['mark-host-pid', 'main', /^host-pid$/, 'host-pid', 'Pod', undefined],
  ['mark-host-network', 'main', /^host-network$/, 'host-network', 'Pod', undefined],
  ['mark-crash', 'main', /^crash$/, 'crash', 'Pod', undefined],
  ['mark-stateful', 'db', /^store-0$/, 'store', 'StatefulSet', undefined],
  ['mark-daemon', 'agent', /^agent-/, 'agent', 'DaemonSet', undefined],
  ['mark-static', 'main', new RegExp(`^static-${NODE}$`), 'static', 'Pod', undefined],
];

describe('identity on a cluster', { skip: unavailable }, () => {
  const seen: SeenEvent[] = [];
  let host: Host;
  let cluster: Cluster;
  let sensor: ChildProcess;
  let startSensor: () => Promise<ChildProcess>;

  before(async () => {
    host = createHost();
    cluster = await startCluster({ scope: 'node', nodeName: NODE });
    const server = await startNatsServer();
    host.defer(() => server.stop());
    const nc = await connectNats({ url: server.url, name: 'identity-test', logger: testLogger() });
    host.defer(() => nc.close());
    await ensureStreams(
      nc,
      Object.values(STREAMS).map(stream => ({ ...stream, maxBytes: STREAM_MAX_BYTES })),
    );
    await ensureBuckets(nc, Object.values(BUCKETS));

    const started = (service: string, message: string, environment: NodeJS.ProcessEnv = {}) => {
      const { promise, resolve } = Promise.withResolvers<ChildProcess>();
      const env = { ...process.env, TIDEGATE_NATS_URL: server.url, TIDEGATE_HEALTH_PORT: '0', ...environment };
      const child = host.spawn(process.execPath, [join(ROOT, `services/${service}/dist/main.js`)], {
        env,
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      createInterface(child.stderr!).on('line', line => line.includes(message) && resolve(child));
      return promise;
    };
    const dataFolder = host.folder();
    startSensor = () =>
      started('node-sensor', 'reading kernel events', {
        TIDEGATE_NODE: NODE,
        TIDEGATE_PIN: 'false',
        TIDEGATE_DATA_DIR: dataFolder,
      });
    [sensor] = await Promise.all([
      startSensor(),
      started('enforcer-gateway', '"started"', { KUBECONFIG: cluster.kubeconfigPath }),
      started('enricher', 'health and metrics'),
    ]);

    const readers = await createStreamReaders(nc);
    host.defer(() => readers.close());
    void (async () => {
      for await (const { data } of readers.open({ stream: STREAMS.events.name, start: { streamSequence: 1 } }).read({ follow: true })) {
        gather(data);
      }
    })();
  });
  after(async () => {
    await cluster?.stop();
    await host[Symbol.asyncDispose]();
  });

  function gather(data: Uint8Array): void {
    const { events, processes, containers, pods } = decodeBatch(data);
    for (const event of events) {
      const process = processes.find(({ id }) => id === event.process);
      const container = containers.find(({ id }) => id === process?.container);
      if (process && container) seen.push({ event, process, container, pod: pods.find(({ uid }) => uid === container.podUid) });
    }
  }

  const kubectl = async (args: readonly string[], input?: object) => {
    const env = { ...process.env, KUBECONFIG: cluster.kubeconfigPath };
    const running = execute('kubectl', ['-n', NAMESPACE, ...args], { env, timeout: CLUSTER_TIMEOUT_MS });
    running.child.stdin!.end(input && JSON.stringify(input));
    return (await running).stdout;
  };
  const apply = (items: object[]) => kubectl(['apply', '-f', '-'], { apiVersion: 'v1', kind: 'List', items });
  const marked = (mark: string) =>
    seen.filter(({ event, process }) => event.kind === kindNumber('exec') && process.arguments?.at(-1) === mark);

  test('each kind of workload, from the first program on', async () => {
    await apply([{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE } }, ...OBJECTS]);
    const staticPod = bare('static', podSpec([container('main', 'mark-static')]));
    writeFileSync(join(cluster.staticPodFolder, 'static.json'), JSON.stringify(staticPod));
    await kubectl(['create', 'job', 'report-now', '--from=cronjob/report']);
    await kubectl(['rollout', 'status', 'deployment/web', '--timeout=80s']);
    await kubectl(['exec', 'deployment/web', '-c', 'app', '--', 'sh', '-c', '/bin/true mark-exec; :']);
    const [web] = (await kubectl(['get', 'pods', '-l', 'app=web', '-o', 'name'])).split('\n') as [string];
    await kubectl(
      ['debug', web, '-c', 'debugger', '--image', BUSYBOX_IMAGE, '--image-pull-policy=Never', '--profile=general', '--quiet'].concat([
        '--',
        'sh',
        '-c',
        '/bin/true mark-ephemeral; exit 0',
      ]),
    );
    for (const [mark, name, pod, workload, workloadKind, entered] of EXPECTED) {
      const [first] = await waitFor(() => marked(mark).length > 0 && marked(mark), { what: mark, timeoutMs: CLUSTER_TIMEOUT_MS });
      assert.equal(first!.container.name, name, mark);
      assert.equal(first!.container.image, BUSYBOX_IMAGE, mark);
      assert.equal(first!.container.runtime, 'containerd', mark);
      assert.match(first!.pod?.name ?? '', pod, mark);
      assert.deepEqual([first!.pod?.workload, first!.pod?.workloadKind, first!.pod?.namespace], [workload, workloadKind, NAMESPACE], mark);
      assert.equal(enteredBy(first!.process, first!.container, first!.pod), entered, mark);
    }
    await waitFor(() => marked('mark-crash').length >= CRASHES, { what: 'the crashing container again', timeoutMs: CLUSTER_TIMEOUT_MS });
    assert.equal(new Set(marked('mark-crash').map(({ container: { containerId } }) => containerId)).size, marked('mark-crash').length);
  });

  test('pods that are deleted at once', async () => {
    const names = Array.from({ length: SHORT_LIVED_PODS }, (_, index) => `short-${index}`);
    await apply(names.map(name => bare(name, podSpec([container('main', `mark-${name}`)]))));
    await kubectl(['delete', 'pod', '--now', ...names]);
    // Whatever the kubelet still started is told of by now.
    await kubectl([
      'run',
      'last',
      '--image',
      BUSYBOX_IMAGE,
      '--image-pull-policy=Never',
      '--restart=Never',
      '--',
      '/bin/true',
      'mark-last',
    ]);
    await waitFor(() => marked('mark-last').length > 0, { what: 'the last pod', timeoutMs: CLUSTER_TIMEOUT_MS });
  });

  test('containers that are older than the sensor', async () => {
    await endChild(sensor);
    const before = seen.length;
    sensor = await startSensor();
    const inAgent = ['exec', 'daemonset/agent', '--', '/bin/true'];
    for (const [mark, entered] of [
      ['mark-loop', false],
      ['mark-late-exec', true],
    ] as const) {
      // Not before the processes that run are known: the container's own come first.
      if (entered) await kubectl([...inAgent, mark]);
      const later = () => marked(mark).find(each => seen.indexOf(each) >= before);
      const { container: agent, process: started, pod } = await waitFor(later, { what: mark, timeoutMs: CLUSTER_TIMEOUT_MS });
      assert.deepEqual([agent.name, agent.image, pod?.workload], ['agent', BUSYBOX_IMAGE, 'agent'], mark);
      assert.equal(enteredBy(started, agent, pod), entered ? 'exec' : undefined, mark);
    }
  });

  test('every event of every container has the whole identity', context => {
    const ofPods = seen.filter(({ container: { podUid } }) => podUid);
    const incomplete = ofPods.filter(({ container: { containerId, name, image, sandbox }, pod }) => {
      const isNamed = sandbox ? !name : name && image;
      return !(containerId && isNamed && pod && !pod.unresolved && pod.namespace && pod.name && pod.workload && pod.workloadKind);
    });
    const sandboxes = new Set(ofPods.filter(({ container: each }) => each.sandbox).map(({ container: each }) => each.containerId));
    const containers = new Set(ofPods.map(({ container: each }) => each.containerId));
    context.diagnostic(
      `${ofPods.length - incomplete.length} of ${ofPods.length} events, ${containers.size} containers, ${sandboxes.size} of them sandboxes`,
    );
    assert.deepEqual(
      incomplete.map(({ event, process, container: each, pod }) => ({
        kind: event.kind,
        arguments: process.arguments,
        container: each,
        pod: pod && { name: pod.name, workload: pod.workload, unresolved: pod.unresolved },
      })),
      [],
    );
    assert.ok(sandboxes.size > 0 && sandboxes.size < containers.size);
  });
});
