/** `npm run cluster -- up|down`: a cluster with a node, for people. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { BUSYBOX_IMAGE, launchCluster, prepareCluster, standingClusterFolder, sweepDeadClusters } from './cluster.ts';

const POLL_MS = 100;
const DOWN_TIMEOUT_MS = 60_000;

const actions = { up, down };
const action = process.argv[2];
if (action === 'up' || action === 'down') process.exitCode = await actions[action]();
else {
  process.stderr.write('usage: npm run cluster -- up|down\n');
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
Or install the chart: deploy/helm/tidegate/README.md. \`npm run cluster -- down\` ends the cluster.`;
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
