/** The whole pipeline on this machine's kernel: what a user sees who types `tidegate up` and runs a program. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { EventJson } from '@tidegate/contracts';
import { createHost, waitFor } from '@tidegate/testkit';
import { probeKernel } from '../src/up/kernel-probe.ts';
import { cleanEnvironment, freePorts, runCommand, startCommand } from './command-runner.ts';

const probe = await probeKernel(process.env);

test('a program is seen with its parents, and the audit is clean', { skip: probe.ok ? false : probe.missing.join(' ') }, async () => {
  await using host = createHost();
  const ports = await freePorts(5);
  const folder = host.folder();
  const pins = join(host.bpffs(), 'tidegate');
  const api = `http://127.0.0.1:${ports + 1}`;
  const nats = `nats://127.0.0.1:${ports}`;
  const args = ['--nats-port', String(ports), '--api-port', String(ports + 1), '--health-ports', String(ports + 2)];
  const up = startCommand(['up', '--data-dir', join(folder, 'data'), ...args], {
    env: { TIDEGATE_PIN_DIRECTORY: pins, TIDEGATE_NODE: 'test-node' },
  });
  host.defer(async () => {
    up.child.kill('SIGTERM');
    await up.ended;
  });
  await waitFor(() => /Tidegate is ready[^]*npx tidegate events/.test(up.stdout()), {
    what: `up to be ready: ${up.stderr()}`,
    timeoutMs: 60_000,
  });
  assert.match(up.stdout(), /hooks {3}.*sched_process_exec/);

  const mark = `tidegate-test-${process.pid}`;
  execFileSync('/bin/sh', ['-c', `/bin/echo ${mark} >/dev/null; exit 0`], { env: cleanEnvironment() });
  const seen = async () => {
    const { stdout } = await runCommand([
      'events',
      '--api',
      api,
      '--no-follow',
      '--kind',
      'exec',
      '--text',
      `echo ${mark}`,
      '-o',
      'ndjson',
    ]);
    return stdout
      .split('\n')
      .slice(0, -1)
      .map(line => JSON.parse(line) as EventJson)
      .find(event => event.process?.arguments[0] === '/bin/echo');
  };
  const event = await waitFor(seen, { what: 'the program among the events', timeoutMs: 30_000 });
  assert.deepEqual(event.process?.arguments, ['/bin/echo', mark]);
  assert.equal(event.parent?.arguments[1], '-c');
  const ancestors = event.ancestors ?? [];
  assert.equal(ancestors[0]?.pid, process.pid, 'the test ran the shell');
  assert.equal(ancestors.at(-1)?.pid, 1, 'ancestry reaches init');

  const tree = await runCommand(['tree', '--api', api, event.process.exec_id]);
  assert.match(tree.stdout, new RegExp(`echo\\(${event.process.pid}\\) .*/echo ${mark} \\(uid \\d+\\) {3}\\[code 0 after`));
  const audit = await runCommand(['audit', '--nats', nats]);
  assert.equal(audit.code, 0, audit.stdout);
  const status = await runCommand(['status', '--api', api]);
  assert.match(status.stdout, /test-node {2}up for/);

  // Ctrl-C under npm: the terminal signals everyone, and npm passes it on.
  up.child.kill('SIGINT');
  await delay(20);
  up.child.kill('SIGINT');
  assert.equal(await up.ended, 0);
  assert.equal(existsSync(pins), false, 'no pins are left');
});
