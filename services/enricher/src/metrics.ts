/** The enricher's own metrics: tidegate_enricher_…. */
import type { Metrics } from '@tidegate/runtime';

export type EnricherMetrics = ReturnType<typeof enricherMetrics>;

export function enricherMetrics(metrics: Metrics) {
  return {
    batchesRead: metrics.counter('batches_read', 'Batches taken from RAW'),
    bytesRead: metrics.counter('read_bytes', 'Bytes taken from RAW, with headers'),
    eventsStored: metrics.counter('events_stored', 'Events that EVENTS has stored; a repetition that it refused counts again'),
    messagesStored: metrics.counter('messages_stored', 'Messages that EVENTS has stored'),
    bytesPublished: metrics.counter('published_bytes', 'Payload bytes published to EVENTS'),
    duplicates: metrics.counter('duplicate_messages', 'Messages that EVENTS had already and refused'),
    skippedBatches: metrics.counter('skipped_batches', 'Batches that RAW held twice'),
    unresolvedPods: metrics.counter('unresolved_pods', 'Pods, counted once a batch, that KV did not have in time'),
    podWaits: metrics.counter('pod_waits', 'Batches that waited for a pod'),
    droppedTableBytes: metrics.counter(
      'dropped_table_bytes',
      'Bytes of tables of a newer schema that were too large to go with each message',
    ),
    poison: metrics.counter('poison_messages', 'Messages that could not be read and went to the dead-letter stream', ['reason']),
    discardedEvents: metrics.counter('discarded_events', 'Events that RAW discarded before they were read'),
    restarts: metrics.counter('restarts', 'Nodes that were started again from their cursor', ['reason']),
    lag: metrics.gauge('lag_messages', 'Messages of the node on RAW that are not enriched', { labels: ['node'] }),
  };
}
