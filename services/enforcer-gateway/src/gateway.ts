/** The gateway's parts put together: watches fill the contents of the buckets, the leader keeps the buckets so. */
import { BUCKETS, RemovedBy, bytesCodec, clusterSettingCodec, tokenName, type BucketDefinition } from '@tidegate/contracts';
import { createBuckets, createNodeRegistry, malformedEntries, watchStatus, type Logger, type Metrics } from '@tidegate/runtime';
import type { NatsConnection } from '@nats-io/nats-core';
import { createBucketWriter, type BucketContents, type BucketWriter, type BucketWriterOptions } from './bucket-writer.ts';
import { startClusterNamer } from './cluster-namer.ts';
import { createDestinations, type ApiEndpointSlice, type ApiService } from './destinations.ts';
import type { KubernetesApi } from './kubernetes-api.ts';
import { joinElection, type LeaderElection } from './leader-election.ts';
import { createNodes } from './nodes.ts';
import { createPods } from './pods.ts';
import { startReflector, type KubernetesObject, type ObjectSink, type Reflector } from './reflector.ts';
import { startReporter } from './reporter.ts';
import { OWNER_PATHS, createWorkloads, type OwnerKind } from './workloads.ts';

export interface GatewayOptions {
  api: KubernetesApi;
  /** URL of the API server, for reports. */
  server: string;
  nc: NatsConnection;
  /** Name of the cluster; undefined: Kubernetes names it. */
  cluster: string | undefined;
  logger: Logger;
  metrics: Metrics;
  /** Of this replica in the lease. */
  identity: string;
  leaseNamespace: string;
  leaseName: string;
  lingerMs: number;
  podAnnotations: readonly string[];
}

export interface Gateway {
  readonly isLeader: boolean;
  /** Why it is not ready; empty: it is. A replica that does not lead is ready too, once it knows who does. */
  readiness(): string[];
  close(): Promise<void>;
}

/** Of what an API server says, so much is reported. */
const FAULT_MAX_CHARS = 400;

/** Starts watching; leads when everything has been seen and the lease is free. */
export async function createGateway(options: GatewayOptions): Promise<Gateway> {
  const { api, nc, logger, metrics, lingerMs, podAnnotations } = options;
  const buckets = await createBuckets({ nc, logger, malformed: malformedEntries(metrics) });
  const settings = buckets.open(BUCKETS.settings, clusterSettingCodec);
  const namer = startClusterNamer({ api, settings, configured: options.cluster, logger });
  const writers: BucketWriter[] = [];
  const createWriter = (definition: BucketDefinition, contents: BucketContents, more: Partial<BucketWriterOptions> = {}) => {
    const writer = createBucketWriter({ bucket: buckets.open(definition, bytesCodec), contents, lingerMs, logger, ...more });
    writers.push(writer);
    return writer;
  };

  const destinations = createDestinations(key => destinationsWriter.touch(key));
  const destinationsWriter = createWriter(BUCKETS.destinations, destinations.contents);
  const nodes = createNodes({ onChange: key => nodesWriter.touch(key), onAddresses: (node, ips) => destinations.setNode(node, ips) });
  const registry = createNodeRegistry(buckets);
  const nodesWriter = createWriter(BUCKETS.nodes, nodes.contents, {
    filter: '*',
    // No event that comes late is looked up by its node; those who wait for it to leave need not wait longer.
    lingerMs: 0,
    beforeDelete: key => registry.remove(tokenName(key), RemovedBy.kubernetes),
  });
  const workloads = createWorkloads((ownerUid, workload, isNew) => pods.onWorkload(ownerUid, workload, isNew));
  const pods = createPods({
    workloads,
    annotations: podAnnotations,
    onChange: key => podsWriter.touch(key),
    onAddresses: (ips, pod) => destinations.setPod(ips, pod),
    onAddressesFreed: (ips, pod) => destinations.freePod(ips, pod),
  });
  const podsWriter = createWriter(BUCKETS.pods, pods.contents);

  const reflectors: Reflector[] = [];
  const reflect = <T extends KubernetesObject>(path: string, sink: ObjectSink<T>, metadataOnly = false) => {
    const reflector = startReflector({ api, path, sink, metadataOnly, logger });
    reflectors.push(reflector);
    return reflector;
  };
  let isClosed = false;
  let election: LeaderElection | undefined;

  const start = async () => {
    const owners = Object.entries(OWNER_PATHS).map(([kind, path]) => reflect(path, workloads.sink(kind as OwnerKind), true));
    reflect('/api/v1/nodes', nodes.sink);
    reflect<ApiService>('/api/v1/services', destinations.services);
    reflect<ApiEndpointSlice>('/apis/discovery.k8s.io/v1/endpointslices', destinations.endpointSlices);
    // Pods after what owns them, so that none has to wait for its workload.
    await Promise.all(owners.map(({ synced }) => synced));
    if (isClosed) return;
    reflect('/api/v1/pods', pods.sink);
    await Promise.all(reflectors.map(({ synced }) => synced));
    if (isClosed) return;
    logger.info(pods.stats(), 'the cluster is known');
    election = joinElection({
      api,
      namespace: options.leaseNamespace,
      name: options.leaseName,
      identity: options.identity,
      onStarted: () => writers.forEach(writer => writer.start()),
      onStopped: () => writers.forEach(writer => writer.stop()),
      logger,
    });
  };

  // A server that was away may have lost what it had not yet written to its disk.
  const unwatch = watchStatus(nc, ({ type }) => {
    if (type !== 'reconnect') return;
    namer.check();
    if (election?.isLeader === true) for (const writer of writers) writer.start();
  });

  const reporter = startReporter({
    buckets,
    about: { identity: options.identity, server: options.server, lease: `${options.leaseNamespace}/${options.leaseName}` },
    state: () => ({ leads: election?.isLeader === true, holder: election?.holder, faults: faultsOf(reflectors, election) }),
    logger,
  });
  addMetrics(metrics, { reflectors, writers, podStats: () => pods.stats(), isLeader: () => election?.isLeader === true });
  void start();

  let closing: Promise<void> | undefined;
  const close = async () => {
    isClosed = true;
    // The lease first: the replica that takes over may start while this one lets go of the rest.
    await election?.close();
    unwatch();
    for (const writer of writers) writer.stop();
    await namer.close();
    await reporter.close();
    buckets.close();
    pods.close();
    await Promise.all(reflectors.map(reflector => reflector.close()));
  };
  return {
    get isLeader() {
      return election?.isLeader === true;
    },
    readiness: () => [
      ...reflectors.filter(({ stats }) => !stats.isSynced).map(({ path }) => `${path} not yet read`),
      ...(reflectors.some(({ path }) => path === '/api/v1/pods') ? [] : ['/api/v1/pods not yet read']),
      ...(reporter.hasReportedLeader ? [] : ['it is not known yet who leads']),
      ...(namer.name === undefined ? ['the cluster has no name yet'] : []),
      ...(nc.isClosed() ? ['NATS connection is closed'] : []),
    ],
    close: () => (closing ??= close()),
  };
}

