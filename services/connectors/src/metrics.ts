/** The connectors' own metrics: tidegate_connectors_…. */
import type { Metrics } from '@tidegate/runtime';

export type ConnectorMetrics = ReturnType<typeof connectorMetrics>;

export function connectorMetrics(metrics: Metrics) {
  return {
    events: metrics.counter('events_published', 'Events that a connector has handed over', ['connector']),
    skips: metrics.counter('skips', 'Times that EVENTS had discarded events before a connector read them', ['connector']),
    restarts: metrics.counter('restarts', 'Times that a connector started again from its position, after trouble', ['connector']),
    lag: metrics.gauge('lag_messages', 'Messages of EVENTS that a connector has not read yet', { labels: ['connector'] }),
    isAwake: metrics.gauge('awake', '1 while somebody listens to the feed', { labels: ['connector'] }),
  };
}
