import type { Container } from '@tidegate/contracts';
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chownSync, mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createCgroups, runIn, type TestCgroups } from './cgroups.ts';
import { findExec, skipReason, startSensor, temporaryFolder, type TestSensor } from './sensor.ts';

const CONTAINERD = '/run/containerd/io.containerd.runtime.v2.task';
const STORAGE = '/run/containers/storage/overlay-containers';
const UNKNOWN = { name: '', image: '', runtime: '', sandbox: false };
const NOBODY = 65_534;
const FILE_MAX_BYTES = 4 << 20;
const DEPTH_MAX = 64;

const annotated = (annotations: object) => JSON.stringify({ ociVersion: '1.0.2', process: { args: ['annotations'] }, annotations });
const criContainer = (name: string, image: string) =>
  annotated({
    'io.kubernetes.cri.container-type': 'container',
    'io.kubernetes.cri.container-name': name,
    'io.kubernetes.cri.image-name': image,
    'io.kubernetes.cri.sandbox-name': 'web-0',
  });
const WEB = { name: 'web', image: 'docker.io/library/nginx:1.27', runtime: 'containerd', sandbox: false };
const WEB_FILE = criContainer(WEB.name, WEB.image);

/** What a runtime's file of a container is called and holds, and what the sensor must learn from it. */
const FORMS: [title: string, file: (id: string) => string, content: string, known: typeof UNKNOWN][] = [
  ['containerd, a container', id => `${CONTAINERD}/k8s.io/${id}/config.json`, WEB_FILE, WEB],
  [
    'containerd, a sandbox',
    id => `${CONTAINERD}/k8s.io/${id}/config.json`,
    annotated({ 'io.kubernetes.cri.container-type': 'sandbox', 'io.kubernetes.cri.sandbox-name': 'web-0' }),
    { ...UNKNOWN, runtime: 'containerd', sandbox: true },
  ],
  ['containerd of k3s', id => `/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/${id}/config.json`, WEB_FILE, WEB],
  [
    'nerdctl',
    id => `${CONTAINERD}/default/${id}/config.json`,
    annotated({ 'nerdctl/name': 'cache' }),
    { ...UNKNOWN, name: 'cache', runtime: 'containerd' },
  ],
  [
    'CRI-O, a container',
    id => `${STORAGE}/${id}/userdata/config.json`,
    annotated({
      'io.kubernetes.container.name': 'web',
      'io.kubernetes.cri-o.ContainerType': 'container',
      'io.kubernetes.cri-o.ImageName': 'quay.io/shop/web:3',
    }),
    { name: 'web', image: 'quay.io/shop/web:3', runtime: 'cri-o', sandbox: false },
  ],
  [
    'CRI-O, a sandbox',
    id => `${STORAGE}/${id}/userdata/config.json`,
    annotated({ 'io.kubernetes.container.name': 'POD', 'io.kubernetes.cri-o.ContainerType': 'sandbox' }),
    { ...UNKNOWN, runtime: 'cri-o', sandbox: true },
  ],
  [
    'Docker',
    id => `/var/lib/docker/containers/${id}/config.v2.json`,
    JSON.stringify({ Config: { Image: 'redis:7', Labels: {} }, Name: '/cache' }),
    { name: 'cache', image: 'redis:7', runtime: 'docker', sandbox: false },
  ],
  [
    'Docker below Kubernetes',
    id => `/var/lib/docker/containers/${id}/config.v2.json`,
    JSON.stringify({
      Config: { Image: 'redis:7', Labels: { 'io.kubernetes.container.name': 'cache', 'io.kubernetes.docker.type': 'container' } },
      Name: '/k8s_cache_web-0_shop_0',
    }),
    { name: 'cache', image: 'redis:7', runtime: 'docker', sandbox: false },
  ],
  ['a folder named by an absolute link', id => `/run/k0s/containerd/io.containerd.runtime.v2.task/k8s.io/${id}/config.json`, WEB_FILE, WEB],
  [
    'escapes',
    id => `${CONTAINERD}/k8s.io/${id}/config.json`,
    String.raw`{"annotations":{"io.kubernetes.cri.container-name":"\u00e9\ud83c\udf0a\u003c\t\ud800","other":[{"a":[]},-1.5e3,true,null]}}`,
    { ...UNKNOWN, name: 'é🌊<\t\ufffd', runtime: 'containerd' },
  ],
  [
    'a name that is no name',
    id => `${CONTAINERD}/k8s.io/${id}/config.json`,
    criContainer('x'.repeat(2_000), 'busybox'),
    { ...UNKNOWN, image: 'busybox', runtime: 'containerd' },
  ],
  ['half a file', id => `${CONTAINERD}/k8s.io/${id}/config.json`, WEB_FILE.slice(0, -2), UNKNOWN],
  ['an empty file', id => `${CONTAINERD}/k8s.io/${id}/config.json`, '', UNKNOWN],
  ['no JSON', id => `${CONTAINERD}/k8s.io/${id}/config.json`, 'annotations: none', UNKNOWN],
  ['a tower of brackets', id => `${CONTAINERD}/k8s.io/${id}/config.json`, '['.repeat(100_000), UNKNOWN],
  [
    'as deep as allowed',
    id => `${CONTAINERD}/k8s.io/${id}/config.json`,
    '['.repeat(DEPTH_MAX) + ']'.repeat(DEPTH_MAX),
    { ...UNKNOWN, runtime: 'containerd' },
  ],
];

