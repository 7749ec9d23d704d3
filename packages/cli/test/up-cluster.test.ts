/** `tidegate up` with a KUBECONFIG: what the sensor is called, and who has the pods when there are two. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { EventJson } from '@tidegate/contracts';
import { createHost, prepareCluster, startCluster, waitFor, type Cluster, type Host } from '@tidegate/testkit';
import { probeKernel } from '../src/up/kernel-probe.ts';
import { chooseNode, decideNode } from '../src/up/node-choice.ts';
import { demoCapturePath } from '../src/up/service-path.ts';
import { cleanEnvironment, freePorts, runCommand, startCommand, type RunningCommand } from './command-runner.ts';

const probe = await probeKernel(process.env);
const noCluster = (await prepareCluster('control-plane')) ?? false;
const noKernel = probe.ok ? false : probe.missing.join(' ');

const PROGRAMS = 40;

interface Kubeconfig {
  clusters: [{ cluster: { server: string; 'certificate-authority-data': string } }];
  users: [{ user: { token: string } }];
}

/** Makes a node that says it runs on a kernel with this boot id. */
async function createNode(cluster: Cluster, name: string, bootID: string): Promise<void> {
  const nodeInfo = { bootID, machineID: '', systemUUID: '', kernelVersion: '', osImage: '', containerRuntimeVersion: '' };
  const info = { ...nodeInfo, kubeletVersion: '', kubeProxyVersion: '', operatingSystem: 'linux', architecture: 'amd64' };
  const node = { apiVersion: 'v1', kind: 'Node', metadata: { name }, status: { nodeInfo: info } };
  const { clusters, users } = JSON.parse(readFileSync(cluster.kubeconfigPath, 'utf8')) as Kubeconfig;
  const { server, 'certificate-authority-data': authority } = clusters[0].cluster;
  await new Promise<void>((resolve, reject) => {
    const call = request(
      `${server}/api/v1/nodes`,
      {
        method: 'POST',
        ca: Buffer.from(authority, 'base64'),
        headers: { authorization: `Bearer ${users[0].user.token}`, 'content-type': 'application/json' },
        agent: false,
      },
      response => {
        response.resume();
        if (response.statusCode === 201) resolve();
        else reject(new Error(`status ${response.statusCode}`));
      },
    );
    call.on('error', reject).end(JSON.stringify(node));
  });
}

async function startUp(host: Host, more: readonly string[], env: NodeJS.ProcessEnv) {
  const ports = await freePorts(6);
  const args = ['--nats-port', String(ports), '--api-port', String(ports + 1), '--health-ports', String(ports + 2), ...more];
  const command = startCommand(['up', ...(more.includes('--data-dir') ? [] : ['--data-dir', join(host.folder(), 'data')]), ...args], {
    env,
  });
  host.defer(() => end(command));
  await waitFor(() => /Tidegate is ready[^]*npx tidegate events/.test(command.stdout()), {
    what: `up to be ready: ${command.stderr()}`,
    timeoutMs: 60_000,
  });
  const api = `http://127.0.0.1:${ports + 1}`;
  return { command, api, nats: `nats://127.0.0.1:${ports}`, status: () => runCommand(['status', '--api', api]) };
}

async function end(command: RunningCommand): Promise<void> {
  command.child.kill('SIGTERM');
  await command.ended;
}

test(
  'the sensor is called as the cluster calls this machine; a second up says who has the pods, and takes over',
  {
    skip: noCluster || noKernel,
  },
  async () => {
    await using host = createHost();
    const cluster = await startCluster();
    host.defer(() => cluster.stop());
    await createNode(cluster, 'other.test', 'ffffffff-0000-4000-8000-000000000000');
    await createNode(cluster, 'here.test', readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim());
    const env = { KUBECONFIG: cluster.kubeconfigPath, TIDEGATE_PIN_DIRECTORY: join(host.bpffs(), 'tidegate') };

    const first = await startUp(host, [], env);
    assert.match(first.command.stdout(), /^node here\.test, as the cluster calls this machine/m);
    assert.match(first.command.stdout(), /Tidegate is ready[^]*\n {2}pods {4}of Kubernetes at https:\/\/127\.0\.0\.1/);
    assert.match((await first.status()).stdout, /^ {2}here\.test {2}up for/m);

    const second = await startUp(host, ['--play', demoCapturePath()], env);
    const [, holder] =
      /^ {2}pods {4}none: (\S+), another gateway, holds the Lease default\/tidegate-enforcer-gateway/m.exec(second.command.stdout()) ?? [];
    assert.ok(holder, second.command.stdout());
    const waits = await second.status();
    assert.equal(waits.code, 1);
    assert.match(waits.stdout, new RegExp(`^ {2}gateway {4}\\S+ waits for ${holder}, `, 'm'));
    assert.match(
      waits.stdout,
      new RegExp(`^! events get no pods: ${holder}, a gateway of another installation, holds the Lease .* since `, 'm'),
    );

    await end(first.command);
    await waitFor(async () => /^ {2}gateway {4}\S+ leads, /m.test((await second.status()).stdout), {
      what: 'it to take over',
      timeoutMs: 30_000,
    });
    assert.doesNotMatch((await second.status()).stdout, /events get no pods/);
  },
);

