/**
 * Keeps a sink in step with one kind of object of the API server: everything once, then every change, for ever.
 *
 * Everything comes as a stream (sendInitialEvents, Kubernetes 1.32 and newer), one object at a time and from the server's cache, or in pages
 * from older servers. After a broken connection the watch goes on where it was; bookmarks keep that place fresh on quiet kinds. Only
 * when the server has forgotten it (410) everything is read again, after a jittered wait, so that a restarted API server sees no storm.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '@tidegate/runtime';
import { KubernetesApiError, type KubernetesApi } from './kubernetes-api.ts';

export interface ObjectMetadata {
  name: string;
  generateName?: string;
  namespace?: string;
  uid: string;
  resourceVersion: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: OwnerReference[];
}

export interface OwnerReference {
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
}

export interface KubernetesObject {
  metadata: ObjectMetadata;
}

/** What a reflector fills. */
export interface ObjectSink<T extends KubernetesObject> {
  /** By what the sink knows the object. */
  idOf(object: T): string;
  upsert(id: string, object: T): void;
  remove(id: string): void;
  /** Of all objects it holds. */
  ids(): Iterable<string>;
}

export interface ReflectorOptions<T extends KubernetesObject> {
  api: KubernetesApi;
  /** As in /api/v1/pods. */
  path: string;
  sink: ObjectSink<T>;
  /** The server sends metadata alone. */
  metadataOnly?: boolean;
  logger: Logger;
}

export interface Reflector {
  readonly path: string;
  /** Resolves when the sink has held everything once. */
  readonly synced: Promise<void>;
  readonly stats: Readonly<ReflectorStats>;
  close(): Promise<void>;
}

export interface ReflectorStats {
  isSynced: boolean;
  isConnected: boolean;
  /** Changes received. */
  events: number;
  /** Times everything was read, the first time included. */
  lists: number;
  /** Watches that ended out of order. */
  failures: number;
  /** Why the last one did; undefined: it is connected again. */
  fault: string | undefined;
}

interface WatchEvent<T> {
  type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR';
  object: T;
}

interface ObjectList<T> {
  metadata: { resourceVersion: string; continue?: string };
  items?: T[];
}

const PAGE_OBJECTS = 500;
/** The server ends a watch after a time between these, as client-go asks it, so that watchers spread over servers. */
const WATCH_MIN_SECONDS = 300;
const WATCH_MAX_SECONDS = 600;
/** Bookmarks come about once a minute. */
const IDLE_TIMEOUT_MS = 180_000;
const BACKOFF_MIN_MS = 200;
const BACKOFF_MAX_MS = 10_000;
/** A watch that lived for so long was a good one. */
const STABLE_MS = 5_000;
const INITIAL_EVENTS_END = 'k8s.io/initial-events-end';
const HTTP_GONE = 410;
/** How servers without sendInitialEvents refuse it. */
const HTTP_UNSUPPORTED: readonly number[] = [400, 422];
const METADATA_LIST = 'application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1';
const METADATA = 'application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1';

/** Starts at once. */
export function startReflector<T extends KubernetesObject>(options: ReflectorOptions<T>): Reflector {
  const { api, path, sink, metadataOnly = false, logger } = options;
  const stop = new AbortController();
  const synced = Promise.withResolvers<void>();
  const stats: ReflectorStats = { isSynced: false, isConnected: false, events: 0, lists: 0, failures: 0, fault: undefined };
  /** The place in the server's history; undefined: everything has to be read. */
  let resourceVersion: string | undefined;
  let canStreamLists = true;

  const removeUnseen = (seen: ReadonlySet<string>, version: string) => {
    for (const id of [...sink.ids()]) if (!seen.has(id)) sink.remove(id);
    resourceVersion = version;
    stats.isSynced = true;
    synced.resolve();
  };

  const readPages = async () => {
    const seen = new Set<string>();
    let page: string | undefined;
    let version: string;
    stats.lists++;
    do {
      const query = { limit: PAGE_OBJECTS, continue: page };
      const list: ObjectList<T> = await api.call(path, { query, signal: stop.signal, ...(metadataOnly && { accept: METADATA_LIST }) });
      for (const object of list.items ?? []) {
        const id = sink.idOf(object);
        seen.add(id);
        sink.upsert(id, object);
      }
      page = list.metadata.continue;
      version = list.metadata.resourceVersion;
    } while (page !== undefined && page !== '');
    removeUnseen(seen, version);
  };

  const watch = async () => {
    // While everything is streamed: what has come so far.
    let seen = resourceVersion === undefined ? new Set<string>() : undefined;
    const place = seen ? { sendInitialEvents: true, resourceVersionMatch: 'NotOlderThan' } : { resourceVersion };
    const timeoutSeconds = Math.round(WATCH_MIN_SECONDS + Math.random() * (WATCH_MAX_SECONDS - WATCH_MIN_SECONDS));
    try {
      await api.watch(path, {
        query: { ...place, allowWatchBookmarks: true, timeoutSeconds },
        ...(metadataOnly && { accept: METADATA }),
        signal: stop.signal,
        idleTimeoutMs: IDLE_TIMEOUT_MS,
        onOpen: () => {
          stats.isConnected = true;
          stats.fault = undefined;
          if (seen) stats.lists++;
        },
        onLine: line => {
          const { type, object } = JSON.parse(line) as WatchEvent<T>;
          if (type === 'ERROR') throw watchError(object);
          if (type === 'BOOKMARK') {
            if (seen && object.metadata.annotations?.[INITIAL_EVENTS_END] === 'true') {
              removeUnseen(seen, object.metadata.resourceVersion);
              seen = undefined;
            }
          } else {
            const id = sink.idOf(object);
            stats.events++;
            seen?.add(id);
            if (type === 'DELETED') sink.remove(id);
            else sink.upsert(id, object);
          }
          if (!seen) resourceVersion = object.metadata.resourceVersion;
        },
      });
    } finally {
      stats.isConnected = false;
    }
  };

  const run = async () => {
    let attempt = 0;
    while (!stop.signal.aborted) {
      const startedAtMs = performance.now();
      const isLong = () => performance.now() - startedAtMs > STABLE_MS;
      const isList = resourceVersion === undefined;
      try {
        if (isList && !canStreamLists) await readPages();
        await watch();
        if (isLong()) attempt = 0;
      } catch (error) {
        if (stop.signal.aborted) return;
        const status = error instanceof KubernetesApiError ? error.status : undefined;
        if (status === HTTP_GONE) {
          logger.info({ path }, 'the API server has forgotten our place: reading everything again');
          resourceVersion = undefined;
        } else if (isList && canStreamLists && status !== undefined && HTTP_UNSUPPORTED.includes(status)) {
          canStreamLists = false;
          continue;
        } else {
          stats.failures++;
          stats.fault = error instanceof Error ? error.message : String(error);
          logger.warn({ path, err: error }, 'watch broke');
        }
        if (isLong()) attempt = 0;
      }
      await delay(jitteredBackoffMs(attempt++), undefined, { signal: stop.signal }).catch(() => undefined);
    }
  };

  const running = run();
  return {
    path,
    synced: synced.promise,
    stats,
    async close() {
      stop.abort();
      await running;
    },
  };
}

function jitteredBackoffMs(attempt: number): number {
  return Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** attempt) * (0.5 + Math.random());
}

/** The object of an ERROR event is a Status. */
function watchError(status: unknown): KubernetesApiError {
  const { code = 0, message = 'no message' } = status as { code?: number; message?: string };
  return new KubernetesApiError(code, `the watch ended: ${message}`);
}
