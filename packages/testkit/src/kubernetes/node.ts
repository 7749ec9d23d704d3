/**
 * A real node: containerd, runc, CNI, kubelet and kube-proxy, as root, without systemd or Docker. One at a time on a machine, because kubelet
 * keeps its pods under /kubepods in the machine's cgroups. removeNode leaves the machine as prepareNode found it.
 */
import { execFile } from 'node:child_process';
import {
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { get } from 'node:http';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { freePorts, kubeconfigPath } from './control-plane.ts';
import { buildBusyboxImage } from './image.ts';
import { startPart, type Part } from './part.ts';
import { partCommand } from './programs.ts';

/** Address of the node, and of the API server that serves it: on an interface of its own, so that nothing outside this machine reaches it. */
export const NODE_ADDRESS = '10.245.0.1';
/** Image that tests run; `imagePullPolicy: Never`. */
export const BUSYBOX_IMAGE = 'docker.io/library/busybox:1';

const PAUSE_IMAGE = 'docker.io/library/pause:1';
const POD_SUBNET = '10.244.0.0/22';
/** A bridge, because kernels without CONFIG_DUMMY have no dummy links. */
const NODE_LINK = 'tidegate-node';
const CNI_NETWORK = 'tidegate-testkit';
const MAX_PODS = 500;
const CGROUPS = '/sys/fs/cgroup';
/** Where kubelet, containerd and CNI write whatever their configuration says; those that end up empty are removed, children first. */
const STRAY_FOLDERS = [
  '/run/containerd/s',
  '/run/containerd',
  '/var/lib/cni/results',
  '/var/lib/cni/cache',
  '/var/lib/cni',
  '/var/lib/kubelet/device-plugins',
  '/var/lib/kubelet',
  '/var/log/containers',
  '/var/log/pods',
] as const;
/** What kubelet, kube-proxy and CNI change in /proc/sys. */
const SYSCTLS = [
  'kernel/keys/root_maxbytes',
  'kernel/keys/root_maxkeys',
  'kernel/panic',
  'kernel/panic_on_oops',
  'net/ipv4/conf/all/route_localnet',
  'net/ipv4/ip_forward',
  'vm/overcommit_memory',
  'vm/panic_on_oom',
];
/** kube-proxy shares this chain with kubelet, and so its own cleanup leaves it. */
const LEFT_IPTABLES_RULES = [
  ['-D', 'INPUT', '-j', 'KUBE-FIREWALL'],
  ['-D', 'OUTPUT', '-j', 'KUBE-FIREWALL'],
  ['-F', 'KUBE-FIREWALL'],
  ['-X', 'KUBE-FIREWALL'],
];
const ATTEMPTS = 100;
const ATTEMPT_INTERVAL_MS = 50;
const PROBE_TIMEOUT_MS = 2_000;

const execute = promisify(execFile);

/** Makes the node's address, on which the API server then listens, and starts containerd. */
export async function prepareNode(folder: string): Promise<Part> {
  if (globSync(`${CGROUPS}/{,*/}kubepods{,.slice}`).length > 0)
    throw new Error('a kubelet already keeps pods on this machine (/kubepods exists)');
  saveSysctls(folder);
  await execute('ip', ['link', 'add', NODE_LINK, 'type', 'bridge']);
  await execute('ip', ['address', 'add', `${NODE_ADDRESS}/32`, 'dev', NODE_LINK]);
  await execute('ip', ['link', 'set', NODE_LINK, 'up']);
  return startContainerd(folder);
}

/** Starts what needs the API server, whose kubeconfig is in `folder`; the node then becomes Ready by itself. */
export async function joinCluster(folder: string, nodeName: string): Promise<Part[]> {
  const [kubeletPort, kubeletHealthPort, proxyHealthPort, proxyMetricsPort] = await freePorts(4);
  const kubelet = startKubelet(folder, nodeName, kubeletPort!, kubeletHealthPort!);
  const proxy = startPart(folder, 'kube-proxy', [
    ...partCommand('kube-proxy'),
    `--kubeconfig=${kubeconfigPath(folder)}`,
    `--hostname-override=${nodeName}`,
    '--proxy-mode=iptables',
    '--iptables-localhost-nodeports=false',
    `--cluster-cidr=${POD_SUBNET}`,
    // 0: leave the machine's connection tracking as it is.
    '--conntrack-max-per-core=0',
    '--conntrack-tcp-timeout-established=0s',
    '--conntrack-tcp-timeout-close-wait=0s',
    `--healthz-bind-address=127.0.0.1:${proxyHealthPort}`,
    `--metrics-bind-address=127.0.0.1:${proxyMetricsPort}`,
  ]);
  await kubelet.waitUntil(() => isHealthy(kubeletHealthPort!), 'healthy');
  return [kubelet, proxy];
}

/** Socket of the node's containerd; images for pods belong in its namespace k8s.io. */
export function containerdSocket(folder: string): string {
  return join(folder, 'containerd.sock');
}

/** Imports an image archive (docker or OCI) for pods to use. */
export async function importImage(folder: string, archive: string): Promise<void> {
  await execute('ctr', ['--address', containerdSocket(folder), '--namespace', 'k8s.io', 'images', 'import', archive]);
}

/** Removes what a node leaves behind when all its programs are killed. Works from the folder alone, so that a later process can do it too. */
export async function removeNode(folder: string): Promise<void> {
  await killAll(containerProcesses);
  await killAll(() => shimProcesses(folder));
  for (const mount of mountsUnder(folder)) await execute('umount', ['--lazy', mount]).catch(() => undefined);
  await execute(partCommand('kube-proxy')[0], [...partCommand('kube-proxy').slice(1), '--cleanup']).catch(() => undefined);
  for (const rule of LEFT_IPTABLES_RULES) {
    for (const iptables of ['iptables', 'ip6tables']) await execute(iptables, rule).catch(() => undefined);
  }
  await execute('ip', ['link', 'delete', NODE_LINK]).catch(() => undefined);
  restoreSysctls(folder);
  await removeCgroups();
  removeStrayFiles(folder);
}

async function startContainerd(folder: string): Promise<Part> {
  mkdirSync(join(folder, 'cni'));
  // ptp routes each pod through the host, so that service addresses work between pods of one node without br_netfilter.
  const network = {
    cniVersion: '0.4.0',
    name: CNI_NETWORK,
    plugins: [
      {
        type: 'ptp',
        ipam: { type: 'host-local', ranges: [[{ subnet: POD_SUBNET }]], routes: [{ dst: '0.0.0.0/0' }], dataDir: join(folder, 'ipam') },
      },
    ],
  };
  writeFileSync(join(folder, 'cni', '10-pods.conflist'), JSON.stringify(network));
  // restrict_oom_score_adj: without CAP_SYS_RESOURCE a sandbox may not lower its score, and runc dies with "can't get final child's PID".
  // netns_mounts_under_state_dir, runc's Root: so that all a dead cluster leaves is in its folder.
  writeFileSync(
    join(folder, 'containerd.toml'),
    `version = 2
root = "${join(folder, 'containerd')}"
state = "${join(folder, 'containerd-state')}"
[grpc]
address = "${containerdSocket(folder)}"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
sandbox_image = "${PAUSE_IMAGE}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "${join(folder, 'cni')}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "${join(folder, 'runc')}"
`,
  );
  const containerd = startPart(folder, 'containerd', ['containerd', '--config', join(folder, 'containerd.toml')]);
  await containerd.waitUntil(() => existsSync(containerdSocket(folder)), 'listening');
  const images = [
    { tag: PAUSE_IMAGE, entrypoint: ['/bin/sleep', 'infinity'] },
    { tag: BUSYBOX_IMAGE, entrypoint: [] },
  ];
  for (const image of images) {
    const work = join(folder, `image-${basename(image.tag)}`);
    await importImage(folder, await buildBusyboxImage(work, image));
    rmSync(work, { recursive: true });
  }
  return containerd;
}

function startKubelet(folder: string, nodeName: string, port: number, healthPort: number): Part {
  const config = {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    address: NODE_ADDRESS,
    port,
    healthzPort: healthPort,
    authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
    authorization: { mode: 'AlwaysAllow' },
    cgroupDriver: 'cgroupfs',
    makeIPTablesUtilChains: false,
    failCgroupV1: false,
    failSwapOn: false,
    enforceNodeAllocatable: [],
    localStorageCapacityIsolation: false,
    containerRuntimeEndpoint: `unix://${containerdSocket(folder)}`,
    staticPodPath: staticPodFolder(folder),
    podLogsDir: join(folder, 'pod-logs'),
    volumePluginDir: join(folder, 'volume-plugins'),
    maxPods: MAX_PODS,
    // Tests start pods as fast as the node can.
    registryPullQPS: 0,
    eventRecordQPS: 0,
    kubeAPIQPS: 200,
    kubeAPIBurst: 400,
  };
  mkdirSync(staticPodFolder(folder));
  writeFileSync(join(folder, 'kubelet.json'), JSON.stringify(config));
  return startPart(folder, 'kubelet', [
    ...partCommand('kubelet'),
    `--config=${join(folder, 'kubelet.json')}`,
    `--kubeconfig=${kubeconfigPath(folder)}`,
    `--root-dir=${join(folder, 'kubelet')}`,
    `--cert-dir=${join(folder, 'kubelet-certificates')}`,
    `--hostname-override=${nodeName}`,
    `--node-ip=${NODE_ADDRESS}`,
  ]);
}

/** Manifests put here become static pods. */
export function staticPodFolder(folder: string): string {
  return join(folder, 'static-pods');
}

function isHealthy(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const call = get({ host: '127.0.0.1', port, path: '/healthz', timeout: PROBE_TIMEOUT_MS, agent: false }, response => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    call.on('timeout', () => call.destroy()).on('error', () => resolve(false));
  });
}

