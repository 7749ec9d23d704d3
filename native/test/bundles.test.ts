import type { Container } from '@tidegate/contracts';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createCgroups, runIn, type TestCgroups } from './cgroups.ts';
import { findExec, skipReason, startSensor, temporaryFolder, type TestSensor } from './sensor.ts';

const CONTAINERD = '/run/containerd/io.containerd.runtime.v2.task';
const STORAGE = '/run/containers/storage/overlay-containers';
const UNKNOWN = { name: '', image: '', runtime: '', sandbox: false };
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
  ['a folder named by an absolute link', id => `/opt/containerd/io.containerd.runtime.v2.task/k8s.io/${id}/config.json`, WEB_FILE, WEB],
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

describe("the container runtime's files", { skip: skipReason() }, () => {
  let sensor: TestSensor;
  let host: string;
  let cgroups: TestCgroups;

  before(() => {
    host = temporaryFolder();
    mkdirSync(join(host, 'elsewhere'));
    mkdirSync(join(host, 'opt'));
    symlinkSync('/elsewhere', join(host, 'opt/containerd'));
    cgroups = createCgroups();
    sensor = startSensor({
      hostRoot: host,
      containerdStates: ['/run/none', '/run/containerd', '/run/k3s/containerd', '/opt/containerd'],
    });
  });
  after(async () => {
    await sensor.close();
    cgroups.remove();
    rmSync(host, { recursive: true });
  });

  function hostFile(path: string): string {
    const file = join(host, path.replace('/opt/containerd', '/elsewhere'));
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

  test('podman: names stand in the index of its storage', async () => {
    const ids = [newId(), newId(), newId()];
    const entries = ids.map((id, index) => ({
      id,
      names: [`box-${index}`],
      metadata: JSON.stringify({ 'image-name': `quay.io/box:${index}`, name: `box-${index}` }),
    }));
    writeFileSync(hostFile(`${STORAGE}/containers.json`), JSON.stringify(entries));
    for (const [index, id] of ids.entries()) {
      writeFileSync(hostFile(`${STORAGE}/${id}/userdata/config.json`), annotated({ 'io.container.manager': 'libpod' }));
      const container = await containerOf(cgroups.make(`machine.slice/libpod-${id}.scope`));
      assert.deepEqual(known(container), { name: `box-${index}`, image: `quay.io/box:${index}`, runtime: 'podman', sandbox: false });
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
  });
});
