/**
 * The process that owns a cluster: starts its parts, does what the test asks (lines of JSON on standard input), and takes everything down when
 * standard input ends, which it does whatever way the test dies. Started by cluster.ts, never by hand.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import {
  LOOPBACK,
  createControlPlane,
  readApi,
  startApiServer,
  startControllerManager,
  startEtcd,
  startScheduler,
  type ControlPlane,
} from './control-plane.ts';
import { acquireLock } from './lock.ts';
import { NODE_ADDRESS, joinCluster, prepareNode, removeNode } from './node.ts';
import type { Part } from './part.ts';
import type { ClusterScope } from './programs.ts';

/** The only argument, as JSON. */
export interface ClusterSpec {
  folder: string;
  scope: ClusterScope;
  nodeName: string;
  apiServerFlags: readonly string[];
  /** Outlives who started it, until SIGTERM. */
  detached: boolean;
}

/** Parts that a test may stop and start. */
export type RestartablePart = 'etcd' | 'kube-apiserver';
export interface ClusterRequest {
  id: number;
  action: 'stop' | 'start';
  part: RestartablePart;
}
/** The answer to request `id`; 0: the cluster is up. */
export interface ClusterReply {
  id: number;
  error?: string;
  etcdUrl?: string;
}

/** Another test file's node may be running; its tests take a few minutes at most. */
const NODE_LOCK_TIMEOUT_MS = 15 * 60_000;

const spec = JSON.parse(process.argv[2] ?? '') as ClusterSpec;
const parts = new Map<string, Part>();
let releaseNode: (() => Promise<void>) | undefined;
let takingDown: Promise<never> | undefined;

process.once('SIGTERM', () => void takeDown());
process.once('SIGINT', () => void takeDown());
const commands = spec.detached ? undefined : createInterface(process.stdin).once('close', () => void takeDown());
// Whoever listened is gone; standard input ends as well.
process.stdout.on('error', () => undefined);

// Held for life, so that a later process can tell that this one is dead, and sweep up after it.
await acquireLock(basename(spec.folder), 0);
try {
  const plane = await bringUp();
  commands?.on('line', line => void answer(JSON.parse(line) as ClusterRequest, plane));
  reply({ id: 0, etcdUrl: `http://127.0.0.1:${plane.etcdPort}` });
} catch (error) {
  reply({ id: 0, error: error instanceof Error ? error.message : String(error) });
  await takeDown();
}

async function bringUp(): Promise<ControlPlane> {
  const { folder, scope, nodeName, apiServerFlags } = spec;
  mkdirSync(folder, { recursive: true });
  if (scope === 'node') releaseNode = await acquireLock('node', spec.detached ? 0 : NODE_LOCK_TIMEOUT_MS);
  writeFileSync(join(folder, 'cluster.json'), JSON.stringify({ ...spec, pid: process.pid }));
  if (scope === 'node') keep(await prepareNode(folder));
  const plane = await createControlPlane(folder, scope === 'node' ? NODE_ADDRESS : LOOPBACK, apiServerFlags);
  keep(startEtcd(plane));
  keep(await startApiServer(plane));
  const controllers = startControllerManager(plane);
  keep(controllers);
  if (scope === 'node') {
    keep(startScheduler(plane));
    const node = await joinCluster(folder, nodeName);
    for (const part of node) keep(part);
    await node[0]!.waitUntil(async () => isNodeReady(await readApi(plane, `/api/v1/nodes/${nodeName}`)), 'Ready');
  }
  // The API server refuses pods until their namespace has its service account.
  await controllers.waitUntil(
    async () => (await readApi(plane, '/api/v1/namespaces/default/serviceaccounts/default')) !== undefined,
    'done with the default namespace',
  );
  return plane;
}

function isNodeReady(node: string | undefined): boolean {
  if (node === undefined) return false;
  const { status } = JSON.parse(node) as { status?: { conditions?: { type: string; status: string }[] } };
  return status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true;
}

/** While a cluster goes down, what its start still brings up is killed at once. */
function keep(part: Part): void {
  parts.set(part.name, part);
  if (takingDown) void part.kill();
}

async function answer({ id, action, part }: ClusterRequest, plane: ControlPlane): Promise<void> {
  try {
    if (action === 'stop') await parts.get(part)?.kill();
    else if (part === 'etcd') keep(startEtcd(plane));
    else keep(await startApiServer(plane));
    reply({ id });
  } catch (error) {
    reply({ id, error: error instanceof Error ? error.message : String(error) });
  }
}

function reply(message: ClusterReply): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function takeDown(): Promise<never> {
  takingDown ??= (async () => {
    // containerd last: a kubelet without it would only log.
    for (const part of [...parts.values()].reverse()) await part.kill();
    // Only who holds the lock knows that the pods of this machine are its own.
    if (releaseNode) await removeNode(spec.folder);
    rmSync(spec.folder, { recursive: true, force: true });
    process.exit(0);
  })();
  return takingDown;
}
