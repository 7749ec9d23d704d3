/**
 * The sensor's native reader alone: kernel ring to encoded batch. The storm goes through the ring helpers of the real hooks; exec and connection storms are real
 * processes and sockets. Baseline: the same events encoded by protobufjs from JavaScript objects.
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createServer, connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { encodeBatch } from '@tidegate/contracts';
import { Reader, stormPinned, type NativeBatch } from '@tidegate/native';
import { createHost } from '@tidegate/testkit';
import type { Report } from './report.ts';
import { syntheticBatch } from './synthetic-batch.ts';

const BPF_BUILD = join(import.meta.dirname, '..', '..', 'bpf', 'build');
const GOAL_EVENTS_PER_SECOND = 1_000_000;
const STORM_EVENTS = 10_000_000;
/** One push; fits the ring whole, so that none is lost. */
const STORM_CHUNK = 100_000;
const EXECS = 3_000;
const CONNECTIONS = 2_000;
const SETTLE_TIMEOUT_MS = 20_000;
const BASELINE_EVENTS = 12_000;
const BASELINE_MS = 2_000;
const NS_PER_SECOND = 1e9;
/** Each program gives an exec and an exit, each connection connect, accept and two closes. */
const REAL_LOADS = [
  { name: 'exec storm', what: `${EXECS} programs`, atLeast: 2 * EXECS, load: execStorm },
  { name: 'connection storm', what: `${CONNECTIONS} connections`, atLeast: 4 * CONNECTIONS, load: connectionStorm },
];

export async function run(report: Report): Promise<void> {
  await using host = createHost();
  const folder = host.folder();
  let bytes = 0;
  const pinDirectory = join(host.bpffs(), 'tidegate');
  const reader = new Reader(
    {
      objectFile: join(BPF_BUILD, 'tidegate.bpf.o'),
      node: 'bench-node',
      boot: 'bench',
      firstSequence: 1,
      stateFile: join(folder, 'state'),
      pinDirectory,
      lifecycleRingBytes: 8 * 1024 * 1024,
      dataRingBytes: 32 * 1024 * 1024,
      batchMaxBytes: 1024 * 1024,
      lingerMs: 3,
      queueMaxBatches: 64,
      procRoot: '/proc',
      cgroupRoot: existsSync('/sys/fs/cgroup/unified') ? '/sys/fs/cgroup/unified' : '/sys/fs/cgroup',
      filters: {},
    },
    (batch: NativeBatch) => void (bytes += batch.payload.length),
  );
  const hooks = reader.start();
  try {
    report.check(
      `${hooks.length} hooks attached`,
      hooks.every(hook => hook.attached),
    );
    const baseline = encodeInJavaScript();
    for (const cgroups of [0, 100]) {
      const cgroupIds = Array.from({ length: cgroups }, (_, i) => 1_000_000 + i);
      const storm = await measure(reader, async () => {
        const start = reader.counters().events;
        for (let pushed = 0; pushed < STORM_EVENTS; pushed += STORM_CHUNK) {
          await stormPinned({
            objectFile: join(BPF_BUILD, 'bench_storm.bpf.o'),
            pinDirectory,
            events: STORM_CHUNK,
            pid: process.pid,
            startKtimeNs: 0n,
            execGeneration: 0n,
            cgroupIds,
          });
          // At most one chunk waits in the ring when the next is pushed.
          const behind = start + pushed;
          while (reader.counters().events < behind) await delay(0);
        }
      });
      const name = cgroups === 0 ? 'storm, one process' : `storm, ${cgroups} cgroups and processes`;
      report.check(`${name}: nothing lost`, storm.lost === 0);
      report.add({
        name: `${name}: per core of the reader`,
        value: storm.eventsPerCpuSecond,
        unit: 'events/s',
        baseline: { name: 'protobufjs encode alone', value: baseline },
        goal: { value: GOAL_EVENTS_PER_SECOND, is: 'at least' },
        note: `${storm.bytesPerEvent.toFixed(0)} bytes/event; ${Math.round(storm.eventsPerSecond).toLocaleString('en-US')}/s by the clock, pushing included`,
      });
    }
    for (const { name, what, atLeast, load } of REAL_LOADS) {
      const { events, lost, cpuNsPerEvent, bytesPerEvent, eventsPerSecond } = await measure(reader, load);
      report.check(`${name}: ${what} gave ${atLeast} events or more, none lost`, lost === 0 && events >= atLeast);
      report.add({
        name: `${name}: reader CPU`,
        value: cpuNsPerEvent,
        unit: 'ns/event',
        note: `${bytesPerEvent.toFixed(0)} bytes/event, ${Math.round(eventsPerSecond)} events/s`,
      });
    }
  } finally {
    await reader.close({ unpin: true });
  }
  report.check('batches were handed out', bytes > 0);
}

interface Measured {
  events: number;
  lost: number;
  eventsPerSecond: number;
  eventsPerCpuSecond: number;
  cpuNsPerEvent: number;
  bytesPerEvent: number;
}

/** Runs `load` and waits until the reader has handed out everything. */
async function measure(reader: Reader, load: () => Promise<void>): Promise<Measured> {
  const before = reader.counters();
  const startMs = performance.now();
  await load();
  const loadMs = performance.now() - startMs;
  await settled(reader);
  const after = reader.counters();
  const events = after.events - before.events;
  const cpuNs = after.cpuNs - before.cpuNs;
  return {
    events,
    lost: total(after.lostByKind) - total(before.lostByKind),
    eventsPerSecond: (events * 1000) / loadMs,
    eventsPerCpuSecond: (events * NS_PER_SECOND) / cpuNs,
    cpuNsPerEvent: cpuNs / events,
    bytesPerEvent: (after.bytes - before.bytes) / events,
  };
}

/** Until no event came for a while. */
async function settled(reader: Reader): Promise<void> {
  const untilMs = performance.now() + SETTLE_TIMEOUT_MS;
  let last = -1;
  for (let now = reader.counters().events; now !== last && performance.now() < untilMs; now = reader.counters().events) {
    last = now;
    await delay(100);
  }
}

function total(byKind: Record<number, number>): number {
  return Object.values(byKind).reduce((sum, count) => sum + count, 0);
}

async function execStorm(): Promise<void> {
  execFileSync('sh', ['-c', `i=0; while [ $i -lt ${EXECS} ]; do /bin/true; i=$((i+1)); done`]);
}

async function connectionStorm(): Promise<void> {
  const server = createServer(socket => {
    socket.on('error', () => socket.destroy());
    socket.resume();
    socket.end('x');
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the server has no port');
  for (let i = 0; i < CONNECTIONS; i++) {
    await new Promise<void>((resolve, reject) => {
      const socket = connect(address.port, '127.0.0.1')
        .on('error', reject)
        .on('close', () => resolve());
      socket.resume();
      socket.end('y');
    });
  }
  await new Promise(resolve => server.close(resolve));
}

function encodeInJavaScript(): number {
  let rounds = 0;
  const start = performance.now();
  while (performance.now() - start < BASELINE_MS) {
    encodeBatch(syntheticBatch({ events: BASELINE_EVENTS, pods: 0 }));
    rounds++;
  }
  return (rounds * BASELINE_EVENTS * 1000) / (performance.now() - start);
}
