/**
 * Prints as JSON which node of the cluster this machine is (NodeSearch). A program of its own, which ends: a sensor has to know its name before it starts, and only the
 * gateway's code talks to Kubernetes. Where no cluster is configured it prints null; when the API server does not answer, or refuses, it fails with the reason.
 */
import { readFileSync } from 'node:fs';
import { searchNodes, type NodeSearch } from './node-search.ts';
import { createKubernetesApi, findKubernetes } from './kubernetes-api.ts';

const BOOT_ID = '/proc/sys/kernel/random/boot_id';

try {
  const access = await findKubernetes(process.env);
  const search: NodeSearch | null = access ? await searchNodes(createKubernetesApi(access), readFileSync(BOOT_ID, 'utf8').trim()) : null;
  process.stdout.write(`${JSON.stringify(search)}\n`);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
