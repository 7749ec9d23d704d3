import { createMetrics, type Counter, type Histogram, type Metrics } from '@tidegate/runtime';

/** What the API counts: tidegate_api_… */
export interface ApiMetrics {
  readonly metrics: Metrics;
  /** Seconds from a request to the end of its answer, by route and status. */
  requestSeconds: Histogram<'route' | 'status'>;
  eventsSent: Counter;
  eventsDropped: Counter;
  unreadableMessages: Counter;
  observeLiveClients(read: () => number): void;
  observeFeedMessages(read: () => number): void;
}

const REQUEST_BUCKETS_S = [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10];

export function createApiMetrics(): ApiMetrics {
  const metrics = createMetrics('api');
  return {
    metrics,
    requestSeconds: metrics.histogram('request_seconds', 'Time from request to the end of its answer.', REQUEST_BUCKETS_S, [
      'route',
      'status',
    ]),
    eventsSent: metrics.counter('live_events_sent', 'Events sent to live clients.'),
    eventsDropped: metrics.counter('live_events_dropped', 'Events dropped for live clients that were too slow; each was told.'),
    unreadableMessages: metrics.counter('unreadable_messages', 'Messages of EVENTS that are no event batch.'),
    observeLiveClients: read => void metrics.gauge('live_clients', 'WebSocket clients connected.', { read }),
    observeFeedMessages: read => metrics.observedCounter('live_feed_messages', 'Messages of EVENTS that the shared live feed read.', read),
  };
}
