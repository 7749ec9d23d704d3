/** The supervisor with real services, on a capture that is played. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { createHost, waitFor, type Host } from '@tidegate/testkit';
import { createCapture } from '../src/capture-file.ts';
import { REPOSITORY, freePorts, runCommand, startCommand, startProgram, type RunningCommand } from './command-runner.ts';
import { captureEntry, sampleBatch } from './sample-batches.ts';

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGKILL'] as const;

interface Up {
  command: RunningCommand;
  folder: string;
  apiUrl: string;
  natsUrl: string;
  /** For a second one beside it. */
  args: string[];
}

async function startUp(host: Host, { folder = host.folder(), more = [] as string[], env = {} } = {}): Promise<Up> {
  const ports = await freePorts(6);
  const capture = await sampleCapture(host);
  const args = ['up', '--data-dir', join(folder, 'data'), '--play', capture, ...portArguments(ports), ...more];
  const command = startCommand(args, { cwd: folder, env: { TEST_FOLDER: join(folder, 'data'), ...env } });
  host.defer(() => endUp(command));
  return { command, folder: join(folder, 'data'), apiUrl: `http://127.0.0.1:${ports + 1}`, natsUrl: `nats://127.0.0.1:${ports}`, args };
}

async function sampleCapture(host: Host): Promise<string> {
  const capture = join(host.folder(), 'sample.tgcap');
  const writer = await createCapture(capture, { recordedAt: new Date().toISOString(), tidegate: '0.1.0' });
  for (let batch = 1; batch <= 10; batch++)
    await writer.write(captureEntry(sampleBatch('a', 'x', batch, batch * 10 - 9, 10), new Date(batch * 50)), 10);
  await writer.close();
  return capture;
}

function portArguments(first: number): string[] {
  return ['--nats-port', String(first), '--api-port', String(first + 1), '--health-ports', String(first + 2)];
}

async function endUp(command: RunningCommand): Promise<void> {
  command.child.kill('SIGTERM');
  await command.ended;
}

function untilReady({ command }: Up): Promise<true> {
  return waitFor(() => /Tidegate is ready[^]*npx tidegate events/.test(command.stdout()), {
    what: `up to be ready: ${command.stderr()}`,
    timeoutMs: 60_000,
  });
}

/** Processes that have this text in their command line or environment: all that a test's `up` started have its folder there. */
function processesWith(text: string): { pid: number; command: string }[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .flatMap(name => {
      try {
        const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ');
        if (!command.includes(text) && !readFileSync(`/proc/${name}/environ`, 'utf8').includes(text)) return [];
        return [{ pid: Number(name), command }];
      } catch {
        return [];
      }
    });
}

/** The start script of this checkout, without the set-up, in a folder of its own. */
function startNpm(host: Host, folder: string, args: readonly string[]): RunningCommand {
  const { scripts } = JSON.parse(readFileSync(join(REPOSITORY, 'package.json'), 'utf8')) as { scripts: { start: string } };
  const start = scripts.start.replace(/^node scripts\/setup\.js .*? &&/, 'true &&');
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'test', version: '1.0.0', scripts: { start } }));
  for (const name of ['node_modules', 'packages'])
    if (!existsSync(join(folder, name))) symlinkSync(join(REPOSITORY, name), join(folder, name));
  const npm = startProgram('npm', ['start', '--', ...args], { cwd: folder, env: { TEST_FOLDER: folder } });
  host.defer(() => processesWith(folder).forEach(({ pid }) => process.kill(pid, 'SIGKILL')));
  return npm;
}

function childOf(up: Up, text: string): number | undefined {
  return processesWith(up.folder).find(({ command, pid }) => command.includes(text) && pid !== up.command.child.pid)?.pid;
}

/** Throws when the process has ended just now. */
function signalled(pid: number | undefined, signal: NodeJS.Signals): number | undefined {
  if (pid !== undefined) process.kill(pid, signal);
  return pid;
}

async function eventCount({ apiUrl }: Up): Promise<number> {
  const { stdout } = await runCommand(['events', '--api', apiUrl, '--no-follow', '-o', 'ndjson']);
  return stdout.split('\n').length - 1;
}

