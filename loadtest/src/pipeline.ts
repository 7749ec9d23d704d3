/**
 * Kernel to durable EVENTS: the storm is pushed as fast as the sensor reads it, all processes and nats-server share this machine, and the audit must prove that nothing
 * is missing. The clock runs from the first push to the last message stored in EVENTS. CPU time says more than the rate on a machine
 * that has other work. Baseline: the same events, one JetStream message each.
 */
import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { encodeBatch, MAX_PACE_LEASE_MS, STREAMS } from '@tidegate/contracts';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { makePodCgroups, putPods } from './pod-cgroups.ts';
import { costSince, processCost } from './process-cost.ts';
import type { Report } from './report.ts';
import { startStack } from './stack.ts';
import { runStorm } from './storm.ts';
import { syntheticBatch } from './synthetic-batch.ts';

/** In turn; a compressed run stands beside the one it is to be compared with. */
const CASES = [
  { subjects: 1, compression: 'none' },
  { subjects: 1, compression: 'zstd' },
  { subjects: 100, compression: 'none' },
  { subjects: 100, compression: 'zstd' },
  { subjects: 1_000, compression: 'none' },
  { subjects: 1_000, compression: 'zstd' },
] as const;
const EVENTS = 10_000_000;
const GOAL_EVENTS_PER_SECOND = 500_000;
const GOAL_OF_MANY_SUBJECTS = 1_000_000;
const GOAL_BYTES_PER_EVENT = 300;
const SETTLE_TIMEOUT_MS = 120_000;
const BASELINE_EVENTS = 60_000;
const BASELINE_WINDOW = 500;

export async function run(report: Report): Promise<void> {
  let baseline: number | undefined;
  for (const { subjects, compression } of CASES) {
    const cgroups = subjects === 1 ? undefined : makePodCgroups(subjects);
    const stack = await startStack({ TIDEGATE_COMPRESSION: compression });
    const nc = await stack.connect();
    try {
      await putPods(nc, hostname(), cgroups?.cgroupIds.length ?? 0);
      const manager = await jetstreamManager(nc);
      const state = async (stream: string) => (await manager.streams.info(stream)).state;
      baseline ??= await singleMessages(nc);
      const before = { raw: await state(STREAMS.raw.name), events: await state(STREAMS.events.name) };
      // `npm start` has followed live to see that events arrive; here nobody does.
      await delay(MAX_PACE_LEASE_MS);
      const costsBefore = Object.entries(stack.pids()).map(([service, pid]) => ({ service, pid, cost: processCost(pid) }));
      const storedBefore = await stack.metric('enricher', 'tidegate_enricher_events_stored_total');
      const startMs = Date.now();
      const pushMs = await runStorm({ stack, events: EVENTS, cgroupIds: cgroups?.cgroupIds ?? [] });
      const untilMs = performance.now() + SETTLE_TIMEOUT_MS;
      const stored = async () => (await stack.metric('enricher', 'tidegate_enricher_events_stored_total')) - storedBefore;
      while ((await stored()) < EVENTS && performance.now() < untilMs) await delay(20);
      const seconds = (Date.now() - startMs) / 1000;
      const cpuSeconds = costsBefore.map(({ service, pid, cost }) => ({ service, seconds: costSince(pid, cost).cpuNs / 1e9 }));
      const after = { raw: await state(STREAMS.raw.name), events: await state(STREAMS.events.name) };
      const name = `${subjects} subject${subjects === 1 ? '' : 's'}${compression === 'none' ? '' : `, RAW with ${compression}`}`;
      report.check(`${name}: all ${EVENTS.toLocaleString('en-US')} events stored`, (await stored()) >= EVENTS);
      report.add({
        name: `kernel to durable EVENTS, ${name}`,
        value: EVENTS / seconds,
        unit: 'events/s',
        baseline: { name: 'one message an event', value: baseline },
        goal: { value: subjects < 1_000 ? GOAL_EVENTS_PER_SECOND : GOAL_OF_MANY_SUBJECTS, is: 'at least' },
        note: `pushed in ${(pushMs / 1000).toFixed(1)} s, stored after ${seconds.toFixed(1)} s`,
      });
      report.add({
        name: `CPU of the whole stack for a million events, ${name}`,
        value: (cpuSeconds.reduce((sum, each) => sum + each.seconds, 0) * 1e6) / EVENTS,
        unit: 's',
        note: cpuSeconds.map(({ service, seconds }) => `${service} ${((seconds * 1e6) / EVENTS).toFixed(3)}`).join(', '),
      });
      report.add({ name: `bytes per event on RAW, ${name}`, value: (after.raw.bytes - before.raw.bytes) / EVENTS, unit: 'bytes' });
      report.add({
        name: `bytes per event on EVENTS, ${name}`,
        value: (after.events.bytes - before.events.bytes) / EVENTS,
        unit: 'bytes',
        goal: { value: GOAL_BYTES_PER_EVENT, is: 'at most' },
        note: `${(after.events.messages - before.events.messages).toLocaleString('en-US')} messages`,
      });
      const audit = await stack.command('audit', '--nats', stack.natsUrl);
      console.log(audit.output.trimEnd());
      report.check(`${name}: audit clean, nothing lost`, audit.code === 0 && /^ +lost +0$/m.test(audit.output));
    } finally {
      await nc.close();
      await stack.stop();
      cgroups?.remove();
    }
  }
}

/** What a pipeline of one message an event gets out of the same server, with the client's own publish and a window of many. */
async function singleMessages(nc: Parameters<typeof jetstream>[0]): Promise<number> {
  const manager = await jetstreamManager(nc);
  await manager.streams.add({ name: 'BENCH', subjects: ['bench.single'], max_bytes: 256 * 1024 * 1024 });
  const payload = encodeBatch(syntheticBatch({ events: 1, pods: 0 }));
  const js = jetstream(nc);
  const start = performance.now();
  for (let sent = 0; sent < BASELINE_EVENTS; sent += BASELINE_WINDOW) {
    await Promise.all(
      Array.from({ length: BASELINE_WINDOW }, (_, i) => js.publish('bench.single', payload, { msgID: `bench:${sent + i}` })),
    );
  }
  const seconds = (performance.now() - start) / 1000;
  await manager.streams.delete('BENCH');
  return BASELINE_EVENTS / seconds;
}
