import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';

export type { Counter, Gauge, Histogram } from 'prom-client';

/**
 * A component's Prometheus metrics. Names follow `tidegate_<component>_<name>_<unit>_total` (gauges and histograms without `_total`), so
 * that a name alone tells where a number comes from and what it counts.
 */
export interface Metrics {
  readonly registry: Registry;
  /** `name` ends in its unit, e.g. `batches_published`; `_total` is added. */
  counter<Label extends string = never>(name: string, help: string, labels?: readonly Label[]): Counter<Label>;
  /** A gauge; with `read` it is asked for at each scrape. */
  gauge<Label extends string = never>(
    name: string,
    help: string,
    options?: { labels?: readonly Label[]; read?: () => number },
  ): Gauge<Label>;
  histogram<Label extends string = never>(
    name: string,
    help: string,
    buckets: readonly number[],
    labels?: readonly Label[],
  ): Histogram<Label>;
  /**
   * A counter kept elsewhere (in the addon, in a class): its present value is read at each scrape.
   * The value may restart from zero only when the process does.
   */
  observedCounter(name: string, help: string, read: () => number): void;
  /** The same for a counter with one label: value of the label and count. */
  observedCounters(name: string, help: string, label: string, read: () => Readonly<Record<string, number>>): void;
}

/**
 * The statistics of the event loop's lag come of a timer that fires a hundred times a second: half of what a service costs that has nothing to do. The lag
 * at each scrape stays.
 */
const LAG_STATISTICS = ['min', 'max', 'mean', 'stddev', 'p50', 'p90', 'p99'];
const NEVER_MS = 2 ** 31 - 1;

/** Creates the metrics of `component` (kebab-case becomes snake_case), with the process's own (memory, CPU, event loop). */
export function createMetrics(component: string): Metrics {
  const registry = new Registry();
  const prefix = `tidegate_${component.replaceAll('-', '_')}_`;
  collectDefaultMetrics({ register: registry, prefix, eventLoopMonitoringPrecision: NEVER_MS });
  for (const statistic of LAG_STATISTICS) registry.removeSingleMetric(`${prefix}nodejs_eventloop_lag_${statistic}_seconds`);
  return {
    registry,
    counter: (name, help, labels = []) =>
      new Counter({ name: `${prefix}${name}_total`, help, labelNames: [...labels], registers: [registry] }),
    gauge: (name, help, { labels = [], read } = {}) =>
      new Gauge({
        name: prefix + name,
        help,
        labelNames: [...labels],
        registers: [registry],
        ...(read && {
          collect() {
            this.set(read());
          },
        }),
      }),
    histogram: (name, help, buckets, labels = []) =>
      new Histogram({ name: prefix + name, help, buckets: [...buckets], labelNames: [...labels], registers: [registry] }),
    observedCounter: (name, help, read) => {
      new Counter({
        name: `${prefix}${name}_total`,
        help,
        registers: [registry],
        collect() {
          this.reset();
          this.inc(read());
        },
      });
    },
    observedCounters: (name, help, label, read) => {
      new Counter({
        name: `${prefix}${name}_total`,
        help,
        labelNames: [label],
        registers: [registry],
        collect() {
          this.reset();
          for (const [value, count] of Object.entries(read())) this.inc({ [label]: value }, count);
        },
      });
    },
  };
}
