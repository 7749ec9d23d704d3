import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { createHost, waitFor } from '@tidegate/testkit';

const GUARDIAN = new URL('../src/up/guardian.ts', import.meta.url).href;

test('when the supervisor is killed, a process that takes long to end is not cut off because another ended at once', async () => {
  await using host = createHost();
  const closed = join(host.folder(), 'closed');
  const quick = host.spawn('/bin/sleep', ['600']);
  const script = `trap 'sleep 1; : > ${closed}; exit' TERM; echo ready; while :; do sleep 0.1; done`;
  const slow = host.spawn('/bin/sh', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(slow.stdout!, 'data');
  const supervisor = host.spawn(
    process.execPath,
    [
      '--no-warnings',
      '--input-type=module',
      '--eval',
      `import { startGuardian } from '${GUARDIAN}';
       const guardian = startGuardian();
       for (const pid of [${quick.pid}, ${slow.pid}]) guardian.watch(pid);
       console.log('watching');
       setInterval(() => undefined, 1000);`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  await once(supervisor.stdout!, 'data');
  const ended = [quick, slow].map(child => once(child, 'exit'));
  supervisor.kill('SIGKILL');
  await waitFor(() => slow.exitCode !== null || slow.signalCode !== null, { what: 'the slow process to end' });
  await Promise.all(ended);
  assert.equal(slow.signalCode, null);
  assert.ok(existsSync(closed), 'it closed in order');
});