/** What keeps the gateway from its work, one sentence for all that fails for the same reason. */
function faultsOf(reflectors: readonly Reflector[], election: LeaderElection | undefined): string[] {
  const failing = new Map<string, string[]>();
  const add = (what: string, reason: string | undefined) => {
    if (reason !== undefined) failing.set(reason, [...(failing.get(reason) ?? []), what]);
  };
  for (const { path, stats } of reflectors) add(path, stats.fault);
  add('the Lease', election?.fault);
  return [...failing].map(([reason, what]) => `${what.join(', ')}: ${reason.slice(0, FAULT_MAX_CHARS)}`);
}

interface Observed {
  reflectors: readonly Reflector[];
  writers: readonly BucketWriter[];
  podStats: () => { pods: number; waiting: number; guessed: number };
  isLeader: () => boolean;
}

function addMetrics(metrics: Metrics, { reflectors, writers, podStats, isLeader }: Observed): void {
  const sumReflectors = (field: 'events' | 'lists' | 'failures') => () => reflectors.reduce((sum, { stats }) => sum + stats[field], 0);
  const sumWriters = (field: 'written' | 'deleted' | 'failed' | 'pending' | 'lingering') => () =>
    writers.reduce((sum, { stats }) => sum + stats[field], 0);
  metrics.observedCounter('watch_events', 'Changes received from the API server.', sumReflectors('events'));
  metrics.observedCounter('lists', 'Times all objects of a kind were read from the API server.', sumReflectors('lists'));
  metrics.observedCounter('watch_failures', 'Watches that ended out of order.', sumReflectors('failures'));
  metrics.observedCounter('entries_written', 'Entries written to the buckets.', sumWriters('written'));
  metrics.observedCounter('entries_deleted', 'Entries removed from the buckets.', sumWriters('deleted'));
  metrics.observedCounter('bucket_failures', 'Reads and writes of the buckets that failed and are tried again.', sumWriters('failed'));
  metrics.gauge('pending_entries', 'Entries to be written.', { read: sumWriters('pending') });
  metrics.gauge('lingering_entries', 'Entries of what is gone, kept for late events.', { read: sumWriters('lingering') });
  metrics.gauge('pods', 'Pods known.', { read: () => podStats().pods });
  metrics.gauge('waiting_pods', 'Pods held back until their controller is seen.', { read: () => podStats().waiting });
  metrics.gauge('guessed_pods', 'Pods whose workload is told from names.', { read: () => podStats().guessed });
  metrics.gauge('leader', '1 while this replica leads.', { read: () => Number(isLeader()) });
}