test('up plays a capture, and Ctrl-C ends everything', async () => {
  await using host = createHost();
  const up = await startUp(host);
  await untilReady(up);
  assert.match(
    up.command.stdout(),
    /recorded ones, from .*sample\.tgcap\n.*page {4}http:.*\n.*API .*\n.*NATS .*\n.*feed .*nats sub.*\n.*try .*npx tidegate events/,
  );
  await waitFor(async () => (await eventCount(up)) >= 100, { what: 'recorded events' });
  const { stdout } = await runCommand(['events', '--api', up.apiUrl, '--no-follow']);
  assert.ok(
    stdout
      .trimEnd()
      .split('\n')
      .every(line => line.includes('recorded')),
    'each event is marked',
  );
  assert.equal((await runCommand(['audit', '--nats', up.natsUrl], { env: { TIDEGATE_DATA_DIR: up.folder } })).code, 0);

  const second = await runCommand(up.args);
  assert.equal(second.code, 2);
  assert.match(second.stderr, new RegExp(`already: pid ${up.command.child.pid}, since .*${up.apiUrl}`));

  up.command.child.kill('SIGINT');
  assert.equal(await up.command.ended, 0);
  assert.match(up.command.stdout(), /stopping\n.*stopped\n$/s);
  assert.deepEqual(processesWith(up.folder), []);
  assert.deepEqual(readdirSync(up.folder).sort(), ['nats', 'nats-users.json'], 'streams stay, and nothing else');
});

test('the cluster gets a name that stays, of the configuration or made', async () => {
  await using host = createHost();
  const clusterOf = ({ command }: Up) => /^cluster (\S+)$/m.exec(command.stdout())?.[1];
  const first = await startUp(host);
  await waitFor(() => clusterOf(first), { what: 'a name', timeoutMs: 30_000 });
  const made = clusterOf(first)!;
  assert.match(made, /^cluster-[0-9a-f]{8}$/);
  await endUp(first.command);

  const folder = join(first.folder, '..');
  const renamed = await startUp(host, { folder, more: ['--cluster', 'west'] });
  assert.equal(await renamed.command.ended, 2);
  assert.match(renamed.command.stderr(), new RegExp(`--cluster.*expected ${made}, got west`));

  const again = await startUp(host, { folder });
  await untilReady(again);
  assert.equal(clusterOf(again), made);
  await endUp(again.command);

  const named = await startUp(host, { more: ['--cluster', 'west'] });
  await untilReady(named);
  assert.equal(clusterOf(named), 'west');
  const wrong = await runCommand(['up', '--cluster', 'a:b']);
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /--cluster, expected 1 to 100 letters.*got "a:b"/);
});

test('a kubeconfig that leads to no cluster keeps no event back', async () => {
  await using host = createHost();
  const kubeconfig = join(host.folder(), 'kubeconfig');
  const cluster = { name: 'off', cluster: { server: 'https://127.0.0.1:1' } };
  const contexts = [{ name: 'off', context: { cluster: 'off', user: 'off' } }];
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'off',
      clusters: [cluster],
      contexts,
      users: [{ name: 'off', user: {} }],
    }),
  );
  const up = await startUp(host, { env: { KUBECONFIG: kubeconfig } });
  await waitFor(() => /^cluster cluster-[0-9a-f]{8}$/m.test(up.command.stdout()), { what: 'a name', timeoutMs: 60_000 });
  await waitFor(async () => (await eventCount(up)) > 0, { what: 'events', timeoutMs: 30_000 });
});

test('what dies is started again, and no event is lost or doubled by it', async () => {
  await using host = createHost();
  const up = await startUp(host);
  await untilReady(up);
  for (const program of ['enricher/dist', 'api/dist', 'nats-server']) {
    const pid = await waitFor(() => childOf(up, program), { what: program });
    const before = await waitFor(() => eventCount(up), { what: 'the API', timeoutMs: 30_000 });
    process.kill(pid, 'SIGKILL');
    await waitFor(() => ![undefined, pid].includes(childOf(up, program)), { what: `another ${program}`, timeoutMs: 30_000 });
    await waitFor(async () => (await eventCount(up)) > before, { what: `events after ${program} was killed`, timeoutMs: 60_000 });
  }
  assert.match(up.command.stdout(), /enricher was ended by SIGKILL; starting it again in 100 ms/);
  const audit = await runCommand(['audit', '--nats', up.natsUrl]);
  assert.equal(audit.code, 0, audit.stdout);
});

test('processes end when the supervisor is killed, and the next up takes over', async () => {
  await using host = createHost();
  const up = await startUp(host);
  await untilReady(up);
  up.command.child.kill('SIGKILL');
  await up.command.ended;
  const next = startCommand(up.args);
  host.defer(() => endUp(next));
  await waitFor(() => next.stdout().includes('Tidegate is ready'), { what: 'the next up', timeoutMs: 60_000 });
  const services = processesWith(up.folder).filter(({ command }) => command.includes('enricher/dist'));
  assert.equal(services.length, 1, 'none of the first is left');
  next.child.kill('SIGINT');
  assert.equal(await next.ended, 0);
  await waitFor(() => processesWith(up.folder).length === 0, { what: 'everything to end' });
});

