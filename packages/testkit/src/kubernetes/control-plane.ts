/** etcd, API server, controllers and scheduler, each on ports and in folders of its own. */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { get } from 'node:https';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { startPart, type Part } from './part.ts';
import { partCommand } from './programs.ts';

export interface ControlPlane {
  /** Holds every file of the cluster. */
  folder: string;
  /** Where the API server listens. */
  address: string;
  apiPort: number;
  etcdPort: number;
  etcdPeerPort: number;
  /** Of the user `admin`. */
  token: string;
  apiServerFlags: readonly string[];
}

/** Address of a control plane without a node. */
export const LOOPBACK = '127.0.0.1';

const PROBE_TIMEOUT_MS = 2_000;
const SERVICE_SUBNET = '10.96.0.0/16';
const ETCD_QUOTA_BYTES = 6 * 1024 ** 3;

/** Chooses ports and makes keys; starts nothing. */
export async function createControlPlane(folder: string, address: string, apiServerFlags: readonly string[]): Promise<ControlPlane> {
  const [apiPort, etcdPort, etcdPeerPort] = await freePorts(3);
  const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  writeFileSync(join(folder, 'service-account.key'), privateKey.export({ type: 'pkcs1', format: 'pem' }), { mode: 0o600 });
  writeFileSync(join(folder, 'service-account.pub'), publicKey.export({ type: 'spki', format: 'pem' }));
  const token = randomBytes(16).toString('hex');
  writeFileSync(join(folder, 'tokens.csv'), `${token},admin,admin,"system:masters"\n`, { mode: 0o600 });
  return { folder, address, apiPort: apiPort!, etcdPort: etcdPort!, etcdPeerPort: etcdPeerPort!, token, apiServerFlags };
}

export function kubeconfigPath(folder: string): string {
  return join(folder, 'kubeconfig');
}

export function startEtcd({ folder, etcdPort, etcdPeerPort }: ControlPlane): Part {
  const clientUrl = `http://127.0.0.1:${etcdPort}`;
  const peerUrl = `http://127.0.0.1:${etcdPeerPort}`;
  return startPart(folder, 'etcd', [
    ...partCommand('etcd'),
    `--data-dir=${join(folder, 'etcd')}`,
    `--listen-client-urls=${clientUrl}`,
    `--advertise-client-urls=${clientUrl}`,
    `--listen-peer-urls=${peerUrl}`,
    `--initial-advertise-peer-urls=${peerUrl}`,
    `--initial-cluster=default=${peerUrl}`,
    `--quota-backend-bytes=${ETCD_QUOTA_BYTES}`,
    // The data goes with the cluster, so that waiting for the disk buys nothing.
    '--unsafe-no-fsync',
    '--log-level=warn',
  ]);
}

/** Resolves when the API server is ready; the first time it also writes the kubeconfig. */
export async function startApiServer(plane: ControlPlane): Promise<Part> {
  const { folder, address, apiPort, etcdPort, apiServerFlags } = plane;
  const part = startPart(folder, 'kube-apiserver', [
    ...partCommand('kube-apiserver'),
    `--etcd-servers=http://127.0.0.1:${etcdPort}`,
    `--bind-address=${address}`,
    `--advertise-address=${address}`,
    `--secure-port=${apiPort}`,
    `--cert-dir=${join(folder, 'apiserver')}`,
    `--service-account-key-file=${join(folder, 'service-account.pub')}`,
    `--service-account-signing-key-file=${join(folder, 'service-account.key')}`,
    '--service-account-issuer=https://kubernetes.default.svc',
    `--service-cluster-ip-range=${SERVICE_SUBNET}`,
    `--token-auth-file=${join(folder, 'tokens.csv')}`,
    '--authorization-mode=Node,RBAC',
    '--allow-privileged',
    '--kubelet-preferred-address-types=InternalIP',
    // Endpoints of the service `kubernetes` may not be loopback addresses, and without a node nobody uses them.
    `--endpoint-reconciler-type=${address === LOOPBACK ? 'none' : 'lease'}`,
    ...apiServerFlags,
  ]);
  await part.waitUntil(async () => (await readApi(plane, '/readyz')) !== undefined, 'ready');
  if (!existsSync(kubeconfigPath(folder))) writeKubeconfig(plane);
  return part;
}

export function startControllerManager({ folder }: ControlPlane): Part {
  return startPart(folder, 'kube-controller-manager', [
    ...partCommand('kube-controller-manager'),
    `--kubeconfig=${kubeconfigPath(folder)}`,
    `--service-account-private-key-file=${join(folder, 'service-account.key')}`,
    `--root-ca-file=${certificatePath(folder)}`,
    '--use-service-account-credentials',
    '--leader-elect=false',
    '--secure-port=0',
  ]);
}

export function startScheduler({ folder }: ControlPlane): Part {
  return startPart(folder, 'kube-scheduler', [
    ...partCommand('kube-scheduler'),
    `--kubeconfig=${kubeconfigPath(folder)}`,
    '--leader-elect=false',
    '--secure-port=0',
  ]);
}

/** What the API server answers at a path; undefined: no answer, or not status 200. */
export function readApi({ folder, address, apiPort, token }: ControlPlane, path: string): Promise<string | undefined> {
  if (!existsSync(certificatePath(folder))) return Promise.resolve(undefined);
  return new Promise(resolve => {
    const ca = readFileSync(certificatePath(folder));
    const headers = { authorization: `Bearer ${token}` };
    const call = get({ host: address, port: apiPort, path, ca, headers, timeout: PROBE_TIMEOUT_MS, agent: false }, response => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      response.on('end', () => resolve(response.statusCode === 200 ? body : undefined));
    });
    call.on('timeout', () => call.destroy()).on('error', () => resolve(undefined));
  });
}

/** TCP ports nobody listens on. Another process could take one before the cluster does; nothing else picks ports this way here. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  await Promise.all(servers.map(server => new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))));
  const ports = servers.map(server => (server.address() as AddressInfo).port);
  await Promise.all(servers.map(server => new Promise(resolve => server.close(resolve))));
  return ports;
}

/** The API server signs itself a certificate; the file holds its authority too. */
function certificatePath(folder: string): string {
  return join(folder, 'apiserver', 'apiserver.crt');
}

function writeKubeconfig({ folder, address, apiPort, token }: ControlPlane): void {
  const authority = readFileSync(certificatePath(folder)).toString('base64');
  const kubeconfig = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'test', cluster: { server: `https://${address}:${apiPort}`, 'certificate-authority-data': authority } }],
    users: [{ name: 'admin', user: { token } }],
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'admin' } }],
    'current-context': 'test',
  };
  // JSON is YAML.
  writeFileSync(kubeconfigPath(folder), JSON.stringify(kubeconfig, undefined, 2), { mode: 0o600 });
}
