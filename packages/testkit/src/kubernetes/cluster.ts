/** Real Kubernetes clusters for tests: a control plane in about 4 s, a node on which pods run in about 10 s. */
import { spawn } from 'node:child_process';
import { mkdtempSync, globSync, readFileSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { ClusterReply, ClusterRequest, ClusterSpec, RestartablePart } from './cluster-process.ts';
import { kubeconfigPath } from './control-plane.ts';
import { acquireLock } from './lock.ts';
import { BUSYBOX_IMAGE, containerdSocket, importImage, removeNode, staticPodFolder } from './node.ts';
import type { ClusterScope } from './programs.ts';

export { prepareCluster, type ClusterScope } from './programs.ts';
export { BUSYBOX_IMAGE };

export interface ClusterOptions {
  /** Default: control-plane. */
  scope?: ClusterScope;
  /** Of the node, with scope `node`. */
  nodeName?: string;
  /** Further flags of kube-apiserver. */
  apiServerFlags?: readonly string[];
}

export interface Cluster {
  readonly folder: string;
  /** File for KUBECONFIG: a cluster administrator. */
  readonly kubeconfigPath: string;
  readonly etcdUrl: string;
  /** Manifests put here become static pods (scope `node`). */
  readonly staticPodFolder: string;
  /** Socket of the node's containerd (scope `node`). */
  readonly containerdSocket: string;
  /** Imports an image archive for pods with `imagePullPolicy: Never` (scope `node`). */
  importImage(archive: string): Promise<void>;
  /** Kills a part as a crash would. */
  stopPart(part: RestartablePart): Promise<void>;
  /** Starts a stopped part again, on the same port and data. */
  startPart(part: RestartablePart): Promise<void>;
  /** Takes everything down; resolves when nothing is left. The same happens by itself when this process dies. */
  stop(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

const FOLDER_PREFIX = 'tidegate-cluster-';
const ownExtension = import.meta.url.endsWith('.ts') ? '.ts' : '.js';
const clusterProcess = fileURLToPath(new URL(`./cluster-process${ownExtension}`, import.meta.url));

/** Starts a cluster of its own for the calling test; prepareCluster must have said that it can. */
export async function startCluster({
  scope = 'control-plane',
  nodeName = 'node-a',
  apiServerFlags = [],
}: ClusterOptions = {}): Promise<Cluster> {
  await sweepDeadClusters();
  return launchCluster({ folder: mkdtempSync(join(tmpdir(), FOLDER_PREFIX)), scope, nodeName, apiServerFlags, detached: false });
}

/** Folder of the one cluster that people start by hand. */
export const standingClusterFolder = join(tmpdir(), `${FOLDER_PREFIX}standing`);

/** Starts the process that owns a cluster; resolves when the cluster is up. */
export async function launchCluster(spec: ClusterSpec): Promise<Cluster> {
  const { folder } = spec;
  const child = spawn(process.execPath, [clusterProcess, JSON.stringify(spec)], {
    // A session of its own: Ctrl-C in a terminal reaches the test, whose end then reaches the cluster.
    detached: true,
    stdio: [spec.detached ? 'ignore' : 'pipe', 'pipe', 'inherit'],
  });
  const waiting = new Map<number, { resolve: (reply: ClusterReply) => void; reject: (error: Error) => void }>();
  const answered = (id: number) => new Promise<ClusterReply>((resolve, reject) => waiting.set(id, { resolve, reject }));
  let lastId = 0;
  const ended = new Promise<void>(resolve => {
    child.once('close', () => {
      for (const { reject } of waiting.values()) reject(new Error('the cluster is down'));
      waiting.clear();
      resolve();
    });
  });
  createInterface(child.stdout!).on('line', line => {
    const reply = JSON.parse(line) as ClusterReply;
    const request = waiting.get(reply.id);
    waiting.delete(reply.id);
    if (reply.error === undefined) request?.resolve(reply);
    else request?.reject(new Error(reply.error));
  });
  const ask = async (action: ClusterRequest['action'], part: RestartablePart) => {
    const id = ++lastId;
    child.stdin?.write(`${JSON.stringify({ id, action, part } satisfies ClusterRequest)}\n`);
    await answered(id);
  };
  const { etcdUrl = '' } = await answered(0);
  // A test that forgot to stop its cluster ends all the same, and the cluster with it.
  child.unref();
  for (const pipe of [child.stdin, child.stdout]) (pipe as Socket | null)?.unref();
  const stop = async () => {
    child.ref();
    (child.stdout as Socket).ref();
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
    await ended;
  };
  return {
    folder,
    kubeconfigPath: kubeconfigPath(folder),
    etcdUrl,
    staticPodFolder: staticPodFolder(folder),
    containerdSocket: containerdSocket(folder),
    importImage: archive => importImage(folder, archive),
    stopPart: part => ask('stop', part),
    startPart: part => ask('start', part),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** Removes what is left of clusters whose owning process was killed. */
export async function sweepDeadClusters(): Promise<void> {
  for (const folder of globSync(join(tmpdir(), `${FOLDER_PREFIX}*`))) {
    let spec: ClusterSpec;
    try {
      spec = JSON.parse(readFileSync(join(folder, 'cluster.json'), 'utf8')) as ClusterSpec;
    } catch {
      continue; // Being made at this moment.
    }
    // Its owner holds this lock for life.
    const release = await acquireLock(basename(folder), 0).catch(() => undefined);
    if (!release) continue;
    if (spec.scope === 'node') await removeNode(folder);
    rmSync(folder, { recursive: true, force: true });
    await release();
  }
}
