/**
 * One leader among the replicas, by a Lease of coordination.k8s.io as client-go's leaderelection keeps it. Clocks are not compared: a replica counts
 * how long it has itself seen the lease unchanged. A leader stops before others may start: after `renewDeadlineMs` without a renewal.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { LeaseHolder } from '@tidegate/contracts';
import type { Logger } from '@tidegate/runtime';
import { KubernetesApiError, type KubernetesApi } from './kubernetes-api.ts';

export interface LeaderElectionOptions {
  api: KubernetesApi;
  namespace: string;
  name: string;
  /** Of this replica. */
  identity: string;
  onStarted: () => void;
  onStopped: () => void;
  logger: Logger;
}

export interface LeaderElection {
  readonly isLeader: boolean;
  /** Who leads instead: whom the Lease names and who has been seen to renew it. undefined: nobody, or nobody knows yet. */
  readonly holder: LeaseHolder | undefined;
  /** Why the Lease could not be read or written the last time. */
  readonly fault: string | undefined;
  /** Gives the lease up, so that another replica takes over at once. */
  close(): Promise<void>;
}

interface Lease {
  metadata: { name: string; namespace: string; resourceVersion?: string };
  spec: { holderIdentity?: string; leaseDurationSeconds?: number; acquireTime?: string; renewTime?: string; leaseTransitions?: number };
}

/** A dead leader is replaced after this and one retry. */
const LEASE_DURATION_MS = 6_000;
const RENEW_DEADLINE_MS = 4_000;
const RETRY_MS = 1_000;
const CALL_TIMEOUT_MS = 2_000;
const HTTP_NOT_FOUND = 404;
const HTTP_CONFLICT = 409;

/** Takes part from now on. */
export function joinElection({ api, namespace, name, identity, onStarted, onStopped, logger }: LeaderElectionOptions): LeaderElection {
  const collection = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
  const stop = new AbortController();
  let isLeader = false;
  let lease: Lease | undefined;
  /** A write has not been answered in order: the server may have stored it all the same. */
  let isUncertain = true;
  /** When this replica last saw the lease change. */
  let changedMs = -Infinity;
  /** Whoever holds it has changed it since it was first seen: a dead leader's name stays in it. */
  let isRenewed = false;
  let fault: string | undefined;
  let deadline: NodeJS.Timeout | undefined;

  const observe = (seen: Lease | undefined) => {
    if (seen?.metadata.resourceVersion !== lease?.metadata.resourceVersion) {
      changedMs = performance.now();
      isRenewed = lease !== undefined && seen?.spec.holderIdentity === lease.spec.holderIdentity;
    }
    lease = seen;
  };

  const isFree = () => {
    const holder = lease?.spec.holderIdentity ?? '';
    return holder === '' || holder === identity || performance.now() - changedMs > LEASE_DURATION_MS;
  };

  const write = async (holderIdentity: string) => {
    const nowText = `${new Date().toISOString().slice(0, -1)}000Z`;
    const isMine = lease?.spec.holderIdentity === identity;
    const wanted: Lease = {
      metadata: lease?.metadata ?? { name, namespace },
      spec: {
        holderIdentity,
        leaseDurationSeconds: LEASE_DURATION_MS / 1000,
        acquireTime: (isMine ? lease?.spec.acquireTime : undefined) ?? nowText,
        renewTime: nowText,
        leaseTransitions: (lease?.spec.leaseTransitions ?? 0) + (isMine ? 0 : 1),
      },
    };
    observe(
      lease
        ? await api.call<Lease>(`${collection}/${name}`, { method: 'PUT', body: wanted, timeoutMs: CALL_TIMEOUT_MS })
        : await api.call<Lease>(collection, { method: 'POST', body: wanted, timeoutMs: CALL_TIMEOUT_MS }),
    );
  };

  /** @param renewedMs before the renewal was sent: others may have seen it as early as that */
  const lead = (renewedMs: number) => {
    clearTimeout(deadline);
    deadline = setTimeout(() => resign('could not renew its lease in time'), renewedMs + RENEW_DEADLINE_MS - performance.now());
    if (isLeader) return;
    isLeader = true;
    logger.info({ identity }, 'this replica leads');
    onStarted();
  };

  const resign = (reason: string) => {
    clearTimeout(deadline);
    if (!isLeader) return;
    isLeader = false;
    logger.warn({ identity, reason }, 'this replica leads no more');
    onStopped();
  };

  const read = async () => {
    try {
      observe(await api.call<Lease>(`${collection}/${name}`, { signal: stop.signal, timeoutMs: CALL_TIMEOUT_MS }));
    } catch (error) {
      if (!(error instanceof KubernetesApiError) || error.status !== HTTP_NOT_FOUND) throw error;
      observe(undefined);
    }
  };

  const attempt = async () => {
    // A leader knows the lease: it alone writes it.
    if (!isLeader || isUncertain) await read();
    if (isLeader && lease?.spec.holderIdentity !== identity) resign('another replica has taken the lease');
    if (!isFree()) return;
    const startedMs = performance.now();
    isUncertain = true;
    await write(identity);
    isUncertain = false;
    lead(startedMs);
  };

  const run = async () => {
    while (!stop.signal.aborted) {
      try {
        await attempt();
        fault = undefined;
      } catch (error) {
        if (stop.signal.aborted) break;
        const isConflict = error instanceof KubernetesApiError && error.status === HTTP_CONFLICT;
        if (!isConflict) {
          fault = error instanceof Error ? error.message : String(error);
          logger.warn({ err: error }, 'lease could not be read or written');
        }
      }
      await delay(RETRY_MS, undefined, { signal: stop.signal }).catch(() => undefined);
    }
    if (!isLeader) return;
    resign('closing');
    await write('').catch((error: unknown) => logger.warn({ err: error }, 'lease could not be given up'));
  };

  const running = run();
  return {
    get isLeader() {
      return isLeader;
    },
    get holder() {
      const { holderIdentity = '', acquireTime = '' } = lease?.spec ?? {};
      if (isLeader || !isRenewed || holderIdentity === '' || holderIdentity === identity) return undefined;
      const sinceMs = Date.parse(acquireTime);
      return { identity: holderIdentity, ...(!Number.isNaN(sinceMs) && { since: new Date(sinceMs).toISOString() }) };
    },
    get fault() {
      return fault;
    },
    async close() {
      stop.abort();
      await running;
    },
  };
}
