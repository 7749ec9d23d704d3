import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, afterEach, describe, test } from 'node:test';
import { createCgroups, runIn, type TestCgroups } from './cgroups.ts';
import { cgroupRoot, findExec, skipReason, startSensor, type SeenEvent, type TestSensor } from './sensor.ts';

const ID = '0123456789abcdef'.repeat(4);
const OTHER_ID = 'fedcba9876543210'.repeat(4);
const POD = 'a1b2c3d4-0000-4000-8000-00000000beef';

function v1PidsRoot(): string | undefined {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  return mounts.map(line => line.split(' ')).find(([, , type, options]) => type === 'cgroup' && options?.split(',').includes('pids'))?.[1];
}

describe('containers', { skip: skipReason() }, () => {
  let sensor: TestSensor;
  let cgroups: TestCgroups;

  before(() => {
    sensor = startSensor();
  });
  after(() => sensor.close());
  beforeEach(() => {
    cgroups = createCgroups();
  });
  afterEach(() => {
    cgroups.remove();
  });

  async function seen(marker: string, by: TestSensor = sensor): Promise<SeenEvent> {
    await by.until(marker, () => findExec(by, marker) !== undefined);
    return findExec(by, marker)!;
  }

  const v1Root = v1PidsRoot();
  const isInRoot = readFileSync('/proc/self/cgroup', 'utf8').includes('\n0::/\n');
  const v1Skip = v1Root === undefined ? 'this machine has no cgroup v1' : isInRoot ? false : 'this process is in a cgroup of v2';
  test('a container that is in cgroup v1 alone', { skip: v1Skip }, async () => {
    const v1 = createCgroups(v1Root);
    const [old, first, entered] = [randomUUID(), randomUUID(), randomUUID()] as const;
    const cgroup = v1.make(`kubepods/besteffort/pod${POD}/${ID}`);
    const running = spawn('/bin/sh', ['-c', `echo $$ > ${cgroup}/cgroup.procs && echo ready && read line && /bin/true "$line" && :`], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    await once(running.stdout, 'data');
    const late = startSensor({ cgroupV1Root: v1Root! });
    const fresh = v1.make(`docker/${OTHER_ID}`);
    runIn(fresh, `/bin/true ${first}`);
    const made = await seen(first, late);
    assert.deepEqual([made.container?.containerId, made.container?.runtime, made.process?.entered ?? false], [OTHER_ID, 'docker', false]);
    assert.equal(made.container?.cgroupId, statSync(fresh).ino);
    assert.equal(made.event.exec?.cgroupId, statSync(fresh).ino);
    runIn(fresh, `/bin/true ${entered}`);
    assert.equal((await seen(entered, late)).process?.entered, true);
    running.stdin.end(`${old}\n`);
    const walked = await seen(old, late);
    assert.deepEqual([walked.container?.containerId, walked.container?.podUid], [ID, POD]);
    if (running.exitCode === null) await once(running, 'exit');
    await late.close();
    v1.remove();
  });

  test('a container that is older than the sensor is found too', async () => {
    const cgroup = cgroups.make(`docker/${ID}`);
    const inside = cgroups.make(`docker/${ID}/nested`);
    const running = spawn('/bin/sh', ['-c', `echo $$ > ${inside}/cgroup.procs && echo ready && read line && /bin/true "$line" && :`], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    await once(running.stdout, 'data');
    const late = startSensor();
    const marker = randomUUID();
    running.stdin.end(`${marker}\n`);
    const { process, container } = await seen(marker, late);
    assert.equal(container?.containerId, ID);
    assert.equal(join(cgroupRoot(), container.cgroupPath ?? ''), cgroup);
    assert.equal(process?.entered ?? false, false);
    if (running.exitCode === null) await once(running, 'exit');
    await late.close();
  });

  test('processes that come from outside have entered; those that grew up inside have not', async () => {
    const cgroup = cgroups.make(`docker/${ID}`);
    const markers = Array.from({ length: 4 }, () => randomUUID());
    const [first, child, entered, childOfEntered] = markers as [string, string, string, string];
    runIn(cgroup, `/bin/sh -c 'echo ${child} | xargs /bin/true; :' ${first}`);
    runIn(cgroup, `/bin/sh -c 'echo ${childOfEntered} | xargs /bin/true; :' ${entered}`);
    const flags = [];
    for (const marker of [first, child, entered, childOfEntered]) flags.push((await seen(marker)).process?.entered ?? false);
    assert.deepEqual(flags, [false, false, true, true]);
    const outside = randomUUID();
    spawnSync('/bin/true', [outside]);
    assert.equal((await seen(outside)).process?.entered ?? false, false);
  });

  test('a new cgroup of the same name is a new container', async () => {
    const [first, second] = [randomUUID(), randomUUID()];
    const cgroup = cgroups.make(`docker/${ID}`);
    runIn(cgroup, `/bin/true ${first}`);
    const before = await seen(first);
    rmdirSync(cgroup);
    mkdirSync(cgroup);
    runIn(cgroup, `/bin/true ${second}`);
    const after = await seen(second);
    assert.equal(after.container?.containerId, ID);
    assert.notEqual(after.container.cgroupId, before.container?.cgroupId);
    assert.equal(after.container.cgroupId, statSync(cgroup).ino);
    assert.equal(after.process?.entered ?? false, false);
  });

  test('a process moved into a container takes its later events along', async () => {
    const cgroup = cgroups.make(`docker/${ID}`);
    const marker = randomUUID();
    const child = spawn('/bin/sh', ['-c', 'read line', marker], { stdio: ['pipe', 'ignore', 'inherit'] });
    await seen(marker);
    writeFileSync(join(cgroup, 'cgroup.procs'), String(child.pid));
    child.stdin.end('\n');
    await once(child, 'exit');
    const exit = (): SeenEvent | undefined => sensor.events.find(({ event, process }) => event.exit && process?.pid === child.pid);
    await sensor.until('its exit', () => exit() !== undefined);
    assert.equal(exit()?.container?.containerId, ID);
  });
});