function saveSysctls(folder: string): void {
  const present = SYSCTLS.filter(name => existsSync(`/proc/sys/${name}`));
  writeFileSync(
    join(folder, 'sysctls.json'),
    JSON.stringify(Object.fromEntries(present.map(name => [name, readFileSync(`/proc/sys/${name}`, 'utf8')]))),
  );
}

function restoreSysctls(folder: string): void {
  const path = join(folder, 'sysctls.json');
  if (!existsSync(path)) return;
  const saved = JSON.parse(readFileSync(path, 'utf8')) as Record<string, string>;
  for (const [name, value] of Object.entries(saved)) {
    if (readFileSync(`/proc/sys/${name}`, 'utf8') !== value) writeFileSync(`/proc/sys/${name}`, value);
  }
}

/** Kills until none is left: a process may fork while it is being looked for. */
async function killAll(find: () => number[]): Promise<void> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const pids = find();
    if (pids.length === 0) return;
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It ended in between.
      }
    }
    await delay(ATTEMPT_INTERVAL_MS);
  }
}

function containerProcesses(): number[] {
  return globSync(`${CGROUPS}/{,*/}kubepods/**/cgroup.procs`).flatMap(path => {
    try {
      return readFileSync(path, 'utf8').split('\n').filter(Boolean).map(Number);
    } catch {
      return [];
    }
  });
}

