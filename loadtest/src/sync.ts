/**
 * What it costs that nats-server writes to its disk what it acknowledges: a stream at its fullest, and paced as a cluster's RAW is, on the disk of the temporary folder. Baseline:
 * nats-server's own default, every two minutes.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { NATS_SYNC_INTERVAL_MS } from '@tidegate/contracts';
import { createPublisher, NatsRole, type Publisher } from '@tidegate/runtime';
import { connectAs, createHost, roleUsers, startNatsServer } from '@tidegate/testkit';
import { jetstreamManager } from '@nats-io/jetstream';
import { costSince, processCost } from './process-cost.ts';
import type { Report } from './report.ts';
import { percentile } from './samples.ts';

const OURS = `${NATS_SYNC_INTERVAL_MS / 1000}s`;
const INTERVALS = ['2m', OURS, 'always'] as const;
const NAMES: Record<(typeof INTERVALS)[number], string> = { '2m': 'every two minutes', [OURS]: `every ${OURS}`, always: 'at each message' };
/** A node's batch on a quiet day, and one of a storm. */
const SIZES = [2 * 1024, 64 * 1024];
const FULL_MS = 5_000;
const PACED_PER_SECOND = 200;
const PACED_MS = 25_000;
const TICK_MS = 10;
const STREAM = 'BENCH';

interface Measured {
  perSecond: number;
  ackMs: number[];
  cpuUs: number;
}

export async function run(report: Report): Promise<void> {
  for (const bytes of SIZES) {
    let baseline: { full: number; p99: number; cpuUs: number } | undefined;
    for (const interval of INTERVALS) {
      const { full, paced } = await measure(interval, bytes);
      const found = { full: full.perSecond, p99: percentile(paced.ackMs, 99), cpuUs: paced.cpuUs };
      baseline ??= found;
      const what = `${bytes / 1024} KiB, synced ${NAMES[interval]}`;
      const beside = (value: number) => (interval === '2m' ? undefined : { name: NAMES['2m'], value });
      report.add({ name: `messages stored, ${what}`, value: found.full, unit: 'messages/s', baseline: beside(baseline.full) });
      report.add({
        name: `ack at ${PACED_PER_SECOND} a second, p99, ${what}`,
        value: found.p99,
        unit: 'ms',
        baseline: beside(baseline.p99),
        note: `p50 ${percentile(paced.ackMs, 50).toFixed(2)} ms, most ${Math.max(...paced.ackMs).toFixed(1)} ms`,
      });
      report.add({ name: `CPU of nats-server a message, ${what}`, value: found.cpuUs, unit: 'us', baseline: beside(baseline.cpuUs) });
    }
  }
}

async function measure(interval: string, bytes: number): Promise<{ full: Measured; paced: Measured }> {
  await using host = createHost();
  const server = await startNatsServer({
    storeDir: host.folder(),
    users: roleUsers([NatsRole.admin]),
    syncInterval: interval,
  });
  host.defer(() => server.stop());
  const nc = await connectAs(NatsRole.admin, server.url, host);
  await (await jetstreamManager(nc)).streams.add({ name: STREAM, subjects: ['bench.*'], max_bytes: 1024 ** 3 });
  const publisher = createPublisher(nc, { stream: STREAM, logger: host.logger });
  host.defer(() => publisher.close());
  const full = await publishFor(publisher, server.pid, bytes, FULL_MS);
  const paced = await publishFor(publisher, server.pid, bytes, PACED_MS, PACED_PER_SECOND);
  return { full, paced };
}

let sent = 0;

/** @param rate messages a second; left out: as many as are taken */
async function publishFor(publisher: Publisher, pid: number, bytes: number, forMs: number, rate?: number): Promise<Measured> {
  const payload = Buffer.alloc(bytes, 'tidegate');
  const before = processCost(pid);
  const ackMs: number[] = [];
  const startMs = performance.now();
  let count = 0;
  const publish = (): void => {
    const atMs = performance.now();
    count++;
    void publisher
      .publish({ subject: `bench.${count % 100}`, payload, messageId: `m${++sent}` })
      .then(() => ackMs.push(performance.now() - atMs));
  };
  while (performance.now() - startMs < forMs) {
    if (rate === undefined) {
      await publisher.ready();
      for (let i = 0; i < 16 && publisher.stats.hasRoom; i++) publish();
    } else {
      while (count < ((performance.now() - startMs) * rate) / 1000) publish();
      await delay(TICK_MS);
    }
  }
  while (ackMs.length < count) await delay(1);
  const seconds = (performance.now() - startMs) / 1000;
  return { perSecond: count / seconds, ackMs, cpuUs: costSince(pid, before).cpuNs / 1000 / count };
}
