import { Kind, LossReason } from '@tidegate/contracts';
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { createConnection, createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { createHost, type Host } from '@tidegate/testkit';
import { readState, stormPinned, type StormOptions } from '../src/index.ts';
import { createCgroups } from './cgroups.ts';
import {
  compileProgram,
  findExec,
  readerOptions,
  sequencesAreWhole,
  skipReason,
  startSensor,
  STORM_FILE,
  temporaryFolder,
  type SeenEvent,
  type TestSensor,
} from './sensor.ts';

const STORM_EVENTS = 200_000;
const TINY_RING_BYTES = 1 << 14;
/** No cgroup has this id: of all events on the data ring only the storm's pass, so that counts are exact whatever else runs here. */
const STORM_CGROUP = 0x7000_0000;
const STORM_ONLY = { allow: { cgroups: [STORM_CGROUP] } };
const DOWNTIME_EXECS = 50;
const SOURCE = JSON.stringify(new URL('../src/index.ts', import.meta.url).href);

describe('losses', { skip: skipReason() }, () => {
  let host: Host;
  let bpffs: string;
  let pinDirectory: string;
  let folder: string;

  before(() => {
    host = createHost();
    bpffs = host.bpffs();
  });
  after(() => host[Symbol.asyncDispose]());
  beforeEach(() => {
    pinDirectory = `${bpffs}/${randomUUID()}`;
    folder = temporaryFolder();
  });
  afterEach(() => {
    const left = existsSync(pinDirectory);
    rmSync(pinDirectory, { recursive: true, force: true });
    rmSync(folder, { recursive: true, force: true });
    assert.equal(left, false, 'pins were left behind');
  });

  function storm(events: number): StormOptions {
    return {
      objectFile: STORM_FILE,
      pinDirectory,
      events,
      pid: 0x7000_0000,
      startKtimeNs: 1n,
      execGeneration: 1n,
      cgroupIds: [STORM_CGROUP],
    };
  }

  function isRingLoss({ event }: SeenEvent): boolean {
    return event.loss?.reason === LossReason.LOSS_REASON_RING_FULL;
  }

  /** Of the storm: how many came, and how many the losses tell of. */
  function tally(sensor: TestSensor): { came: number; lost: number } {
    const came = sensor.events.filter(({ event, process }) => event.close && process?.pid === 0x7000_0000).length;
    const lost = sensor.events.filter(isRingLoss).reduce((sum, { event }) => sum + (event.loss?.byKind?.[Kind.KIND_CLOSE] ?? 0), 0);
    return { came, lost };
  }

  /** Every number from the first on is there once: as an event, or inside a loss. */
  function assertEveryNumber(events: SeenEvent[], first: number): void {
    let next = first;
    for (const { event } of events) {
      if (event.loss?.firstSequence) {
        assert.equal(event.loss.firstSequence, next);
        assert.equal(event.loss.lastSequence, next + event.loss.count! - 1);
        next = event.loss.lastSequence + 1;
      }
      assert.equal(event.sequence, next);
      next++;
    }
  }

  test('a full ring: what is lost is counted to the event', async () => {
    const sensor = startSensor({ pinDirectory, dataRingBytes: TINY_RING_BYTES, filters: STORM_ONLY }, folder);
    await stormPinned(storm(STORM_EVENTS));
    execFileSync('/bin/true');
    await sensor.until('the end of the storm', () => {
      const { came, lost } = tally(sensor);
      return came + lost >= STORM_EVENTS;
    });
    await sensor.close();
    const { came, lost } = tally(sensor);
    assert.equal(came + lost, STORM_EVENTS);
    assert.ok(lost > 0 && came > 0);
    assert.equal(sensor.reader.counters().lostByKind[Kind.KIND_CLOSE], lost);
    // The storm had a ring of its own to fill: no process went missing.
    const { lostForks, lostByKind, lifecycleRecords } = sensor.reader.counters();
    assert.ok(lifecycleRecords > 0);
    assert.deepEqual([lostForks, lostByKind[Kind.KIND_EXEC] ?? 0, lostByKind[Kind.KIND_EXIT] ?? 0], [0, 0, 0]);
    assertEveryNumber(sensor.events, 1);
    assert.ok(sequencesAreWhole(sensor.batches));
  });

  test('while JavaScript does not take batches, memory is bounded and the kernel counts', async () => {
    const sensor = startSensor(
      { pinDirectory, dataRingBytes: TINY_RING_BYTES, queueMaxBatches: 2, batchMaxBytes: 8192, filters: STORM_ONLY },
      folder,
    );
    // Synchronous: no batch is taken until it ends.
    const script = `import { stormPinned } from ${SOURCE}; await stormPinned(${stormLiteral()});`;
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
    assert.equal(sensor.batches.length, 0);
    await sensor.until('the whole storm', () => tally(sensor).came + tally(sensor).lost >= STORM_EVENTS);
    await sensor.close();
    const { came, lost } = tally(sensor);
    assert.equal(came + lost, STORM_EVENTS);
    assert.ok(sensor.reader.counters().queueFull > 0);
    // Little more than the queue and the ring hold came through.
    assert.ok(came < STORM_EVENTS / 10, `${came} events`);
    assertEveryNumber(sensor.events, 1);
  });

  function stormLiteral(): string {
    const { startKtimeNs, execGeneration, ...rest } = storm(STORM_EVENTS);
    return `{ ...${JSON.stringify(rest)}, startKtimeNs: ${startKtimeNs}n, execGeneration: ${execGeneration}n }`;
  }

  test('a sensor killed with SIGKILL: the next one reads on where it was, and nothing that happened in between is missing', async () => {
    const options = readerOptions(folder, { pinDirectory, boot: 'killed' });
    const script = `import { Reader } from ${SOURCE};
      new Reader(${JSON.stringify(options)}, batch => process.stdout.write(batch.lastSequence + '\\n')).start();
      console.log('started');`;
    const killed = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    killed.stdout.setEncoding('utf8');
    const before = randomUUID();
    for await (const chunk of killed.stdout) {
      output += chunk as string;
      if (output.includes('started') && !killed.killed) {
        execFileSync('/bin/true', [before]);
        killed.kill('SIGKILL');
      }
    }
    await (killed.signalCode ?? once(killed, 'exit'));

    const markers = Array.from({ length: DOWNTIME_EXECS }, () => randomUUID());
    for (const marker of markers) execFileSync('/bin/true', [marker]);
    const state = readState(options.stateFile);
    const sensor = startSensor({ pinDirectory }, folder);
    assert.deepEqual(sensor.reader.pinning, { pinned: true, resumed: true, note: '' });
    assert.deepEqual(
      sensor.hooks.filter(hook => !hook.attached),
      [],
    );
    await sensor.until('what happened in between', () => findExec(sensor, markers.at(-1)!) !== undefined);
    for (const marker of markers) assert.ok(findExec(sensor, marker), marker);
    const given = state?.nextSequence ?? 1;
    assert.equal(sensor.batches[0]?.firstSequence, given);
    assertEveryNumber(sensor.events, given);
    // The killed one handed out no number that its state does not know of.
    const handedOut = output.split('\n').map(Number).filter(Number.isInteger);
    assert.ok(Math.max(0, ...handedOut) < given);
    assert.equal(
      sensor.events.some(({ event }) => event.loss),
      false,
    );
    await sensor.close();
  });

  test('closed without unpin the kernel goes on recording; with it nothing stays', async () => {
    const first = startSensor({ pinDirectory }, folder);
    await first.reader.close();
    assert.equal(readdirSync(pinDirectory).length, 1);
    const marker = randomUUID();
    execFileSync('/bin/true', [marker]);
    const second = startSensor({ pinDirectory }, folder);
    assert.equal(second.reader.pinning.resumed, true);
    await second.until('an exec between the two', () => findExec(second, marker) !== undefined);
    await second.close();
  });

  test('more connections than the kernel remembers the accepter of: counted, and told when they end', async t => {
    const sensor = startSensor({ pinDirectory }, folder);
    const [pins = ''] = readdirSync(pinDirectory);
    execFileSync(compileProgram(folder, 'fill_map'), [join(pinDirectory, pins, 'connections')]);
    const server = createServer(socket => socket.resume().on('end', () => socket.end())).listen(0, '127.0.0.1');
    t.after(() => server.close());
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const socket = createConnection({ host: '127.0.0.1', port });
    await once(socket, 'connect');
    const { localPort } = socket;
    const ofServer = (): SeenEvent[] =>
      sensor.events.filter(({ event: { accept, close } }) => {
        const ends = accept ?? close;
        return ends?.sourcePort === port && ends.destinationPort === localPort;
      });
    socket.end();
    await sensor.until('the close', () => ofServer().some(({ event }) => event.close));
    assert.deepEqual(
      ofServer().map(({ event, process: owner }) => [event.accept ? 'accept' : 'close', owner?.pid]),
      [
        ['accept', process.pid],
        ['close', process.pid],
      ],
    );
    assert.ok(sensor.reader.counters().untrackedAccepts > 0);
    await sensor.close();
  });

  test('who forked a process that is an orphan by now is known to the next sensor too', async t => {
    const program = compileProgram(folder, 'lineage');
    const first = startSensor({ pinDirectory }, folder);
    const marker = randomUUID();
    const launcher = spawn(program, ['held', marker], { stdio: ['pipe', 'pipe', 'inherit'] });
    t.after(() => launcher.kill('SIGKILL'));
    const [line] = (await once(launcher.stdout.setEncoding('utf8'), 'data')) as [string];
    const [middle, kernelParent] = line.split(' ').map(Number);
    const end = (): SeenEvent | undefined => first.events.find(({ event, process }) => event.exit && process?.pid === middle);
    await first.until('the end of the middle process', () => end() !== undefined);
    await first.reader.close();

    const second = startSensor({ pinDirectory }, folder);
    // The launcher stays: what has ended before a sensor reads the processes there are is known by its numbers alone.
    launcher.stdin.write('g');
    await second.until('the exec of the last', () => findExec(second, `${marker}-last`) !== undefined);
    const { process: last, ancestors } = findExec(second, `${marker}-last`)!;
    assert.equal(ancestors[0]?.execId, end()?.process?.execId);
    assert.equal(ancestors[1]?.execId, findExec(first, marker)?.process?.execId);
    assert.equal(ancestors.at(-1)?.pid, 1);
    assert.equal(last?.kernelParentPid, kernelParent);
    launcher.stdin.end();
    await second.close();
  });

  test('an orphan in a container has not entered it for the next sensor either', async t => {
    const cgroups = createCgroups();
    t.after(() => {
      cgroups.remove();
    });
    const cgroup = cgroups.make(`machine.slice/libpod-${'c0ffee00'.repeat(8)}.scope`);
    const program = compileProgram(folder, 'lineage');
    const first = startSensor({ pinDirectory }, folder);
    const marker = randomUUID();
    const shell = ['-c', `echo $$ > ${cgroup}/cgroup.procs && exec ${program} held ${marker}`];
    const launcher = spawn('/bin/sh', shell, { stdio: ['pipe', 'pipe', 'inherit'] });
    const ended = once(launcher, 'exit');
    t.after(() => launcher.kill('SIGKILL'));
    await once(launcher.stdout, 'data');
    await first.until('the launcher', () => findExec(first, marker) !== undefined);
    await first.reader.close();

    const second = startSensor({ pinDirectory }, folder);
    launcher.stdin.write('g');
    await second.until('the exec of the last', () => findExec(second, `${marker}-last`) !== undefined);
    const { process: last, container } = findExec(second, `${marker}-last`)!;
    assert.deepEqual([container?.containerId, last?.entered ?? false], ['c0ffee00'.repeat(8), false]);
    launcher.stdin.end();
    await ended;
    await second.close();
  });

  test('a sensor of another build takes the place of the pinned one', async () => {
    const first = startSensor({ pinDirectory }, folder);
    await first.reader.close();
    const second = startSensor({ pinDirectory, dataRingBytes: 1 << 20 }, folder);
    assert.deepEqual(second.reader.pinning, { pinned: true, resumed: false, note: '' });
    assert.equal(readdirSync(pinDirectory).length, 1);
    await second.close();
  });

  test('losses while no sensor ran are told by the next one', async () => {
    const overrides = { pinDirectory, dataRingBytes: TINY_RING_BYTES, filters: STORM_ONLY };
    const first = startSensor(overrides, folder);
    await first.reader.close();
    await stormPinned(storm(STORM_EVENTS));
    const second = startSensor(overrides, folder);
    await second.until('the storm', () => tally(second).came + tally(second).lost >= STORM_EVENTS);
    await second.close();
    const { came, lost } = tally(second);
    assert.equal(came + lost, STORM_EVENTS);
    assert.ok(came > 0 && lost > 0);
  });

  test('without a bpffs it runs unpinned and says so', async () => {
    const sensor = startSensor({ pinDirectory: `${folder}/pins` }, folder);
    assert.equal(sensor.reader.pinning.pinned, false);
    assert.match(sensor.reader.pinning.note, /not on a bpffs/);
    await sensor.close();
    await assert.rejects(stormPinned(storm(1)), /no sensor has pinned/);
  });
});