/** containerd starts a shim for each pod, which outlives it. */
function shimProcesses(folder: string): number[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .filter(pid => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        return words[0]?.endsWith('containerd-shim-runc-v2') === true && words.includes(containerdSocket(folder));
      } catch {
        return false;
      }
    })
    .map(Number);
}

/** The deepest first. */
function mountsUnder(folder: string): string[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map(line => line.split(' ')[1] ?? '')
    .filter(path => path.startsWith(`${folder}/`))
    .reverse();
}

function removeStrayFiles(folder: string): void {
  const sockets = new Set(readFileSync('/proc/net/unix', 'utf8').split(/\s/));
  for (const stray of STRAY_FOLDERS.filter(path => existsSync(path))) {
    for (const entry of readdirSync(stray, { withFileTypes: true })) {
      const path = join(stray, entry.name);
      // A killed shim's socket; a link to a pod's log; CNI's record of a sandbox, which names its network namespace.
      const isOurs = entry.isSocket()
        ? !sockets.has(path)
        : entry.isSymbolicLink()
          ? readlinkSync(path).startsWith(`${folder}/`)
          : entry.isFile() && readFileSync(path, 'utf8').includes(`${folder}/`);
      if (isOurs) unlinkSync(path);
    }
    if (readdirSync(stray).length === 0) rmdirSync(stray);
  }
}

/** A cgroup stays busy for a moment after its last process died. */
async function removeCgroups(): Promise<void> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const cgroups = globSync(`${CGROUPS}/{,*/}kubepods{,/**/}`).sort((a, b) => b.length - a.length);
    if (cgroups.length === 0) return;
    let busy: unknown;
    for (const cgroup of cgroups) {
      try {
        rmdirSync(cgroup);
      } catch (error) {
        busy = error;
      }
    }
    if (busy !== undefined && attempt === ATTEMPTS - 1) throw busy as Error;
    await delay(ATTEMPT_INTERVAL_MS);
  }
}