const MONITORS = { containerd: '/usr/bin/containerd-shim-runc-v2', conmon: '/usr/bin/conmon' } as const;

/** Whether the process was seen to load the program that calls itself so. */
function hasLoaded(sensor: TestSensor, child: ChildProcess, program: string): boolean {
  return sensor.events.some(({ event, process }) => event.exec && process?.pid === child.pid && process?.arguments?.[0] === program);
}

/** Ends a program that reads its standard input. */
async function end(child: ChildProcess): Promise<void> {
  child.stdin!.end();
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}

describe("the container runtime's files", { skip: skipReason() }, () => {
  let sensor: TestSensor;
  let host: string;
  let cgroups: TestCgroups;

  before(() => {
    host = temporaryFolder();
    mkdirSync(join(host, 'elsewhere'));
    mkdirSync(join(host, 'run/k0s'), { recursive: true });
    symlinkSync('/elsewhere', join(host, 'run/k0s/containerd'));
    cgroups = createCgroups();
    sensor = startSensor({ cgroupRoot: cgroups.top, hostRoot: host });
  });
  after(async () => {
    await sensor.close();
    cgroups.remove();
    rmSync(host, { recursive: true });
  });

  function hostFile(path: string): string {
    const file = join(host, path.replace('/run/k0s/containerd', '/elsewhere'));
    mkdirSync(dirname(file), { recursive: true });
    return file;
  }

  const newId = () => randomBytes(32).toString('hex');
  const known = (container: Container | undefined) => {
    const { name = '', image = '', runtime = '', sandbox = false } = container ?? {};
    return { name, image, runtime, sandbox };
  };

  async function containerOf(cgroup: string): Promise<Container | undefined> {
    const marker = randomUUID();
    runIn(cgroup, `/bin/true ${marker}`);
    await sensor.until(marker, () => findExec(sensor, marker) !== undefined);
    return findExec(sensor, marker)?.container;
  }

  for (const [title, file, content, expected] of FORMS) {
    test(title, async () => {
      const id = newId();
      writeFileSync(hostFile(file(id)), content);
      const container = await containerOf(cgroups.make(`kubepods/${id}`));
      assert.equal(container?.containerId, id);
      assert.deepEqual(known(container), expected);
    });
  }

  test('Docker: the command of its health check, as it is run', async () => {
    const long = 'ä'.repeat(400);
    const checks: [config: object, command: string[]][] = [
      [
        { Healthcheck: { Test: ['CMD-SHELL', 'curl -f localhost || exit 1'], Interval: 5 } },
        ['/bin/sh', '-c', 'curl -f localhost || exit 1'],
      ],
      [{ Healthcheck: { Test: ['CMD-SHELL', 'check'] }, Shell: ['/bin/bash', '-ec'] }, ['/bin/bash', '-ec', 'check']],
      [{ Shell: ['/bin/bash', '-ec'], Healthcheck: { Test: ['CMD', 'redis-cli', '', 'ping'] } }, ['redis-cli', '', 'ping']],
      [{ Healthcheck: { Test: ['CMD', 'x', long, 'yes', 'no'] } }, ['x', 'ä'.repeat(255), 'y', '']],
      [{ Healthcheck: { Test: ['NONE'] } }, []],
      [{ Healthcheck: { Test: [] } }, []],
      [{ Healthcheck: null }, []],
    ];
    for (const [config, command] of checks) {
      const id = newId();
      writeFileSync(hostFile(`/var/lib/docker/containers/${id}/config.v2.json`), JSON.stringify({ Config: config, Name: '/cache' }));
      const container = await containerOf(cgroups.make(`system.slice/docker-${id}.scope`));
      assert.equal(container?.name, 'cache');
      assert.deepEqual(container.healthCheck ?? [], command);
    }
  });

  test('podman: names stand in the index of its storage', async () => {
    const ids = [newId(), newId(), newId()];
    const entries = ids.map((id, index) => ({
      id,
      names: [`box-${index}`],
      metadata: JSON.stringify({ 'image-name': `quay.io/box:${index}`, name: `box-${index}` }),
    }));
    writeFileSync(hostFile(`${STORAGE}/containers.json`), JSON.stringify(entries));
    for (const [index, id] of ids.entries()) {
      // As `podman kube play` annotates them, which is as CRI-O does.
      const played = { 'io.kubernetes.cri-o.ContainerType': 'container', 'io.kubernetes.pod.uid': randomUUID() };
      writeFileSync(
        hostFile(`${STORAGE}/${id}/userdata/config.json`),
        annotated({ 'io.container.manager': 'libpod', ...(index > 0 ? played : {}) }),
      );
      const container = await containerOf(cgroups.make(`machine.slice/libpod-${id}.scope`));
      assert.deepEqual(known(container), { name: `box-${index}`, image: `quay.io/box:${index}`, runtime: 'podman', sandbox: false });
      assert.equal(container?.podUid ?? '', '');
    }
  });

  test('a file that is too large, and what is no file, is not read', async () => {
    const [large, pipe, folder] = [newId(), newId(), newId()];
    const paths = [large, pipe, folder].map(id => hostFile(`${CONTAINERD}/k8s.io/${id}/config.json`));
    writeFileSync(paths[0]!, WEB_FILE);
    truncateSync(paths[0]!, FILE_MAX_BYTES + 1);
    execFileSync('mkfifo', [paths[1]!]);
    mkdirSync(paths[2]!);
    for (const id of [large, pipe, folder])
      assert.deepEqual(known(await containerOf(cgroups.make(`docker/${id}`))), { ...UNKNOWN, runtime: 'docker' });
  });

  test('links do not lead out of the host', async () => {
    const id = newId();
    const outside = temporaryFolder();
    const file = hostFile(`${CONTAINERD}/k8s.io/${id}/config.json`);
    writeFileSync(join(outside, 'config.json'), WEB_FILE);
    symlinkSync(join(outside, 'config.json'), file);
    assert.deepEqual(known(await containerOf(cgroups.make(`kubepods/${id}`))), UNKNOWN);
    rmSync(outside, { recursive: true });
  });

  test('a file that comes after the cgroup is read later; one that never comes is given up on', async () => {
    const [late, never] = [newId(), newId()];
    const cgroup = cgroups.make(`kubepods/${late}`);
    assert.deepEqual(known(await containerOf(cgroup)), UNKNOWN);
    writeFileSync(hostFile(`${CONTAINERD}/k8s.io/${late}/config.json`), WEB_FILE);
    assert.deepEqual(known(await containerOf(cgroup)), WEB);
    const without = cgroups.make(`kubepods/${never}`);
    const before = sensor.reader.counters().containersNotDescribed;
    for (let run = 0; run < 8; run++) assert.deepEqual(known(await containerOf(without)), UNKNOWN);
    await sensor.until('giving up', () => sensor.reader.counters().containersNotDescribed > before);
    await sensor.until('telling so', () => sensor.reader.counters().containersUndescribed > 0);
  });

  const toldOf = (container: Container | undefined) => {
    const { containerId = '', podUid = '', runtime = '', unconfirmed = false } = container ?? {};
    return { containerId, podUid, runtime, unconfirmed };
  };
  const HOST = { containerId: '', podUid: '', runtime: '', unconfirmed: false };
  const bundleOf = (cgroupsPath: string, annotations: object = {}) => JSON.stringify({ annotations, linux: { cgroupsPath } });

  test('a container whose record is found says nothing; one whose record is not says that it is unconfirmed', async () => {
    const [found, notFound] = [newId(), newId()];
    writeFileSync(hostFile(`${CONTAINERD}/k8s.io/${found}/config.json`), WEB_FILE);
    assert.equal((await containerOf(cgroups.make(`docker/${found}`)))?.unconfirmed ?? false, false);
    assert.equal((await containerOf(cgroups.make(`docker/${notFound}`)))?.unconfirmed, true);
  });

  /** Records of containers whose names only their runtime knows: its file, the cgroup it is about, and what that is taken for. */
  const NAMED: [title: string, file: string, content: string, cgroup: string, containerId: string, runtime: string][] = [
    ['ctr', `${CONTAINERD}/default/redis/config.json`, bundleOf('/default/redis'), 'default/redis', 'redis', 'containerd'],
    [
      'ctr with systemd',
      `${CONTAINERD}/default/cache.v2/config.json`,
      bundleOf('apps-db.slice:ctr:cache.v2'),
      'apps.slice/apps-db.slice/ctr-cache.v2.scope',
      'cache.v2',
      'containerd',
    ],
    [
      'podman in a unit of its own',
      `${STORAGE}/${'a1'.repeat(32)}/userdata/config.json`,
      bundleOf(`/system.slice/web.service/libpod-payload-${'a1'.repeat(32)}`),
      `system.slice/web.service/libpod-payload-${'a1'.repeat(32)}`,
      'a1'.repeat(32),
      'podman',
    ],
    [
      'buildkit',
      '/var/lib/buildkit/runc-overlayfs/executor/kx3y9q0z1w2v4u5t6s7r8p9o0/config.json',
      bundleOf('/buildkit/kx3y9q0z1w2v4u5t6s7r8p9o0'),
      'buildkit/kx3y9q0z1w2v4u5t6s7r8p9o0',
      'kx3y9q0z1w2v4u5t6s7r8p9o0',
      'buildkit',
    ],
    ['LXC', '/var/lib/lxc/mail/config', 'lxc.uts.name = mail\n', 'lxc.payload.mail', 'mail', 'lxc'],
    ['LXD', '/var/snap/lxd/common/lxd/containers/shop/backup.yaml', 'container: {}\n', 'lxc.payload.shop', 'shop', 'lxc'],
    ['crun', '/run/crun/db/status', JSON.stringify({ pid: 0, 'cgroup-path': '/custom/db' }), 'custom/db', 'db', 'crun'],
    [
      'a pod whose cgroup does not name it',
      `${CONTAINERD}/k8s.io/${'b2'.repeat(32)}/config.json`,
      bundleOf(`/k8s.io/${'b2'.repeat(32)}`, { 'io.kubernetes.cri.sandbox-uid': 'a-uid' }),
      `k8s.io/${'b2'.repeat(32)}`,
      'b2'.repeat(32),
      'containerd',
    ],
  ];
  for (const [title, file, content, cgroup, containerId, runtime] of NAMED) {
    test(`a name that only the runtime knows: ${title}`, async () => {
      writeFileSync(hostFile(file), content);
      const container = await containerOf(cgroups.make(cgroup));
      assert.deepEqual(toldOf(container), { ...HOST, containerId, runtime, podUid: title.includes('pod ') ? 'a-uid' : '' });
      assert.equal(container?.cgroupPath, `/${cgroup}`);
      // The processes of what lies in it are its own.
      assert.equal((await containerOf(cgroups.make(`${cgroup}/system.slice/docker-${newId()}.scope`)))?.containerId, containerId);
    });
  }

  test("a folder named after somebody else's container is not it", async () => {
    const id = newId();
    writeFileSync(
      hostFile(`${CONTAINERD}/k8s.io/${id}/config.json`),
      bundleOf(`/kubepods/besteffort/podx/${id}`, { 'io.kubernetes.cri.container-name': 'bank' }),
    );
    writeFileSync(hostFile(`${CONTAINERD}/default/postgres/config.json`), bundleOf('/default/postgres'));
    for (const forged of [
      `docker/${id}`,
      `system.slice/cri-containerd-${id}.scope`,
      'app.slice/postgres',
      'default/postgres/../postgres-2/postgres',
    ])
      assert.deepEqual(toldOf(await containerOf(cgroups.make(forged))), HOST, forged);
    // A user without root does not become it with a runtime's own form of name either, although the record would fit a relative path.
    writeFileSync(hostFile(`${CONTAINERD}/default/mysql/config.json`), bundleOf('mine/mysql'));
    const own = cgroups.make('user.slice/app');
    chownSync(own, NOBODY, NOBODY);
    assert.equal(spawnSync('/bin/mkdir', ['-p', join(own, 'mine/mysql')], { uid: NOBODY }).status, 0);
    cgroups.adopt(own, 'mine/mysql');
    assert.deepEqual(toldOf(await containerOf(join(own, 'mine/mysql'))), HOST);
  });

  /** Records that name the container's first process: written when it runs already. */
  const WITH_PID: [title: string, file: string, content: (pid: number) => string, cgroup: string, containerId: string, runtime: string][] =
    [
      ['runc', '/run/runc/web/state.json', pid => JSON.stringify({ id: 'web', init_process_pid: pid }), 'team/web', 'web', 'runc'],
      [
        'systemd-nspawn',
        '/run/systemd/machines/web-2',
        pid => `NAME=web-2\nCLASS=container\nSERVICE=systemd-nspawn\nLEADER=${pid}\n`,
        'machine.slice/machine-web\\x2d2.scope/payload',
        'web-2',
        'systemd-nspawn',
      ],
      [
        'systemd-nspawn without a payload of its own',
        '/run/systemd/machines/web-3',
        pid => `NAME=web-3\nCLASS=container\nSERVICE=systemd-nspawn\nLEADER=${pid}\n`,
        'machine.slice/machine-web\\x2d3.scope',
        'web-3',
        'systemd-nspawn',
      ],
      [
        'Docker, where containerd keeps nothing',
        `/var/lib/docker/containers/${'c3'.repeat(32)}/config.v2.json`,
        pid => JSON.stringify({ State: { Pid: pid }, Config: { Image: 'redis:7' }, Name: '/cache' }),
        `docker/${'c3'.repeat(32)}`,
        'c3'.repeat(32),
        'docker',
      ],
    ];
  for (const [title, file, content, cgroup, containerId, runtime] of WITH_PID) {
    test(`the container's first process confirms it: ${title}`, async context => {
      const inside = cgroups.make(cgroup);
      const init = spawn('/bin/sh', ['-c', 'echo $$ > $PROCS && exec /bin/cat'], {
        env: { PROCS: join(inside, 'cgroup.procs') },
        stdio: ['pipe', 'ignore', 'inherit'],
      });
      context.after(() => end(init));
      await sensor.until('the first process', () => hasLoaded(sensor, init, '/bin/cat'));
      writeFileSync(hostFile(file), content(init.pid!));
      assert.deepEqual(toldOf(await containerOf(inside)), { ...HOST, containerId, runtime });
      // The same name in another place holds another's processes.
      assert.deepEqual(toldOf(await containerOf(cgroups.make(`elsewhere/${cgroup}`))), HOST);
    });
  }

  test('a virtual machine is no container', async () => {
    writeFileSync(hostFile('/run/systemd/machines/vm'), 'NAME=vm\nCLASS=vm\nSERVICE=libvirt-qemu\nLEADER=1\n');
    assert.deepEqual(toldOf(await containerOf(cgroups.make('machine.slice/machine-vm.scope'))), HOST);
  });
});

