/** `npm run cluster -- up|load|down`: a cluster with a node, for people. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { provideHelm } from '../helm.ts';
import { IMAGES, buildImages, prepareImages } from '../images.ts';
import { BUSYBOX_IMAGE, launchCluster, prepareCluster, standingClusterFolder, sweepDeadClusters } from './cluster.ts';
import { kubeconfigPath } from './control-plane.ts';
import { importImage } from './node.ts';

const POLL_MS = 100;
/** Images and containers are gigabytes of files where there is no overlayfs. */
const DOWN_TIMEOUT_MS = 5 * 60_000;

const actions = { up, load, down };
const action = process.argv[2];
if (action === 'up' || action === 'load' || action === 'down') process.exitCode = await actions[action]();
else {
  process.stderr.write('usage: npm run cluster -- up|load|down\n');
  process.exitCode = 2;
}

async function up(): Promise<number> {
  const unavailable = await prepareCluster('node');
  if (unavailable !== undefined) {
    process.stderr.write(`${unavailable}\n`);
    return 1;
  }
  await sweepDeadClusters();
  if (existsSync(standingClusterFolder)) {
    process.stderr.write('a cluster is up already: npm run cluster -- down\n');
    return 1;
  }
  try {
    const cluster = await launchCluster({
      folder: standingClusterFolder,
      scope: 'node',
      nodeName: 'node-a',
      apiServerFlags: [],
      detached: true,
    });
    process.stdout.write(`export KUBECONFIG=${cluster.kubeconfigPath}\n`);
    process.stderr.write(`${nextSteps(cluster.kubeconfigPath)}\n`);
  } catch (error) {
    process.stderr.write(`the cluster did not come up: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
  return 0;
}

function nextSteps(kubeconfig: string): string {
  return `
The cluster is up. Watch it with Tidegate, here and as root:
  KUBECONFIG=${kubeconfig} npm start
In another terminal, start a pod and see what it does (there is one image, and it is never pulled):
  KUBECONFIG=${kubeconfig} kubectl run hello --image ${BUSYBOX_IMAGE} --image-pull-policy Never -- sh -c 'while sleep 1; do date; done'
  npx tidegate events -n default
To install the chart instead: \`npm run cluster -- load\`. \`npm run cluster -- down\` ends the cluster.`;
}

/** The images of this checkout, for the chart with values-cluster.yaml. */
async function load(): Promise<number> {
  if (!existsSync(join(standingClusterFolder, 'cluster.json'))) {
    process.stderr.write('no cluster is up: npm run cluster -- up\n');
    return 1;
  }
  const unavailable = await prepareImages();
  if (unavailable !== undefined) {
    process.stderr.write(`${unavailable}\n`);
    return 1;
  }
  const folder = mkdtempSync(join(tmpdir(), 'tidegate-images-'));
  try {
    process.stderr.write('building the images\n');
    const { archives, registry, tag } = await buildImages(folder);
    for (const name of IMAGES) {
      process.stderr.write(`${registry}/${name}:${tag}\n`);
      await importImage(standingClusterFolder, archives[name]);
      rmSync(archives[name]);
    }
  } catch (error) {
    process.stderr.write(`the images could not be loaded: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const helm = await provideHelm();
  process.stderr.write(`${installSteps(helm.path ?? 'helm')}\n`);
  return 0;
}

function installSteps(helm: string): string {
  return `
The images are on the cluster's node. Install the chart and watch it:
  export KUBECONFIG=${kubeconfigPath(standingClusterFolder)}
  kubectl create namespace tidegate
  ${helm} install tidegate deploy/helm/tidegate -n tidegate -f deploy/helm/tidegate/values-cluster.yaml --wait
  kubectl -n tidegate exec deploy/tidegate-api -- tidegate events`;
}

async function down(): Promise<number> {
  await sweepDeadClusters();
  const record = join(standingClusterFolder, 'cluster.json');
  if (!existsSync(record)) return 0;
  const { pid } = JSON.parse(readFileSync(record, 'utf8')) as { pid: number };
  process.kill(pid, 'SIGTERM');
  const deadlineMs = performance.now() + DOWN_TIMEOUT_MS;
  while (existsSync(standingClusterFolder)) {
    if (performance.now() > deadlineMs) {
      process.stderr.write(`the cluster did not go down in ${DOWN_TIMEOUT_MS} ms (process ${pid})\n`);
      return 1;
    }
    await delay(POLL_MS);
  }
  return 0;
}
