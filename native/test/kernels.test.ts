import { prepareVm, runInVm, type KernelSeries } from '@tidegate/testkit';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildTestPrograms } from './test-programs.ts';

const KERNELS: readonly KernelSeries[] = ['6.1', '6.12'];
const TIMEOUT_MS = 300_000;
/** A choice of this folder's tests: the emulated machine is slow. */
const NAMES = [
  'every hook attaches',
  'a known tree of programs',
  'an exec tells who',
  'both ends of a connection over 127.0.0.1',
  'every field of every record is set',
  'that accept are named: daemon over tcp',
  'that accept are named: thread over mptcp',
];
const FILES = ['processes', 'connections', 'records', 'accepting'].map(name => `native/test/${name}.test.ts`);

for (const kernel of KERNELS) {
  const skip = (await prepareVm(kernel)) ?? false;

  test(`processes and connections on Linux ${kernel}`, { skip }, async () => {
    // In the VM the repository is read-only.
    buildTestPrograms();
    const patterns = NAMES.map(name => `--test-name-pattern='${name}'`).join(' ');
    const command = `node_modules/.bin/node --test --test-concurrency=1 --test-reporter=tap ${patterns} ${FILES.join(' ')}`;
    const { exitCode, output } = await runInVm(`ip link set lo up && ${command}`, { kernel, timeoutMs: TIMEOUT_MS });
    assert.equal(exitCode, 0, output);
    assert.match(output, new RegExp(`^# pass ${NAMES.length}$`, 'm'));
    assert.match(output, /^# skipped 0$/m);
  });
}