test('a signal to npm or to the supervisor leaves nothing behind, and the next start works', async () => {
  await using host = createHost();
  const folder = host.folder();
  const ports = await freePorts(6);
  const capture = await sampleCapture(host);
  const args = ['--data-dir', join(folder, 'data'), '--play', capture, ...portArguments(ports)];
  for (const signal of SIGNALS) {
    for (const target of ['npm', 'supervisor'] as const) {
      const npm = startNpm(host, folder, args);
      await waitFor(() => npm.stdout().includes('Tidegate is ready'), {
        what: `npm start before ${signal}: ${npm.stderr()}`,
        timeoutMs: 60_000,
      });
      const supervisor = processesWith(folder).find(({ command }) => /main\.js up /.test(command) && !command.startsWith('npm'));
      process.kill(target === 'npm' ? npm.child.pid! : supervisor!.pid, signal);
      await waitFor(() => processesWith(folder).length === 0, {
        what: `everything to end after ${signal} to ${target}`,
        timeoutMs: 30_000,
      });
    }
  }
});

test('a signal to any process under the supervisor is got over, and leaves nothing behind in the end', async () => {
  await using host = createHost();
  const up = await startUp(host);
  await untilReady(up);
  const targets: [program: string, ending: readonly NodeJS.Signals[]][] = [
    ['api/dist', SIGNALS],
    ['enricher/dist', SIGNALS],
    ['main.js play', SIGNALS],
    ['nats-server', ['SIGTERM', 'SIGINT', 'SIGKILL']], // SIGHUP: it reads its configuration again
    ['while read -r what', ['SIGKILL']], // the guardian outlives what others may be ended with
  ];
  for (const [program, ending] of targets) {
    for (const signal of SIGNALS) {
      const pid = await waitFor(() => signalled(childOf(up, program), signal), { what: program, timeoutMs: 30_000 });
      if (ending.includes(signal))
        await waitFor(() => ![undefined, pid].includes(childOf(up, program)), {
          what: `another ${program} after ${signal}`,
          timeoutMs: 30_000,
        });
    }
  }
  const before = await waitFor(() => eventCount(up), { what: 'the API', timeoutMs: 30_000 });
  await waitFor(async () => (await eventCount(up)) > before, { what: 'events after all that', timeoutMs: 60_000 });
  up.command.child.kill('SIGKILL');
  await waitFor(() => processesWith(up.folder).length === 0, { what: 'everything to end', timeoutMs: 30_000 });
});

test('a taken port is named, with how to choose another', async () => {
  await using host = createHost();
  const ports = await freePorts(6);
  const server = createServer().listen(ports + 1, '127.0.0.1');
  host.defer(() => void server.close());
  const folder = host.folder();
  const { code, stderr } = await runCommand(['up', '--data-dir', folder, ...portArguments(ports)]);
  assert.equal(code, 2);
  assert.match(stderr, new RegExp(`${ports + 1}: page and API; --api-port chooses another`));
  assert.equal(existsSync(join(folder, 'up.json')), false);
});

test('as JSON every line of the log is an object with the name of its process', async () => {
  await using host = createHost();
  const up = await startUp(host, { more: ['--log-format', 'json'] });
  await untilReady(up);
  await endUp(up.command);
  const lines = up.command.stdout().trimEnd().split('\n');
  const names = new Set(lines.map(line => (JSON.parse(line) as { process: string }).process));
  for (const name of ['tidegate', 'api', 'enricher', 'player']) assert.ok(names.has(name), name);
});

test('whoever has no password may read events and write nothing', async () => {
  await using host = createHost();
  const up = await startUp(host);
  await untilReady(up);
  await waitFor(async () => (await eventCount(up)) >= 10, { what: 'recorded events' });
  const stranger = { TIDEGATE_DATA_DIR: host.folder() };
  assert.equal((await runCommand(['audit', '--nats', up.natsUrl], { env: stranger })).code, 0);
  const forged = await runCommand(['play', '--nats', up.natsUrl, '--speed', 'max', up.args[4]!], { env: stranger });
  assert.equal(forged.code, 2);
  assert.match(forged.stderr, /PUBLISH_DENIED/);
});