test('two on one machine each have every event, and one that gets another name leaves no node behind', { skip: noKernel }, async () => {
  await using host = createHost();
  const folder = host.folder();
  const first = await startUp(host, ['--data-dir', folder], { TIDEGATE_NODE: 'first.test' });
  const second = await startUp(host, [], { TIDEGATE_NODE: 'second.test' });
  assert.match(second.command.stdout(), /reading kernel events .* resumed=false/, 'the rings of the first are not its own');
  const mark = `tidegate-test-${process.pid}`;
  const seen = async ({ api }: typeof first) => {
    const { stdout } = await runCommand(['events', '--api', api, '--no-follow', '--kind', 'exec', '--text', mark, '-o', 'ndjson']);
    const events = stdout.split('\n').slice(0, -1);
    // The commands that ask have the mark too.
    return events.filter(line => (JSON.parse(line) as EventJson).process?.arguments[0] === '/bin/true').length;
  };
  for (let i = 0; i < PROGRAMS; i++) execFileSync('/bin/true', [mark], { env: cleanEnvironment() });
  for (const up of [first, second]) await waitFor(async () => (await seen(up)) === PROGRAMS, { what: 'every program', timeoutMs: 30_000 });

  await end(first.command);
  const renamed = await startUp(host, ['--data-dir', folder], { TIDEGATE_NODE: 'renamed.test' });
  assert.match(renamed.command.stdout(), /^this machine was node first\.test before: that node has left/m);
  const { stdout } = await runCommand(['node', 'list', '--all', '--api', renamed.api]);
  assert.match(stdout, /^first\.test +left [^]*^renamed\.test +up /m);
  for (let i = 0; i < PROGRAMS; i++) execFileSync('/bin/true', [mark], { env: cleanEnvironment() });
  await waitFor(async () => (await seen(renamed)) === 2 * PROGRAMS, { what: 'events of both names', timeoutMs: 30_000 });
  await end(renamed.command);
  // Back again: each name goes on with its own numbers.
  const again = await startUp(host, ['--data-dir', folder], { TIDEGATE_NODE: 'first.test' });
  const audit = await runCommand(['audit', '--nats', again.nats]);
  assert.equal(audit.code, 0, audit.stdout);
  assert.doesNotMatch(audit.stdout, /raw_discarded/);
});

test('a cluster that cannot be asked leaves the name as it is, and the reason is said', async () => {
  await using host = createHost();
  const kubeconfig = join(host.folder(), 'kubeconfig');
  const off = { name: 'off', cluster: { server: 'https://127.0.0.1:1' } };
  const contexts = [{ name: 'off', context: { cluster: 'off', user: 'off' } }];
  const users = [{ name: 'off', user: {} }];
  writeFileSync(
    kubeconfig,
    JSON.stringify({ apiVersion: 'v1', kind: 'Config', 'current-context': 'off', clusters: [off], contexts, users }),
  );
  const unasked = await chooseNode(cleanEnvironment({ KUBECONFIG: kubeconfig }));
  assert.deepEqual([unasked.node, unasked.level], [undefined, 'warn']);
  assert.match(unasked.text, new RegExp(`^node ${hostname()}: .*ECONNREFUSED.*set TIDEGATE_NODE$`));
  assert.equal((await chooseNode(cleanEnvironment({ KUBECONFIG: kubeconfig, TIDEGATE_NODE: 'a' }))).level, 'info');
  const missing = await chooseNode(cleanEnvironment({ KUBECONFIG: join(host.folder(), 'none') }));
  assert.match(missing.text, /no such file/);
});

test('a name is chosen only where it is sure, and one that the user set holds', () => {
  const search = (here: string[], some = ['a', 'b']) => ({ here, some, count: 12 });
  const cases: [here: string[], configured: string | undefined, node: string | undefined, level: string, text: RegExp][] = [
    [['a'], undefined, 'a', 'info', /^node a, as the cluster calls this machine/],
    [[], undefined, undefined, 'info', /^node box, by its host name: .* none of the cluster's nodes \(it has 12: a, b, …\)/],
    [['a', 'b'], undefined, undefined, 'warn', /^node box, .*several nodes .*\(a, b\).*TIDEGATE_NODE/],
    [['a'], 'a', undefined, 'info', /^node a, by TIDEGATE_NODE, as/],
    [['a'], 'x', undefined, 'warn', /^node x, by TIDEGATE_NODE; the cluster calls this machine a: pods get no identity/],
    [[], 'x', undefined, 'warn', /^node x, by TIDEGATE_NODE; this machine is none of/],
  ];
  for (const [here, configured, node, level, text] of cases) {
    const choice = decideNode(search(here), configured, 'box');
    assert.deepEqual([choice.node, choice.level], [node, level]);
    assert.match(choice.text, text);
  }
});
