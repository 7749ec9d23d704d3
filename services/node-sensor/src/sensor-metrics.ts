import { kindName } from '@tidegate/contracts';
import type { Counters } from '@tidegate/native';
import type { Metrics, PublisherStats } from '@tidegate/runtime';
import type { Outbox } from './outbox.ts';

export interface MetricSources {
  outbox: Outbox;
  /** undefined: the reader does not run yet. */
  counters: () => Counters | undefined;
  /** undefined: NATS was never reached. */
  publisher: () => Readonly<PublisherStats> | undefined;
}

/** Everything is counted elsewhere and read at each scrape. */
export function registerMetrics(metrics: Metrics, { outbox, counters, publisher }: MetricSources): void {
  const { observedCounter, observedCounters, gauge } = metrics;
  observedCounter('events_read', 'Events given out by the reader, loss events included.', () => counters()?.events ?? 0);
  observedCounter('batches_read', 'Batches given out by the reader.', () => counters()?.batches ?? 0);
  observedCounter('payload_read_bytes', 'Bytes of batches given out by the reader.', () => counters()?.bytes ?? 0);
  observedCounter('reader_cpu_seconds', "CPU time of the reader's thread.", () => (counters()?.cpuNs ?? 0) / 1e9);
  observedCounter('queue_full', 'Times a batch found the queue to JavaScript full.', () => counters()?.queueFull ?? 0);
  observedCounter('malformed_records', 'Records of the kernel that could not be read.', () => counters()?.malformedRecords ?? 0);
  observedCounter('unknown_processes', 'Processes whose start had not been seen.', () => counters()?.unknownProcesses ?? 0);
  observedCounter('processes_evicted', 'Processes forgotten early because the table was full.', () => counters()?.processesEvicted ?? 0);
  gauge('processes', 'Processes in the table.', { read: () => counters()?.processes ?? 0 });
  gauge('cgroups', 'Cgroups in the table.', { read: () => counters()?.cgroups ?? 0 });
  observedCounter(
    'containers_not_described',
    "Containers without name and image because the runtime's files told nothing of them.",
    () => counters()?.containersNotDescribed ?? 0,
  );
  gauge('undescribed_containers', "Containers there are that root's runtime made and whose files were looked for in vain.", {
    read: () => counters()?.containersUndescribed ?? 0,
  });
  observedCounters('ring_lost_events', 'Events the kernel had no room for in a ring, since the programs were loaded.', 'kind', () =>
    byKindName(counters()?.lostByKind),
  );
  observedCounter(
    'untracked_accepts',
    "Connections told only when they ended, in the name of the listener's owner: there were more than the kernel remembers the accepter of.",
    () => counters()?.untrackedAccepts ?? 0,
  );
  observedCounters('filtered_events', 'Events a filter kept back in the kernel, since the programs were loaded.', 'kind', () =>
    byKindName(counters()?.filteredByKind),
  );

  observedCounter('batches_published', 'Batches stored in RAW.', () => outbox.stats.publishedBatches);
  observedCounter('events_published', 'Events stored in RAW.', () => outbox.stats.publishedEvents);
  observedCounter('payload_published_bytes', 'Bytes stored in RAW.', () => outbox.stats.publishedBytes);
  gauge('kept_bytes', 'Bytes that NATS has acknowledged and may not have on its disk yet.', { read: () => outbox.keptBytes });
  observedCounter('batches_resent', 'Batches sent again after a lost connection or ack.', () => publisher()?.resent ?? 0);
  gauge('window_bytes', 'Bytes sent and not acknowledged.', { read: () => publisher()?.pendingBytes ?? 0 });
  observedCounters('lost_events', 'Events lost after the kernel gave them out.', 'reason', () => outbox.stats.lost);

  gauge('spool_bytes', 'Bytes on disk.', { read: () => outbox.spool.bytes });
  gauge('spool_batches', 'Batches on disk and not yet sent.', { read: () => outbox.spool.batches });
  gauge('spool_limit_bytes', 'Bytes on disk at most.', { read: () => outbox.spool.maxBytes });
  observedCounter('spool_batches_appended', 'Batches that went to disk.', () => outbox.spool.appended);
  observedCounter('spool_events_thinned', 'Events of low priority taken out of a full spool.', () => outbox.spool.thinnedEvents);
  observedCounter('spool_batches_dropped', 'Batches a full spool had no room for.', () => outbox.spool.droppedBatches);
  observedCounter('spool_entries_corrupt', 'Entries on disk that could not be read.', () => outbox.spool.corruptEntries);
}

function byKindName(counts: Record<number, number> = {}): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).map(([kind, count]) => [kindName(Number(kind)), count]));
}
