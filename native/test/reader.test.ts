import { LossReason } from '@tidegate/contracts';
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { waitFor } from '@tidegate/testkit';
import { NativeError, Reader, readState } from '../src/index.ts';
import { findExec, openBatch, readerOptions, sequencesAreWhole, skipReason, startSensor, temporaryFolder } from './sensor.ts';

const RELOADS = 8;
const WORKER_FILE = fileURLToPath(new URL('./programs/reader-worker.ts', import.meta.url));

function nothing(): void {
  // Batches of no interest.
}

/** Names of the BPF maps and programs that file descriptors of this process hold. */
function bpfDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

describe('reader', { skip: skipReason() }, () => {
  test('every wrong option is told at once', () => {
    const options = readerOptions('/tmp', { node: '', dataRingBytes: 5000, lingerMs: -1, stateFile: 'here', batchMaxBytes: 1 });
    assert.throws(
      () => new Reader(options, nothing),
      (error: unknown) => {
        assert.ok(error instanceof NativeError);
        assert.equal(error.code, 'NATIVE_OPTIONS_INVALID');
        for (const field of ['node', 'dataRingBytes', 'lingerMs', 'stateFile', 'batchMaxBytes'])
          assert.match(error.message, new RegExp(field));
        return true;
      },
    );
  });

  test('a BPF object that is missing or broken is told, and leaves nothing open', t => {
    const folder = temporaryFolder();
    t.after(() => {
      rmSync(folder, { recursive: true });
    });
    const broken = join(folder, 'broken.bpf.o');
    writeFileSync(broken, 'not an object');
    for (const objectFile of [broken, join(folder, 'missing.bpf.o')]) {
      const reader = new Reader(readerOptions(folder, { objectFile }), nothing);
      assert.throws(() => reader.start(), { code: 'NATIVE_LOAD_FAILED', message: new RegExp(objectFile) });
    }
  });

  test('closes once, however often and early it is called', async t => {
    const folder = temporaryFolder();
    t.after(() => {
      rmSync(folder, { recursive: true });
    });
    const unused = new Reader(readerOptions(folder), nothing);
    await unused.close();
    assert.throws(() => unused.start(), { code: 'NATIVE_STATE' });

    const reader = new Reader(readerOptions(folder), nothing);
    reader.start();
    assert.throws(() => reader.start(), { code: 'NATIVE_STATE' });
    const closing = reader.close();
    assert.equal(reader.close(), closing);
    await closing;
    await reader.close();
    assert.ok(reader.counters().synchronisations >= 1);
    assert.throws(
      () => {
        reader.flush();
      },
      { code: 'NATIVE_STATE' },
    );
  });

  test('loads and unloads again and again', async () => {
    const folder = temporaryFolder();
    let descriptors = 0;
    for (let round = 0; round < RELOADS; round++) {
      const sensor = startSensor({}, folder);
      const marker = randomUUID();
      execFileSync('/bin/true', [marker]);
      await sensor.until('the exec', () => findExec(sensor, marker) !== undefined);
      await sensor.reader.close({ unpin: true });
      if (round === 0) descriptors = bpfDescriptors();
    }
    assert.ok(bpfDescriptors() <= descriptors);
    rmSync(folder, { recursive: true });
  });

  test('signals that come while the programs are loaded stop none of them', async t => {
    process.on('SIGURG', nothing);
    t.after(() => process.off('SIGURG', nothing));
    const sender = spawn('bash', ['-c', `while kill -URG ${process.pid}; do :; done`], { stdio: 'ignore' });
    t.after(() => sender.kill('SIGKILL'));
    await once(process, 'SIGURG');
    const sensor = startSensor();
    sender.kill('SIGKILL');
    await sensor.close();
    assert.deepEqual(
      sensor.hooks.filter(hook => !hook.attached),
      [],
    );
  });

  test('a state file has one reader at a time, and others may look into it', async () => {
    const sensor = startSensor();
    const second = new Reader(sensor.options, nothing);
    assert.throws(() => second.start(), { code: 'NATIVE_STATE_FILE_LOCKED' });
    assert.equal(readState(join(sensor.folder, 'none')), null);
    const marker = randomUUID();
    execFileSync('/bin/true', [marker]);
    await sensor.until('the exec', () => findExec(sensor, marker) !== undefined);
    const last = sensor.batches.at(-1);
    const state = readState(sensor.options.stateFile);
    assert.ok(state && last && state.nextSequence > last.lastSequence && state.lastBatch >= last.batch);
    assert.equal(state.boot, sensor.options.boot);
    await sensor.close();
  });

  test('two readers see the same, each with numbers of its own', async () => {
    const [first, second] = [startSensor({ firstSequence: 1000 }), startSensor()];
    const marker = randomUUID();
    execFileSync('/bin/true', [marker]);
    await Promise.all([first, second].map(sensor => sensor.until('the exec', () => findExec(sensor, marker) !== undefined)));
    assert.equal(findExec(first, marker)?.process?.execId, findExec(second, marker)?.process?.execId);
    assert.equal(first.batches[0]?.firstSequence, 1000);
    assert.equal(second.batches[0]?.firstSequence, 1);
    await first.close();
    const later = randomUUID();
    execFileSync('/bin/true', [later]);
    await second.until('an exec after the first has closed', () => findExec(second, later) !== undefined);
    await second.close();
  });

  test('numbers go on in the next run, and what nobody recorded in between is told first, once', async () => {
    const folder = temporaryFolder();
    const first = startSensor({ firstSequence: 500 }, folder);
    execFileSync('/bin/true');
    await first.until('a batch', () => first.batches.length > 0);
    await first.reader.close({ unpin: true });
    const next = readState(first.options.stateFile)?.nextSequence ?? 0;
    assert.equal(next, (first.batches.at(-1)?.lastSequence ?? 0) + 1);

    const second = startSensor({}, folder);
    const marker = randomUUID();
    execFileSync('/bin/true', [marker]);
    await second.until('an exec', () => findExec(second, marker) !== undefined);
    const gap = second.events[0]!.event;
    assert.deepEqual([gap.sequence, gap.loss?.reason, gap.loss?.count ?? 0], [next, LossReason.LOSS_REASON_SENSOR_RESTART, 0]);
    // What happened nobody has counted, but when that was is known.
    assert.ok((gap.loss?.fromKtimeNs ?? 0) > 0 && (gap.loss?.toKtimeNs ?? 0) > (gap.loss?.fromKtimeNs ?? 0));
    assert.equal(second.events.filter(({ event }) => event.loss?.reason === LossReason.LOSS_REASON_SENSOR_RESTART).length, 1);
    await second.close();
  });

  test('works in a worker thread, and ends with it', async () => {
    const main = startSensor();
    for (const manner of ['close', 'terminate', 'exit']) {
      const folder = temporaryFolder();
      const worker = new Worker(WORKER_FILE, { workerData: { folder, manner } });
      const [payload] = (await once(worker, 'message')) as [Uint8Array];
      assert.ok(payload.length > 0);
      const exited = once(worker, 'exit');
      if (manner === 'terminate') await worker.terminate();
      else worker.postMessage('end');
      await exited;
      rmSync(folder, { recursive: true });
    }
    const marker = randomUUID();
    execFileSync('/bin/true', [marker]);
    await main.until('an exec after the workers', () => findExec(main, marker) !== undefined);
    await main.close();
  });

  test('a process that ends without closing its reader ends well', () => {
    const folder = temporaryFolder();
    const script = `
      import { Reader } from ${JSON.stringify(new URL('../src/index.ts', import.meta.url).href)};
      new Reader({ ...${JSON.stringify(readerOptions(folder))} }, () => process.exit(7)).start();
      const { execFileSync } = await import('node:child_process');
      execFileSync('/bin/true');`;
    const { status, signal, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
    assert.deepEqual([status, signal], [7, null], stderr);
    rmSync(folder, { recursive: true });
  });

  const LINGER_MS = 10_000;

  test('flush hands out at once what would wait for the linger', async () => {
    const sensor = startSensor({ lingerMs: LINGER_MS });
    const marker = randomUUID();
    execFileSync('/bin/true', [marker]);
    const seen = (): boolean => {
      sensor.reader.flush();
      return findExec(sensor, marker) !== undefined;
    };
    await waitFor(seen, { timeoutMs: LINGER_MS - 1_000, what: 'the exec, before its linger is over' });
    assert.ok(sensor.batches.length > 0);
    await sensor.close();
  });

  test('a shorter linger counts for the batch that waits already', async () => {
    const sensor = startSensor({ lingerMs: 60_000 });
    const marker = randomUUID();
    execFileSync('/bin/true', [marker]);
    sensor.reader.setLinger(2);
    await sensor.until('the exec', () => findExec(sensor, marker) !== undefined);
    assert.throws(() => sensor.reader.setLinger(NaN), /lingerMs: expected a number from 0/);
    await sensor.close();
  });

  test('a compressed batch is the same batch', async () => {
    const sensor = startSensor({ compression: 'zstd' });
    const marker = randomUUID();
    // Long enough to be worth it in whatever batch it comes.
    execFileSync('/bin/true', [marker, 'x'.repeat(10_000)]);
    await sensor.until('the exec', () => findExec(sensor, marker) !== undefined);
    assert.ok(sensor.batches.some(batch => batch.encoding === 'zstd'));
    for (const batch of sensor.batches) assert.equal(openBatch(batch).length, batch.events);
    assert.ok(sequencesAreWhole(sensor.batches));
    await sensor.close();
  });
});