describe("where a container runtime's files are", { skip: skipReason() }, () => {
  let cgroups: TestCgroups;
  let folder: string;
  before(() => {
    cgroups = createCgroups();
    folder = temporaryFolder();
  });
  after(() => {
    cgroups.remove();
    rmSync(folder, { recursive: true });
  });

  /** A bundle as containerd or CRI-O keeps it, and a process that waits as the container's monitor does; both in a folder that nobody told of. */
  function monitored(
    kind: 'containerd' | 'conmon',
    { uid = 0, inside = cgroups.top }: { uid?: number; inside?: string } = {},
  ): { id: string; cgroup: string; monitor: ChildProcess } {
    const id = randomBytes(32).toString('hex');
    const state = join(folder, randomUUID());
    const bundle =
      kind === 'containerd' ? join(state, `io.containerd.runtime.v2.task/k8s.io/${id}`) : join(state, `overlay-containers/${id}/userdata`);
    mkdirSync(bundle, { recursive: true });
    const annotations =
      kind === 'containerd'
        ? { 'io.kubernetes.cri.container-name': 'web' }
        : { 'io.kubernetes.container.name': 'web', 'io.kubernetes.cri-o.ContainerType': 'container' };
    writeFileSync(join(bundle, 'config.json'), JSON.stringify({ annotations, linux: { cgroupsPath: `/learned/${id}` } }));
    const program = `exec -a ${MONITORS[kind]} /bin/cat ${kind === 'conmon' ? `-b ${bundle} -` : ''}`;
    const as = uid === 0 ? program : `exec setpriv --reuid ${uid} --clear-groups /bin/bash -c '${program}'`;
    const monitor = spawn('/bin/bash', ['-c', `echo $$ > ${inside}/cgroup.procs; ${as}`], {
      cwd: kind === 'containerd' ? bundle : folder,
      stdio: ['pipe', 'ignore', 'ignore'],
    });
    return { id, cgroup: cgroups.make(`learned/${id}`), monitor };
  }

  async function containerIn(sensor: TestSensor, cgroup: string): Promise<Container | undefined> {
    const marker = randomUUID();
    runIn(cgroup, `/bin/true ${marker}`);
    await sensor.until(marker, () => findExec(sensor, marker) !== undefined);
    return findExec(sensor, marker)?.container;
  }

  for (const kind of ['containerd', 'conmon'] as const) {
    for (const isOlder of [false, true]) {
      test(`learned from the monitor of ${kind}${isOlder ? ', older than the sensor' : ''}`, async context => {
        const start = () => startSensor({ cgroupRoot: cgroups.top });
        const early = isOlder ? undefined : start();
        const { id, cgroup, monitor } = monitored(kind);
        context.after(() => end(monitor));
        const sensor = early ?? start();
        context.after(() => sensor.close());
        if (!isOlder) await sensor.until('the monitor', () => hasLoaded(sensor, monitor, MONITORS[kind]));
        const container = await containerIn(sensor, cgroup);
        assert.deepEqual(
          [container?.containerId, container?.name, container?.runtime, container?.unconfirmed ?? false],
          [id, 'web', kind === 'containerd' ? 'containerd' : 'cri-o', false],
        );
      });
    }
  }

  test("nothing is learned from processes that are not root's, or are in a container", async context => {
    const sensor = startSensor({ cgroupRoot: cgroups.top });
    context.after(() => sensor.close());
    const users = monitored('conmon', { uid: NOBODY });
    const contained = monitored('conmon', { inside: cgroups.make(`docker/${randomBytes(32).toString('hex')}`) });
    // Both before anything can fail: one that stays would hold the test run up.
    context.after(() => Promise.all([users, contained].map(({ monitor }) => end(monitor))));
    for (const { cgroup, monitor } of [users, contained]) {
      await sensor.until('the monitor', () => hasLoaded(sensor, monitor, MONITORS.conmon));
      assert.equal((await containerIn(sensor, cgroup))?.unconfirmed, true);
    }
  });
});
