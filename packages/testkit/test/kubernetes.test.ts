import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { request } from 'node:https';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { after, test } from 'node:test';
import { BUSYBOX_IMAGE, prepareCluster, startCluster, type Cluster } from '../src/kubernetes/cluster.ts';
import { createHost } from '../src/host.ts';
import { waitFor } from '../src/wait.ts';

interface Kubeconfig {
  clusters: [{ cluster: { server: string; 'certificate-authority-data': string } }];
  users: [{ user: { token: string } }];
}

const unavailable = (await prepareCluster('control-plane')) ?? false;
const nodeUnavailable = unavailable || ((await prepareCluster('node')) ?? false);

after(() =>
  assert.deepEqual(
    globSync('/tmp/tidegate-cluster-*').filter(folder => !folder.endsWith('standing')),
    [],
  ),
);

test('a control plane keeps its objects when its API server is killed and started again', { skip: unavailable }, async () => {
  await using cluster = await startCluster();
  await callApi(cluster, 'POST', '/api/v1/namespaces', { metadata: { name: 'shop' } });
  await cluster.stopPart('kube-apiserver');
  await assert.rejects(callApi(cluster, 'GET', '/api/v1/namespaces/shop'));
  await cluster.startPart('kube-apiserver');
  const namespace = (await callApi(cluster, 'GET', '/api/v1/namespaces/shop')) as { metadata: { name: string } };
  assert.equal(namespace.metadata.name, 'shop');
});

test('a cluster goes down with the process that started it, also when that is killed', { skip: unavailable }, async () => {
  await using host = createHost();
  const cluster = new URL('../src/kubernetes/cluster.ts', import.meta.url).href;
  const script = `const { startCluster } = await import('${cluster}'); console.log((await startCluster()).folder); setInterval(() => {}, 1000);`;
  const owner = host.spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [folder] = (await once(createInterface(owner.stdout!), 'line')) as [string];
  assert.ok(existsSync(folder));
  owner.kill('SIGKILL');
  await waitFor(() => !existsSync(folder), { what: 'the cluster to go down' });
  await waitFor(() => processesOf(folder).length === 0, { what: 'its processes to end' });
});

test('what a cluster leaves when its own process is killed is removed by the next start', { skip: nodeUnavailable }, async () => {
  const orphan = await startCluster({ scope: 'node' });
  await callApi(orphan, 'POST', '/api/v1/namespaces/default/pods', sleepingPod('sleeper'));
  await waitFor(() => isPodRunning(orphan, 'sleeper'), { what: 'the pod to run', timeoutMs: 30_000 });
  const { pid } = JSON.parse(readFileSync(`${orphan.folder}/cluster.json`, 'utf8')) as { pid: number };
  process.kill(pid, 'SIGKILL');
  await waitFor(() => !existsSync(`/proc/${pid}`), { what: 'the process to end' });
  await using _next = await startCluster();
  assert.equal(existsSync(orphan.folder), false);
  assert.deepEqual(nodeLeftovers(orphan.folder), []);
});

test('a node runs pods in cgroups of the machine, and nothing of it stays', { skip: nodeUnavailable }, async () => {
  const cluster = await startCluster({ scope: 'node', nodeName: 'node-of.test' });
  try {
    await callApi(cluster, 'POST', '/api/v1/namespaces/default/pods', sleepingPod('sleeper'));
    const pod = await waitFor(() => isPodRunning(cluster, 'sleeper'), { what: 'the pod to run', timeoutMs: 30_000 });
    assert.equal(pod.spec.nodeName, 'node-of.test');
    assert.equal(globSync(`/sys/fs/cgroup/{unified/,}kubepods/besteffort/pod${pod.metadata.uid}`).length, 1);
  } finally {
    await cluster.stop();
  }
  assert.deepEqual(nodeLeftovers(cluster.folder), []);
});

interface Pod {
  metadata: { uid: string };
  spec: { nodeName?: string };
  status: { phase?: string };
}

async function isPodRunning(cluster: Cluster, name: string): Promise<Pod | undefined> {
  const pod = (await callApi(cluster, 'GET', `/api/v1/namespaces/default/pods/${name}`)) as Pod;
  return pod.status.phase === 'Running' ? pod : undefined;
}

function sleepingPod(name: string): object {
  const container = { name: 'main', image: BUSYBOX_IMAGE, imagePullPolicy: 'Never', command: ['sleep', 'infinity'] };
  return { metadata: { name }, spec: { containers: [container], terminationGracePeriodSeconds: 0 } };
}

function nodeLeftovers(folder: string): string[] {
  const links = execFileSync('ip', ['-o', 'link'], { encoding: 'utf8' }).split('\n');
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  const rules = ['iptables-save', 'ip6tables-save'].flatMap(save =>
    execFileSync(save, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split('\n'),
  );
  return [
    ...links.filter(line => line.includes('tidegate-')),
    ...mounts.filter(line => line.includes(folder)),
    ...rules.filter(line => line.includes('KUBE-')),
    ...globSync('/sys/fs/cgroup/{,*/}kubepods'),
    ...globSync('/run/containerd/s/*'),
    ...globSync('/var/lib/kubelet/*'),
    ...processesOf(folder),
  ];
}

function processesOf(folder: string): string[] {
  return globSync('/proc/[0-9]*/cmdline').flatMap(path => {
    try {
      const command = readFileSync(path, 'utf8').replaceAll('\0', ' ');
      return command.includes(folder) ? [command] : [];
    } catch {
      return [];
    }
  });
}

function callApi(cluster: Cluster, method: string, path: string, body?: object): Promise<unknown> {
  const { clusters, users } = JSON.parse(readFileSync(cluster.kubeconfigPath, 'utf8')) as Kubeconfig;
  const { server, 'certificate-authority-data': authority } = clusters[0].cluster;
  const options = {
    method,
    ca: Buffer.from(authority, 'base64'),
    headers: { authorization: `Bearer ${users[0].user.token}`, 'content-type': 'application/json' },
    agent: false,
  };
  return new Promise((resolve, reject) => {
    const call = request(`${server}${path}`, options, response => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('end', () => (response.statusCode! < 300 ? resolve(JSON.parse(text)) : reject(new Error(text))));
    });
    call.on('error', reject).end(body && JSON.stringify(body));
  });
}
