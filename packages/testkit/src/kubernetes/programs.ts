/**
 * Where the cluster's programs come from. Kubernetes' own parts: KUBEBUILDER_ASSETS, then PATH, then one Go program (./go) that is all of
 * them, built once into a cache. What a node needs beside them: PATH, then Debian's packages.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { acquireLock } from './lock.ts';

/** `control-plane`: etcd, API server and controllers, enough for whoever talks to the API alone. `node`: a kubelet as well, so that pods run. */
export type ClusterScope = 'control-plane' | 'node';

const KUBERNETES_PARTS = {
  'control-plane': ['etcd', 'kube-apiserver', 'kube-controller-manager'],
  node: ['etcd', 'kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubelet', 'kube-proxy'],
} as const;
export type KubernetesPart = (typeof KUBERNETES_PARTS)[ClusterScope][number];

/** What a node needs beside Kubernetes: the Debian package, and a file that shows that it is there. */
const NODE_PACKAGES = [
  { name: 'containerd', program: 'containerd' },
  { name: 'runc', program: 'runc' },
  { name: 'containernetworking-plugins', program: '/usr/lib/cni/bridge' },
  { name: 'iproute2', program: 'ip' },
  { name: 'iptables', program: 'iptables' },
  { name: 'busybox-static', program: 'busybox' },
];

export const KUBERNETES_VERSION = '1.36.3';
/** Minor version of Go that ./go/go.mod asks for. */
const GO_MINOR = 26;
/** On two cores a first build takes 8 minutes, and tests of several files wait for the one that builds. */
const BUILD_TIMEOUT_MS = 30 * 60_000;
const INSTALL_TIMEOUT_MS = 5 * 60_000;
const OUTPUT_MAX_BYTES = 16 * 1024 * 1024;

// From src/kubernetes and from dist/kubernetes alike.
const goModule = fileURLToPath(new URL('../../src/kubernetes/go/', import.meta.url));
const execute = promisify(execFile);

/**
 * Gets everything ready that a cluster of `scope` needs, which takes minutes once on a new machine.
 * @returns why a cluster cannot be had on this machine, for a test's `skip`; undefined: startCluster works
 */
export async function prepareCluster(scope: ClusterScope = 'control-plane'): Promise<string | undefined> {
  if (process.platform !== 'linux') return `a Kubernetes cluster for tests needs Linux, this is ${process.platform}`;
  if (scope === 'node') {
    if (process.getuid?.() !== 0) return 'a Kubernetes node for tests needs root';
    const missing = NODE_PACKAGES.filter(({ program }) => findProgram(program) === undefined).map(({ name }) => name);
    if (missing.length > 0) {
      if (findProgram('apt-get') === undefined)
        return `a Kubernetes node for tests needs ${missing.join(', ')}, and there is no apt-get to install them`;
      await installPackages(missing);
    }
  }
  if (KUBERNETES_PARTS[scope].every(part => findPart(part) !== undefined)) return undefined;
  const fault = await goFault();
  if (fault !== undefined)
    return `a Kubernetes cluster for tests needs ${KUBERNETES_PARTS[scope].join(', ')} in PATH or KUBEBUILDER_ASSETS, or ${fault}`;
  await buildKubernetes();
  return undefined;
}

/** Command line that starts one part of Kubernetes, once prepareCluster has run. */
export function partCommand(part: KubernetesPart): [program: string, ...args: string[]] {
  const found = findPart(part);
  return found === undefined ? [builtProgram(), part] : [found];
}

/** Path of a program, looked up in PATH and where Debian keeps root's; undefined: not there. */
export function findProgram(name: string): string | undefined {
  const folders = name.startsWith('/') ? [''] : [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  return folders.map(folder => join(folder, name)).find(isExecutable);
}

function findPart(part: KubernetesPart): string | undefined {
  const assets = process.env.KUBEBUILDER_ASSETS;
  const asset = assets === undefined ? undefined : join(assets, part);
  return asset !== undefined && isExecutable(asset) ? asset : findProgram(part);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Named after its source, so that a change of version or of the parts in it is built anew. */
function builtProgram(): string {
  const source = createHash('sha256');
  for (const file of ['main.go', 'go.mod', 'go.sum']) source.update(readFileSync(join(goModule, file)));
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache');
  return join(cache, 'tidegate', `kubernetes-${KUBERNETES_VERSION}-${source.digest('hex').slice(0, 12)}`);
}

async function goFault(): Promise<string | undefined> {
  const wanted = `Go 1.${GO_MINOR} or newer to build them`;
  if (existsSync(builtProgram())) return undefined;
  if (findProgram('go') === undefined) return `${wanted}; there is no Go`;
  const { stdout } = await execute('go', ['env', 'GOVERSION']);
  const minor = Number(/^go1\.(\d+)/.exec(stdout)?.[1] ?? 0);
  return minor < GO_MINOR ? `${wanted}; there is ${stdout.trim()}` : undefined;
}

async function buildKubernetes(): Promise<void> {
  const program = builtProgram();
  if (existsSync(program)) return;
  const release = await acquireLock('kubernetes-build', BUILD_TIMEOUT_MS);
  const partial = `${program}.partial`;
  try {
    if (existsSync(program)) return;
    mkdirSync(join(program, '..'), { recursive: true });
    process.stderr.write(`testkit: building Kubernetes ${KUBERNETES_VERSION}, once: about 8 minutes on two cores\n`);
    // client-go sends the version as its user agent, and the API server answers it at /version.
    const flags = `-s -w -X k8s.io/component-base/version.gitVersion=v${KUBERNETES_VERSION}`;
    await execute('go', ['build', '-trimpath', '-buildvcs=false', '-ldflags', flags, '-o', partial, '.'], {
      cwd: goModule,
      timeout: BUILD_TIMEOUT_MS,
      maxBuffer: OUTPUT_MAX_BYTES,
    });
    renameSync(partial, program);
  } finally {
    rmSync(partial, { force: true });
    await release();
  }
}

/** Debian packages, by one process of the machine at a time. */
export async function installPackages(names: readonly string[]): Promise<void> {
  const release = await acquireLock('packages', INSTALL_TIMEOUT_MS);
  try {
    const options = {
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
      timeout: INSTALL_TIMEOUT_MS,
      maxBuffer: OUTPUT_MAX_BYTES,
    };
    await execute('apt-get', ['update', '-qq'], options);
    await execute('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...names], options);
  } finally {
    await release();
  }
}
