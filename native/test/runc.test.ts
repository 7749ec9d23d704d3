import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { skipReason, startSensor, temporaryFolder, type SeenEvent, type TestSensor } from './sensor.ts';

interface Specification {
  process: { terminal: boolean; args: string[] };
  root: { path: string };
  linux: { cgroupsPath: string; namespaces: { type: string; path?: string }[] };
}

const APPLETS = ['cat', 'sh', 'sleep', 'true'];
const pathOf = (program: string) => spawnSync('/bin/sh', ['-c', `command -v ${program}`], { encoding: 'utf8' }).stdout.trim();
const busybox = pathOf('busybox');
const isStatic = busybox !== '' && spawnSync('ldd', [busybox]).status !== 0;
const skip = skipReason() || (!pathOf('runc') && 'runc is not in PATH') || (!isStatic && 'there is no static busybox in PATH');

/** Containers as Kubernetes' runtimes make them: runc forks on the host, moves into the cgroup, and only then loads the program. */
describe('containers of runc', { skip }, () => {
  let sensor: TestSensor;
  let folder: string;
  let ids: string[];
  const running: ChildProcess[] = [];

  before(() => {
    sensor = startSensor();
  });
  after(() => sensor.close());
  beforeEach(() => {
    ids = [];
    folder = temporaryFolder();
    mkdirSync(join(folder, 'root/bin'), { recursive: true });
    copyFileSync(busybox, join(folder, 'root/bin/busybox'));
    for (const applet of APPLETS) symlinkSync('busybox', join(folder, 'root/bin', applet));
  });
  afterEach(async () => {
    for (const id of ids) runc('delete', '--force', id);
    for (const child of running.splice(0)) if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    rmSync(folder, { recursive: true });
  });

  function runc(...args: string[]): void {
    // What a container inherits stays open as long as it runs: no pipes.
    const log = join(folder, 'log');
    const { status } = spawnSync('runc', ['--root', join(folder, 'state'), '--log', log, ...args], { stdio: 'ignore' });
    assert.equal(status, 0, readFileSync(log, 'utf8'));
  }

  /** A container that runs `args`, in the pid namespace of the process `sharedWith` if there is one. */
  function writeBundle(id: string, args: string[], sharedWith?: number): string {
    const bundle = join(folder, id);
    mkdirSync(bundle);
    execFileSync('runc', ['spec'], { cwd: bundle });
    const specification = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8')) as Specification;
    Object.assign(specification.process, { terminal: false, args });
    specification.root.path = join(folder, 'root');
    specification.linux.cgroupsPath = `/${id}`;
    const namespace = specification.linux.namespaces.find(({ type }) => type === 'pid')!;
    if (sharedWith !== undefined) namespace.path = `/proc/${sharedWith}/ns/pid`;
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(specification));
    return bundle;
  }

  function start(args: string[], sharedWith?: number): { id: string; pid: number } {
    const id = randomBytes(32).toString('hex');
    const bundle = writeBundle(id, args, sharedWith);
    ids.push(id);
    runc('run', '--detach', '--bundle', bundle, '--pid-file', join(bundle, 'pid'), id);
    return { id, pid: Number(readFileSync(join(bundle, 'pid'), 'utf8')) };
  }

  /** A shell in the container that waits for a line; then it ends. */
  function enter(id: string, marker: string): ChildProcess {
    const child = spawn(
      'runc',
      ['--root', join(folder, 'state'), 'exec', id, 'sh', '-c', 'sh -c "read line; /bin/true $line; :"; :', marker],
      {
        stdio: ['pipe', 'ignore', 'inherit'],
      },
    );
    running.push(child);
    return child;
  }

  /** runc's own command lines have the marker too. */
  function find(kind: 'exec' | 'exit', marker: string, by: TestSensor): SeenEvent | undefined {
    return by.events.find(({ event, process }) => {
      const words = process?.arguments ?? [];
      return event[kind] && words.includes(marker) && words[0] !== 'runc';
    });
  }

  async function seen(marker: string, by: TestSensor = sensor): Promise<SeenEvent> {
    await by.until(marker, () => find('exec', marker, by) !== undefined);
    return find('exec', marker, by)!;
  }

  const told = ({ process, container }: SeenEvent) => ({ id: container?.containerId ?? '', entered: process?.entered ?? false });

  test('the first program and its children are the container, what is executed in it entered', async () => {
    const [first, child, entered, childOfEntered] = Array.from({ length: 4 }, () => randomUUID()) as [string, string, string, string];
    const { id, pid } = start(['sh', '-c', `/bin/true ${child}; sleep 600; :`, first]);
    const firstExec = await seen(first);
    assert.deepEqual(told(firstExec), { id, entered: false });
    assert.equal(firstExec.process?.pid, pid);
    assert.equal(firstExec.event.exec?.namespacePid, 1);
    assert.deepEqual(told(await seen(child)), { id, entered: false });
    runc('exec', id, 'sh', '-c', `/bin/true ${childOfEntered}; :`, entered);
    for (const marker of [entered, childOfEntered]) assert.deepEqual(told(await seen(marker)), { id, entered: true });
  });

  test('what entered says with which program it came in, and so does all that it starts', async () => {
    const { id } = start(['sh', '-c', 'sleep 600; :']);
    const [entry, child, script, inScript] = Array.from({ length: 4 }, () => randomUUID()) as [string, string, string, string];
    writeFileSync(join(folder, 'root/bin/probe'), '#!/bin/sh -e\n/bin/true $1; :\n', { mode: 0o755 });
    const withExec = ['sh', '-c', 'sh -c "exec /bin/true $0"; exec sh -c "/bin/true $0; :"', child];
    // What runc starts it with is not what it came in with, whichever way its own program goes.
    for (let round = 0; round < 5; round++) runc('exec', id, 'true', `${entry}-${round}`);
    runc('exec', id, ...withExec);
    runc('exec', id, 'probe', inScript, script);
    const entryOf = ({ process }: SeenEvent) => [
      process?.entryArguments,
      process?.entryArgumentsTruncated ?? false,
      process?.entryTerminal ?? false,
    ];
    for (let round = 0; round < 5; round++)
      assert.deepEqual(entryOf(await seen(`${entry}-${round}`)), [['true', `${entry}-${round}`], false, false]);
    const ofChild = () =>
      sensor.events.filter(({ event, process }) => event.exec && process?.arguments?.[0] === '/bin/true' && process.arguments[1] === child);
    await sensor.until('both', () => ofChild().length === 2);
    for (const each of ofChild()) assert.deepEqual(entryOf(each), [withExec, false, false]);
    // A script is known as its caller gave it, not as the kernel calls its interpreter.
    const isInScript = ({ event, process }: SeenEvent) =>
      event.exec && process?.arguments?.[0] === '/bin/true' && process.arguments[1] === inScript;
    await sensor.until('the script', () => sensor.events.some(isInScript));
    assert.deepEqual(entryOf(sensor.events.find(isInScript)!), [['/bin/probe', inScript, script], false, false]);
    const long = 'x'.repeat(400);
    runc('exec', id, 'sh', '-c', ':', long);
    const isLong = ({ event, process }: SeenEvent) => event.exec && process?.arguments?.[0] === 'sh' && process.arguments[3] === long;
    await sensor.until('the long one', () => sensor.events.some(isLong));
    const [cut, isCut] = entryOf(sensor.events.find(isLong)!) as [string[], boolean];
    assert.ok(isCut && long.startsWith(cut[3]!) && cut.join(' ').length <= 256);
  });

  test('every program in the container has it, and runc on the host has none', async () => {
    const marker = randomUUID();
    const { id } = start(['sh', '-c', '/bin/true; sleep 600; :', marker]);
    runc('exec', id, 'true', marker);
    const inside = () => sensor.events.filter(({ event, container }) => event.exec && container?.containerId === id);
    await sensor.until('all', () => inside().length >= 4); // sh, /bin/true, sleep, true
    for (const { event, process, container } of sensor.events) {
      if (!event.exec || process?.arguments?.[0] !== 'runc') continue;
      // `runc init` loads itself once more, before or after it was moved: whichever it was, the cgroup tells.
      if (process.arguments[1] === 'init') continue;
      assert.equal(container, undefined, process.arguments.join(' '));
    }
  });

  test('a container that people name themselves', async context => {
    const marker = randomUUID();
    const id = `web.${marker}`;
    // runc removes its record with the container: it stays until it was seen.
    const bundle = writeBundle(id, ['sh', '-c', 'read line; :', marker]);
    context.after(() => spawnSync('runc', ['delete', '--force', id], { stdio: 'ignore' }));
    const run = spawn('runc', ['run', '--bundle', bundle, id], { stdio: ['pipe', 'ignore', 'ignore'] });
    running.push(run);
    const { process, container } = await seen(marker).finally(() => run.stdin.end());
    assert.deepEqual(
      [container?.containerId, container?.runtime, container?.name, container?.cgroupPath, container?.unconfirmed ?? false],
      [id, 'runc', id, `/${id}`, false],
    );
    assert.equal(process?.entered ?? false, false);
  });

  test('two containers that share a pid namespace are two', async () => {
    const [first, second, entered] = Array.from({ length: 3 }, () => randomUUID()) as [string, string, string];
    const one = start(['sh', '-c', 'sleep 600; :', first]);
    const two = start(['sh', '-c', 'sleep 600; :', second], one.pid);
    runc('exec', two.id, 'true', entered);
    assert.deepEqual(told(await seen(first)), { id: one.id, entered: false });
    const secondExec = await seen(second);
    assert.deepEqual(told(secondExec), { id: two.id, entered: false });
    assert.notEqual(secondExec.event.exec?.namespacePid, 1);
    assert.deepEqual(told(await seen(entered)), { id: two.id, entered: true });
    // The namespace's init is the other's, but each ends what is its own.
    runc('delete', '--force', ids.pop()!);
  });

  test('a sensor that starts later tells those that entered too', async context => {
    const [first, entered, line, childOfFirst] = Array.from({ length: 4 }, () => randomUUID()) as [string, string, string, string];
    const { id } = start(['sh', '-c', `while sleep 0.2; do /bin/true ${childOfFirst}; done`, first]);
    const shell = enter(id, entered);
    await seen(entered);
    const late = startSensor();
    context.after(() => late.close());
    assert.deepEqual(told(await seen(childOfFirst, late)), { id, entered: false });
    shell.stdin!.end(`${line}\n`);
    await late.until('its exit', () => find('exit', entered, late) !== undefined);
    assert.deepEqual(told(find('exit', entered, late)!), { id, entered: true });
  });
});
