/** The whole pipeline on this machine's kernel: what a user sees who types `tidegate up` and runs a program. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { setTimeout as delay } from 'node:timers/promises';
import type { EventJson } from '@tidegate/contracts';
import { createHost, waitFor, type Host } from '@tidegate/testkit';
import { ExitCode } from '../src/command.ts';
import { probeKernel } from '../src/up/kernel-probe.ts';
import { MAIN, cleanEnvironment, freePorts, runCommand, startCommand, startProgram, type RunningCommand } from './command-runner.ts';

const BPF_OBJECT = fileURLToPath(new URL('../../../bpf/build/tidegate.bpf.o', import.meta.url));
const probe = await probeKernel(process.env);

const skip = probe.ok ? false : probe.missing.join(' ');

/** Of `up`: NATS, the API, and from then on health. */
function portOptions(first: number): string[] {
  return ['--nats-port', String(first), '--api-port', String(first + 1), '--health-ports', String(first + 2)];
}

/** Each call starts it anew, on the same ports, folder and pins. */
async function createStage(host: Host) {
  const ports = await freePorts(6);
  const folder = host.folder();
  const pins = join(host.bpffs(), 'tidegate');
  const args = portOptions(ports);
  return {
    pins,
    api: `http://127.0.0.1:${ports + 1}`,
    nats: `nats://127.0.0.1:${ports}`,
    async start(): Promise<RunningCommand> {
      const env = { TIDEGATE_PIN_DIRECTORY: pins, TIDEGATE_NODE: 'test-node' };
      const up = startCommand(['up', '--data-dir', join(folder, 'data'), ...args], { env });
      host.defer(async () => {
        up.child.kill('SIGTERM');
        await up.ended;
      });
      await waitFor(() => /Tidegate is ready[^]*npx tidegate events/.test(up.stdout()), {
        what: `up to be ready: ${up.stderr()}`,
        timeoutMs: 60_000,
      });
      return up;
    },
  };
}

test('a supervisor or a sensor that is killed leaves no pins in the end, and the next start works', { skip }, async () => {
  await using host = createHost();
  const { pins, start } = await createStage(host);
  const first = await start();
  assert.equal(existsSync(pins), true);
  first.child.kill('SIGKILL');
  await waitFor(() => !existsSync(pins), { what: 'the pins to go', timeoutMs: 30_000 });

  const second = await start();
  const sensor = () => childrenOf(second.child.pid!).find(({ command }) => command.includes('node-sensor/dist'))?.pid;
  const killed = sensor()!;
  process.kill(killed, 'SIGKILL');
  await waitFor(() => ![undefined, killed].includes(sensor()), { what: 'another sensor' });
  await waitFor(() => /sensor .*reading kernel events.*resumed=true/.test(second.stdout()), {
    what: 'it to take over the pins',
  });
  second.child.kill('SIGHUP');
  assert.equal(await second.ended, 0);
  assert.equal(existsSync(pins), false);
});

test('where no bpffs is mounted, one is; where none can be, what is lost is said', { skip }, async () => {
  await using host = createHost();
  for (const canMount of [true, false]) {
    const ports = await freePorts(6);
    const args = portOptions(ports);
    // In mounts of its own, where the machine's bpffs is not.
    const path = canMount ? '' : 'PATH=/nonexistent ';
    const script = `umount /sys/fs/bpf 2>/dev/null; ${path}exec "$@"`;
    const command = [process.execPath, MAIN, 'up', '--data-dir', join(host.folder(), 'data'), ...args];
    const up = startProgram('unshare', ['--mount', '--propagation', 'private', '/bin/sh', '-c', script, 'sh', ...command], {
      env: { TIDEGATE_NODE: 'test-node' },
    });
    host.defer(async () => {
      up.child.kill('SIGTERM');
      await up.ended;
    });
    await waitFor(() => /Tidegate is ready[^]*npx tidegate events/.test(up.stdout()), { what: `up to be ready: ${up.stderr()}` });
    assert.equal(up.stdout().includes('mounted a bpffs at /sys/fs/bpf'), canMount);
    assert.equal(/not on a bpffs .*events are missed while the sensor restarts/.test(up.stdout()), !canMount);
    assert.match(up.stdout(), new RegExp(`pinned=${canMount}`));
    assert.ok(up.stdout().includes(`npx tidegate events --api http://127.0.0.1:${ports + 1}/ `));
    up.child.kill('SIGINT');
    assert.equal(await up.ended, 0);
  }
});

test('ready means that events come: a hook that is off is named, and the exit status says so', { skip }, async () => {
  await using host = createHost();
  const ports = await freePorts(6);
  const args = portOptions(ports);
  // As on a kernel without this tracepoint.
  const object = join(host.folder(), 'tidegate.bpf.o');
  const programs = readFileSync(BPF_OBJECT, 'latin1');
  writeFileSync(object, programs.replaceAll('tp_btf/sched_process_exec', 'tp_btf/sched_process_exeq'), 'latin1');
  const { code, stdout, stderr } = await runCommand(['up', '--data-dir', join(host.folder(), 'data'), ...args], {
    env: { TIDEGATE_PIN_DIRECTORY: join(host.bpffs(), 'tidegate'), TIDEGATE_NODE: 'test-node', TIDEGATE_BPF_OBJECT: object },
  });
  assert.equal(code, ExitCode.failed);
  assert.match(
    stderr,
    /not read back from EVENTS within 10 s.*sched_process_exeq is off: this kernel has no tracepoint sched_process_exeq.*NO_EVENTS/,
  );
  assert.doesNotMatch(stdout, /Tidegate is ready/);
  assert.match(stdout, /stopped/);
});

test('a program is seen with its parents, and the audit is clean', { skip }, async () => {
  await using host = createHost();
  const { pins, api, nats, start } = await createStage(host);
  const up = await start();
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

function childrenOf(pid: number): { pid: number; command: string }[] {
  const pids = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number);
  return pids.flatMap(child => {
    try {
      return [{ pid: child, command: readFileSync(`/proc/${child}/cmdline`, 'utf8').replaceAll('\0', ' ') }];
    } catch {
      return [];
    }
  });
}
