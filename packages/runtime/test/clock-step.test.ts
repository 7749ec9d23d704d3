import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findNatsServer, prepareVm, runInVm } from '@tidegate/testkit';

const KERNEL = '6.12';
const TIMEOUT_MS = 300_000;

const skip = (await prepareVm(KERNEL)) ?? false;

test("a server's clock is put on by an hour, and back by two: readers miss nothing and read nothing twice", { skip }, async () => {
  const { path } = await findNatsServer();
  const { exitCode, output } = await runInVm(
    'ip link set lo up && node_modules/.bin/node --test --test-reporter=tap packages/runtime/test/clock-step-in-vm.ts',
    { kernel: KERNEL, timeoutMs: TIMEOUT_MS, memoryMib: 2_048, env: { TIDEGATE_NATS_SERVER: path } },
  );
  assert.equal(exitCode, 0, output);
  assert.match(output, /^# pass 1$/m);
});
