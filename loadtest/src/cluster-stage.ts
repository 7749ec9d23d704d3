/** A real Kubernetes control plane, a real nats-server, and the gateway as it runs in a pod: a process with a service account. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import { BUCKETS, STREAMS, bytesCodec } from '@tidegate/contracts';
import {
  createBuckets,
  createLogger,
  createStreamReaders,
  ensureBuckets,
  ensureStreams,
  NatsRole,
  type BucketEntry,
  type StreamReaders,
} from '@tidegate/runtime';
import { connectAs, createHost, prepareCluster, roleUsers, startCluster, startNatsServer } from '@tidegate/testkit';
import { adminAccess, openApiServer, type ApiAccess, type ApiServer } from './api-server.ts';
import { startServiceProcess, type ServiceProcess } from './service-process.ts';

export interface ClusterStage {
  api: ApiServer;
  /** Of etcd's HTTP gateway. */
  etcdUrl: string;
  nc: NatsConnection;
  readers: StreamReaders;
  /** Resolves when it leads. */
  startGateway(): Promise<ServiceProcess>;
  /** Resolves when it is ready. */
  startEnricher(): Promise<ServiceProcess>;
  /** A service account that may do this to pods, as whom to ask the API server. */
  createAccount(name: string, rules: readonly object[]): Promise<ApiAccess>;
  /** Follows KV `pods`. */
  mirrorPods(): PodMirror;
  /** All requests so far but the benchmark's own and those of Kubernetes' parts, from the API server's audit log. */
  requests(): AccountRequest[];
  [Symbol.asyncDispose](): Promise<void>;
}

export interface PodMirror {
  readonly entries: ReadonlyMap<string, Uint8Array>;
  /** When each key was first stored, milliseconds since 1970. */
  readonly firstStoredMs: ReadonlyMap<string, number>;
}

export interface AccountRequest {
  /** A service account of Tidegate's namespace, else the user. */
  account: string;
  verb: string;
  resource: string;
}

