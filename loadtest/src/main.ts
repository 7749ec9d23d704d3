/** `npm run bench -- <name>`: runs benchmarks, one after the other. */
import { join } from 'node:path';
import { parseOptions, type BenchOptions } from './options.ts';
import { createReport, type Report } from './report.ts';

/** Each benchmark, loaded when it runs: some need root and a kernel with BTF. */
const BENCHES: Record<string, { what: string; load: () => Promise<{ run: (report: Report, options: BenchOptions) => Promise<void> }> }> = {
  sensor: { what: 'kernel to encoded batch, one core: storm, exec storm, connection storm', load: () => import('./sensor.ts') },
  enricher: { what: 'splicing batches by subject, one core, against decode + encode', load: () => import('./enricher.ts') },
  pipeline: {
    what: 'kernel to durable EVENTS with all processes, 1, 100 and 1,000 subjects, audited',
    load: () => import('./pipeline.ts'),
  },
  latency: { what: 'kernel to WebSocket client at 10,000 events/s', load: () => import('./latency.ts') },
  quiet: { what: 'CPU of each service at 0 to 1,000 execs/s, against what the execs take', load: () => import('./quiet.ts') },
  feed: { what: 'EVENTS to JSON on NATS subjects, one core, against decode + JSON.stringify', load: () => import('./feed.ts') },
  sync: { what: 'nats-server that syncs every two minutes, every ten seconds, at each message', load: () => import('./sync.ts') },
  footprint: { what: 'memory of each process at rest and under load', load: () => import('./footprint.ts') },
  mixed: { what: 'bytes per event of a build, a package install and twenty pods', load: () => import('./mixed.ts') },
  overhead: { what: 'cost to a workload: fork + exec loop, redis-benchmark', load: () => import('./overhead.ts') },
  gateway: { what: '10,000 pods on 500 nodes of a real API server: time to KV, memory, requests', load: () => import('./gateway.ts') },
  cluster: {
    what: '1,000 simulated nodes of 100 events/s against one nats-server and three, several lingers',
    load: () => import('./cluster.ts'),
  },
  'pod-names': {
    what: 'a million pod names in a day: memory and filtered consumers, with bounded subjects and without',
    load: () => import('./pod-names.ts'),
  },
  chaos: {
    what: 'faults drawn from --seed for --minutes against three nats-servers and all services',
    load: () => import('./chaos.ts'),
  },
  identity: { what: 'first execs of 100 new pods a second with their identity', load: () => import('./identity.ts') },
};

const RESULTS_DIRECTORY = join(import.meta.dirname, '..', 'results');

const options = readOptions();
const { names } = options;
const unknown = names.filter(name => name !== 'all' && !(name in BENCHES));
if (names.length === 0 || unknown.length > 0) {
  const list = Object.entries(BENCHES).map(([name, bench]) => `  ${name.padEnd(10)} ${bench.what}`);
  console.error(
    `${unknown.length > 0 ? `unknown benchmark: ${unknown.join(', ')}\n` : ''}usage: npm run bench -- <name>... | all [--seed <number>] [--minutes <number>]\n${list.join('\n')}`,
  );
  process.exit(unknown.length > 0 ? 2 : 0);
}

let isGood = true;
for (const name of names.includes('all') ? Object.keys(BENCHES) : names) {
  const bench = await BENCHES[name]!.load();
  const report = createReport(name, RESULTS_DIRECTORY);
  await bench.run(report, options);
  isGood = report.finish() && isGood;
}
process.exit(isGood ? 0 : 1);

function readOptions(): ReturnType<typeof parseOptions> {
  try {
    return parseOptions(process.argv.slice(2));
  } catch (error) {
    console.error((error as Error).message);
    process.exit(2);
  }
}
