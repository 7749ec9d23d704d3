import assert from 'node:assert/strict';
import { execFileSync, type ChildProcess } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { copyFileSync, cpSync, existsSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import {
  BUCKETS,
  Kind,
  LIVE_LINGER_MS,
  LossReason,
  MAX_PACE_LEASE_MS,
  MAX_SLOW_LINGER_MS,
  RemovedBy,
  STREAMS,
  paceLeaseCodec,
  paceSubject,
  rawSubject,
  type EventBatch,
  type SensorStatus,
} from '@tidegate/contracts';
import { probe } from '@tidegate/native';
import { jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/nats-core';
import { NatsRole, connectNats, createBuckets, createNodeRegistry, ensureBuckets, ensureStreams, rolePermissions } from '@tidegate/runtime';
import { createHost, endChild, startNatsServer, testLogger, waitFor, type Host, type TestNatsServer } from '@tidegate/testkit';
import { auditRaw } from './audit.ts';

const NODE = 'test-node';
const MIB = 1024 * 1024;
const main = fileURLToPath(new URL('../src/main.ts', import.meta.url));
const { ok, missing } = probe();
const skip = ok ? false : missing.map(fault => fault.message).join(' ');

interface TestSensor {
  child: ChildProcess;
  url: string;
  /** SIGTERM; asserts that it ends well. */
  stop(): Promise<void>;
}

interface Bench {
  host: Host;
  server: TestNatsServer;
  nc: NatsConnection;
  /** Of the sensors. */
  pinDirectory: string;
  /** Runs `count` programs one after the other, named and numbered by their arguments, each with so many bytes of random text. */
  storm(name: string, count: number, noiseBytes?: number): Promise<unknown>;
  /** Starts the sensor as a process; each has the same folder and pins as the one before. */
  startSensor(env?: NodeJS.ProcessEnv): Promise<TestSensor>;
  [Symbol.asyncDispose](): Promise<void>;
}

async function createBench(): Promise<Bench> {
  const host = createHost();
  const users = [NatsRole.admin, NatsRole.sensor].map(role => ({
    user: role,
    password: role,
    permissions: rolePermissions(role, role === 'sensor' ? NODE : undefined),
  }));
  const server = await startNatsServer({ users });
  host.defer(() => server.stop());
  const nc = await connectNats({ url: server.url, name: 'test', user: 'admin', password: 'admin', logger: testLogger() });
  host.defer(() => nc.close());
  await ensureStreams(nc, [{ ...STREAMS.raw, maxBytes: 512 * MIB }]);
  await ensureBuckets(nc, [BUCKETS.sensors, BUCKETS.nodes]);
  const dataDir = host.folder();
  // Of all that happens on this machine the kernel lets through what this program does, so that numbers are exact whatever else runs.
  const program = join(realpathSync(host.folder()), 'true');
  copyFileSync('/bin/true', program);
  const pinDirectory = join(host.bpffs(), 'tidegate');
  let port = 0;
  return {
    host,
    server,
    nc,
    pinDirectory,
    storm(name, count, noiseBytes = 0) {
      const noise = join(host.folder(), 'noise');
      const lines = Array.from({ length: count }, () => randomBytes(Math.ceil((noiseBytes * 3) / 4)).toString('base64'));
      writeFileSync(noise, lines.join('\n'));
      const script = `i=0; while [ $i -lt ${count} ]; do read -r noise <&3; ${program} ${name} $i $noise; i=$((i+1)); done 3<${noise}`;
      return once(host.spawn('/bin/sh', ['-c', script]), 'exit');
    },
    async startSensor(env = {}) {
      const child = host.spawn(process.execPath, ['--no-warnings', main], {
        stdio: ['ignore', 'ignore', 'pipe'],
        env: {
          ...process.env,
          TIDEGATE_NATS_URL: server.url,
          TIDEGATE_NATS_USER: 'sensor',
          TIDEGATE_NATS_PASSWORD: 'sensor',
          TIDEGATE_NATS_INBOX_BY_NODE: 'true',
          TIDEGATE_NODE: NODE,
          TIDEGATE_DATA_DIR: dataDir,
          TIDEGATE_PIN_DIRECTORY: pinDirectory,
          TIDEGATE_ALLOW_BINARIES: program,
          TIDEGATE_LIFECYCLE_RING_BYTES: String(16 * MIB),
          TIDEGATE_HEALTH_PORT: String(port),
          ...env,
        },
      });
      let log = '';
      child.stderr!.on('data', (chunk: Buffer) => (log += chunk.toString()));
      const url = await waitFor(() => /"url":"(http:[^"]+)"/.exec(log)?.[1], { what: 'the health server' });
      port = Number(new URL(url).port);
      const failure = () => new Error(`the sensor ended: ${log}`);
      child.once('exit', () => (log += '\n(ended)'));
      await waitFor(
        () => {
          if (child.exitCode !== null) throw failure();
          return log.includes('reading kernel events');
        },
        { what: `the sensor to read kernel events` },
      );
      return {
        child,
        url,
        async stop() {
          child.kill('SIGTERM');
          if (child.exitCode === null) await once(child, 'exit');
          assert.equal(child.exitCode, 0, log);
        },
      };
    },
    [Symbol.asyncDispose]: () => host[Symbol.asyncDispose](),
  };
}

async function ready({ url }: TestSensor): Promise<void> {
  await waitFor(async () => (await fetch(`${url}/readyz`)).status === 200, { what: 'the sensor to be ready' });
}

/** A sensor that keeps nothing pinned, from its start to its end, with a storm of 20 in between. */
async function runOnce(bench: Bench, storm: string, env: Record<string, string> = {}): Promise<void> {
  const sensor = await bench.startSensor({ TIDEGATE_KEEP_PINS: 'false', ...env });
  await ready(sensor);
  await bench.storm(storm, 20);
  await sensor.stop();
}

/** Numbers of the storm's programs whose exec is there, in the order of the stream. */
function stormExecs(batches: readonly EventBatch[], name: string): number[] {
  return batches.flatMap(batch => {
    const processes = new Map(batch.processes.map(process => [process.id, process]));
    return batch.events.flatMap(event => {
      const args = event.kind === Kind.KIND_EXEC ? processes.get(event.process)?.arguments : undefined;
      return args?.[1] === name ? [Number(args[2])] : [];
    });
  });
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

test('batches wait as configured, and not while somebody follows live', { skip }, async () => {
  await using bench = await createBench();
  const sensor = await bench.startSensor({ TIDEGATE_LINGER_MS: '60000' });
  await ready(sensor);
  await bench.storm('waits', 20);
  const stored = async () => stormExecs((await auditRaw(bench.nc, NODE)).batches, 'waits').length;
  assert.equal(await stored(), 0);
  // Leases that are none change nothing.
  for (const lease of ['', '{}', '{"lingerMs":-1,"forMs":1}', '{"lingerMs":"2","forMs":1}']) bench.nc.publish(paceSubject(NODE), lease);
  bench.nc.publish(paceSubject('another-node'), paceLeaseCodec.encode({ lingerMs: 2, forMs: MAX_PACE_LEASE_MS }));
  await bench.nc.flush();
  assert.equal(await stored(), 0);
  bench.nc.publish(paceSubject(NODE), paceLeaseCodec.encode({ lingerMs: 2, forMs: 1_000 }));
  await waitFor(async () => (await stored()) === 20, { what: 'the batch that waited' });
  await bench.storm('live', 1);
  bench.nc.publish(paceSubject(), paceLeaseCodec.encode({ lingerMs: 0, forMs: MAX_PACE_LEASE_MS * 1_000 }));
  await waitFor(async () => stormExecs((await auditRaw(bench.nc, NODE)).batches, 'live').length === 1, { what: 'what happens then' });
  await sensor.stop();
});

test('batches wait longer where an enricher is behind, whoever follows live, and no longer than the lease holds', { skip }, async () => {
  await using bench = await createBench();
  const sensor = await bench.startSensor();
  await ready(sensor);
  bench.nc.publish(paceSubject(NODE), paceLeaseCodec.encode({ lingerMs: MAX_SLOW_LINGER_MS, forMs: 3_000, isBehind: true }));
  bench.nc.publish(paceSubject(NODE), paceLeaseCodec.encode({ lingerMs: LIVE_LINGER_MS, forMs: MAX_PACE_LEASE_MS }));
  await bench.nc.flush();
  const ranAtMs = Date.now();
  await bench.storm('slow', 1);
  await waitFor(async () => stormExecs((await auditRaw(bench.nc, NODE)).batches, 'slow').length === 1, { what: 'the batch' });
  const manager = await jetstreamManager(bench.nc);
  const waitedMs = (await manager.streams.getMessage(STREAMS.raw.name, { last_by_subj: rawSubject(NODE) }))!.time.getTime() - ranAtMs;
  assert.ok(waitedMs > 1_500, `it waited ${waitedMs} ms`);
  await sensor.stop();
});

test('reports itself, publishes what happens, and leaves nothing when told to', { skip }, async () => {
  await using bench = await createBench();
  const sensor = await bench.startSensor({ TIDEGATE_KEEP_PINS: 'false' });
  await ready(sensor);
  const status = (await (await new Kvm(bench.nc).open(BUCKETS.sensors.name)).get(NODE))!.json<SensorStatus>();
  assert.equal(status.node, NODE);
  assert.equal(status.recorded, false);
  assert.ok(status.hooks.some(hook => hook.hook === 'sched_process_exec' && hook.attached));
  await bench.storm('quiet', 20);
  await sensor.stop();
  const { batches, lost } = await auditRaw(bench.nc, NODE);
  assert.deepEqual(stormExecs(batches, 'quiet'), upTo(20));
  assert.deepEqual(lost, {});
  assert.equal(existsSync(bench.pinDirectory), false, 'no pins are left');
});

test('nats-server killed and restarted mid-storm: every number exactly once', { skip }, async () => {
  await using bench = await createBench();
  const sensor = await bench.startSensor({ TIDEGATE_KEEP_PINS: 'false' });
  await ready(sensor);
  const count = 1_500;
  const running = bench.storm('kill', count);
  await bench.storm('before', 50);
  await bench.server.kill();
  await bench.storm('away', 200);
  await bench.server.restart();
  await running;
  await ready(sensor);
  await sensor.stop();
  const { batches, lost } = await auditRaw(bench.nc, NODE);
  assert.deepEqual(lost, {});
  assert.deepEqual(stormExecs(batches, 'kill'), upTo(count));
  assert.deepEqual(stormExecs(batches, 'away'), upTo(200));
});

test('sensor killed and restarted mid-storm: the loss covers what is missing, and nothing else is', { skip }, async () => {
  await using bench = await createBench();
  const killed = await bench.startSensor();
  await ready(killed);
  const count = 3_000;
  const running = bench.storm('kill', count);
  await bench.storm('before', 50);
  await endChild(killed.child);
  await bench.storm('away', 100);
  const restarted = await bench.startSensor({ TIDEGATE_KEEP_PINS: 'false' });
  await running;
  await ready(restarted);
  await restarted.stop();
  const { batches, lost } = await auditRaw(bench.nc, NODE);
  assert.ok(Object.keys(lost).every(reason => reason === 'sensor_restart'));
  const execs = stormExecs(batches, 'kill');
  assert.equal(new Set(execs).size, execs.length, 'nothing is there twice');
  assert.ok(count - execs.length <= (lost['sensor_restart'] ?? 0), 'what is missing is counted');
  assert.deepEqual(stormExecs(batches, 'away'), upTo(100), 'the kernel went on recording');
});

test('a sensor that keeps nothing pinned tells once that nobody was watching while it was away', { skip }, async () => {
  await using bench = await createBench();
  for (const name of ['first', 'second']) {
    await runOnce(bench, name);
  }
  const { batches } = await auditRaw(bench.nc, NODE);
  assert.deepEqual(stormExecs(batches, 'second'), upTo(20));
  const gaps = batches.flatMap(({ events }) => events.flatMap(({ loss }) => (loss && !loss.count ? [loss] : [])));
  assert.deepEqual(
    gaps.map(({ reason, fromKtimeNs, toKtimeNs }) => [reason, (fromKtimeNs ?? 0) > 0 && (toKtimeNs ?? 0) > (fromKtimeNs ?? 0)]),
    [[LossReason.LOSS_REASON_SENSOR_RESTART, true]],
  );
});

test('a lost folder and a RAW that has forgotten: numbers go on where they were, and nothing is said to be lost', { skip }, async () => {
  await using bench = await createBench();
  await runOnce(bench, 'first');
  const { last } = await auditRaw(bench.nc, NODE);
  await (await jetstreamManager(bench.nc)).streams.purge(STREAMS.raw.name);
  await runOnce(bench, 'second', { TIDEGATE_DATA_DIR: bench.host.folder() });
  const { batches, lost } = await auditRaw(bench.nc, NODE, last + 1);
  assert.deepEqual(stormExecs(batches, 'second'), upTo(20));
  assert.deepEqual(lost, {});
});

test('a machine that lost power remembers older numbers than RAW: none is given out twice', { skip }, async () => {
  await using bench = await createBench();
  const { host, nc } = bench;
  const [folder, asOnDisk, procRoot] = [host.folder(), join(host.folder(), 'state'), host.folder()];
  const bootId = join(host.folder(), 'boot-id');
  writeFileSync(bootId, randomUUID());
  execFileSync('mount', ['-t', 'proc', 'proc', procRoot]);
  host.defer(() => void execFileSync('umount', ['--recursive', procRoot]));
  execFileSync('mount', ['--bind', bootId, join(procRoot, 'sys/kernel/random/boot_id')]);
  const env = { TIDEGATE_DATA_DIR: folder, TIDEGATE_PROC_ROOT: procRoot };
  await runOnce(bench, 'first', env);
  cpSync(folder, asOnDisk, { recursive: true });
  await runOnce(bench, 'second', env);
  rmSync(folder, { recursive: true });
  cpSync(asOnDisk, folder, { recursive: true });
  writeFileSync(bootId, randomUUID());
  await runOnce(bench, 'third', env);
  const { present, lost } = await auditRaw(nc, NODE);
  // A program is an exec and an exit; nobody watched in between, twice.
  assert.equal(present.size, 3 * 2 * 20 + 2);
  assert.deepEqual(lost, {});
});

test('a name that is used again goes on counting behind the node that left', { skip }, async () => {
  await using bench = await createBench();
  await runOnce(bench, 'first');
  const { last } = await auditRaw(bench.nc, NODE);
  const buckets = await createBuckets({ nc: bench.nc, logger: testLogger() });
  const left = await createNodeRegistry(buckets).remove(NODE, RemovedBy.administrator);
  assert.ok(left!.lastSequence >= last, `${left!.lastSequence} of ${last}`);
  buckets.close();
  await (await jetstreamManager(bench.nc)).streams.purge(STREAMS.raw.name);
  await runOnce(bench, 'second', { TIDEGATE_DATA_DIR: bench.host.folder() });
  const { batches, lost } = await auditRaw(bench.nc, NODE, left!.lastSequence + 1);
  assert.deepEqual(stormExecs(batches, 'second'), upTo(20));
  assert.deepEqual(lost, {});
});

test('started and killed while NATS is away: nothing spooled is lost', { skip }, async () => {
  await using bench = await createBench();
  const first = await bench.startSensor();
  await ready(first);
  // A sensor that has given out no number yet asks NATS for the last one before it starts.
  await bench.storm('first', 1);
  await first.stop();
  await bench.server.kill();
  const second = await bench.startSensor();
  await bench.storm('spooled', 200);
  await waitFor(async () => Number(/spool_batches (\d+)/.exec(await (await fetch(`${second.url}/metrics`)).text())?.[1]) > 0, {
    what: 'batches in the spool',
  });
  assert.equal((await fetch(`${second.url}/readyz`)).status, 503);
  await endChild(second.child);
  await bench.server.restart();
  const third = await bench.startSensor({ TIDEGATE_KEEP_PINS: 'false' });
  await ready(third);
  await third.stop();
  const { batches, lost } = await auditRaw(bench.nc, NODE);
  const execs = stormExecs(batches, 'spooled');
  assert.ok(200 - execs.length <= (lost['sensor_restart'] ?? 0));
  assert.ok(execs.length > 0);
});

test('a full spool loses the oldest and says how many, and memory stays bounded', { skip }, async () => {
  await using bench = await createBench();
  const sensor = await bench.startSensor({
    TIDEGATE_KEEP_PINS: 'false',
    TIDEGATE_SPOOL_MAX_BYTES: String(MIB),
    TIDEGATE_WINDOW_BYTES: String(MIB),
  });
  await ready(sensor);
  await bench.server.kill();
  // Random text does not compress: more than twice of what the spool and the window hold, however it falls into batches.
  const count = 800;
  await bench.storm('full', count, 8_000);
  const status = join('/proc', String(sensor.child.pid), 'status');
  assert.ok(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(status, 'utf8'))![1]) < 250 * 1024, 'less than 250 MB');
  await bench.server.restart();
  await ready(sensor);
  await sensor.stop();
  const { batches, lost } = await auditRaw(bench.nc, NODE);
  const execs = stormExecs(batches, 'full');
  assert.ok(execs.length < count);
  assert.ok(count - execs.length <= lost['spool_full']!);
  assert.deepEqual(execs, upTo(count).slice(-execs.length));
});