const NAMESPACE = 'tidegate';
const ACCOUNT_PREFIX = `system:serviceaccount:${NAMESPACE}:`;
const LINGER_MS = 5_000;
const TOKEN_SECONDS = 4 * 3600;
/** As the gateway's README lists them. */
const GATEWAY_RULES = [
  { apiGroups: [''], resources: ['pods', 'nodes', 'services'], verbs: ['list', 'watch'] },
  { apiGroups: [''], resources: ['namespaces'], resourceNames: ['kube-system'], verbs: ['get'] },
  { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
  { apiGroups: ['apps'], resources: ['replicasets'], verbs: ['list', 'watch'] },
  { apiGroups: ['batch'], resources: ['jobs'], verbs: ['list', 'watch'] },
  { apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs: ['get', 'create', 'update'] },
];
/** Runs a program with the files that a kubelet mounts, which only it sees. */
const IN_POD = [
  'mount -t tmpfs none /run',
  'mkdir -p /run/secrets/kubernetes.io/serviceaccount',
  'cp "$0"/* /run/secrets/kubernetes.io/serviceaccount',
  'exec "$@"',
].join(' && ');

export async function setClusterStage(): Promise<ClusterStage> {
  const fault = await prepareCluster('control-plane');
  if (fault !== undefined) throw new Error(fault);
  const host = createHost();
  try {
    return await build(host);
  } catch (error) {
    await host[Symbol.asyncDispose]();
    throw error;
  }
}

async function build(host: ReturnType<typeof createHost>): Promise<ClusterStage> {
  const auditFolder = host.folder();
  const auditLog = join(auditFolder, 'audit.log');
  writeFileSync(join(auditFolder, 'policy.yaml'), JSON.stringify(AUDIT_POLICY));
  const cluster = await startCluster({
    scope: 'control-plane',
    apiServerFlags: [`--audit-policy-file=${join(auditFolder, 'policy.yaml')}`, `--audit-log-path=${auditLog}`],
  });
  host.defer(() => cluster.stop());
  const access = adminAccess(cluster.kubeconfigPath);
  const api = openApiServer(access, 'tidegate-bench');
  host.defer(() => api.close());
  await api.call('POST', '/api/v1/namespaces', { apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE } });

  const nats = await startNatsServer({ users: roleUsers([NatsRole.admin, NatsRole.gateway, NatsRole.enricher]) });
  host.defer(() => nats.stop());
  const nc = await connectAs(NatsRole.admin, nats.url, host);
  await ensureStreams(nc, Object.values(STREAMS));
  await ensureBuckets(nc, Object.values(BUCKETS));
  const readers = await createStreamReaders(nc);
  host.defer(() => readers.close());
  const buckets = await createBuckets({ nc, logger: createLogger({ name: 'stage', level: 'silent' }) });
  host.defer(() => buckets.close());

  const createAccount: ClusterStage['createAccount'] = async (name, rules) => {
    await api.call('POST', `/api/v1/namespaces/${NAMESPACE}/serviceaccounts`, { metadata: { name } });
    await api.call('POST', '/apis/rbac.authorization.k8s.io/v1/clusterroles', { metadata: { name: `tidegate-${name}` }, rules });
    await api.call('POST', '/apis/rbac.authorization.k8s.io/v1/clusterrolebindings', {
      metadata: { name: `tidegate-${name}` },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: `tidegate-${name}` },
      subjects: [{ kind: 'ServiceAccount', name, namespace: NAMESPACE }],
    });
    const path = `/api/v1/namespaces/${NAMESPACE}/serviceaccounts/${name}/token`;
    const { value } = await api.call<{ status: { token: string } }>('POST', path, { spec: { expirationSeconds: TOKEN_SECONDS } });
    return { ...access, token: value.status.token };
  };

  const gatewayAccess = await createAccount('gateway', GATEWAY_RULES);
  const accountFolder = host.folder();
  writeFileSync(join(accountFolder, 'token'), gatewayAccess.token);
  writeFileSync(join(accountFolder, 'ca.crt'), gatewayAccess.authority);
  const { hostname, port } = new URL(access.server);
  const gatewayEnv = {
    KUBECONFIG: '',
    KUBERNETES_SERVICE_HOST: hostname,
    KUBERNETES_SERVICE_PORT: port,
    TIDEGATE_LEASE_NAMESPACE: NAMESPACE,
    TIDEGATE_LINGER_MS: String(LINGER_MS),
  };

  return {
    api,
    etcdUrl: cluster.etcdUrl,
    nc,
    readers,
    createAccount,
    startGateway: () =>
      startServiceProcess(host, {
        folder: 'enforcer-gateway',
        role: NatsRole.gateway,
        natsUrl: nats.url,
        launcher: ['unshare', '--mount', 'sh', '-c', IN_POD, accountFolder],
        env: gatewayEnv,
        untilMetric: 'leader',
      }),
    startEnricher: () => startServiceProcess(host, { folder: 'enricher', role: NatsRole.enricher, natsUrl: nats.url }),
    mirrorPods() {
      const entries = new Map<string, Uint8Array>();
      const firstStoredMs = new Map<string, number>();
      const onChange = ({ key, value, writtenAtMs }: BucketEntry<Uint8Array>) => {
        if (!value) entries.delete(key);
        else {
          // Copied: the message's memory is the connection's.
          entries.set(key, Uint8Array.from(value));
          if (!firstStoredMs.has(key)) firstStoredMs.set(key, writtenAtMs);
        }
      };
      void buckets.open(BUCKETS.pods, bytesCodec).watch({ onChange, signal: new AbortController().signal });
      return { entries, firstStoredMs };
    },
    requests() {
      const found = new Map<string, AccountRequest>();
      for (const line of readFileSync(auditLog, 'utf8').split('\n')) {
        if (line === '') continue;
        const { auditID, user, verb, objectRef } = JSON.parse(line) as AuditEvent;
        // A watch is told of when it begins and when it ends.
        found.set(auditID, { account: user.username.replace(ACCOUNT_PREFIX, ''), verb, resource: objectRef?.resource ?? '' });
      }
      return [...found.values()];
    },
    [Symbol.asyncDispose]: () => host[Symbol.asyncDispose](),
  };
}

interface AuditEvent {
  auditID: string;
  user: { username: string };
  verb: string;
  objectRef?: { resource?: string };
}

/** Notes requests of all but the benchmark and Kubernetes itself. */
const AUDIT_POLICY = {
  apiVersion: 'audit.k8s.io/v1',
  kind: 'Policy',
  omitStages: ['RequestReceived'],
  rules: [
    { level: 'None', users: ['admin', 'system:apiserver'] },
    { level: 'None', userGroups: ['system:serviceaccounts:kube-system'] },
    { level: 'Metadata' },
  ],
};

/** CPU time a process has used, seconds. */
export function cpuSeconds(pid: number): number {
  // The name, in parentheses, may hold blanks.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS_PER_SECOND;
}

/** USER_HZ, the same on every Linux that Node.js runs on. */
const CLOCK_TICKS_PER_SECOND = 100;
