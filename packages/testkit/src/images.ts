/** Builds Tidegate's images from this checkout as deploy/images/Dockerfile says, without a Docker engine or a registry. */
import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { cacheFolder } from './helm.ts';
import { acquireLock } from './kubernetes/lock.ts';
import { findProgram, installPackages } from './kubernetes/programs.ts';

/** Targets of the Dockerfile. */
export const IMAGES = ['sensor', 'enricher', 'gateway', 'api', 'connectors', 'nats'] as const;
export type ImageName = (typeof IMAGES)[number];

export interface ImageBuild {
  /** As in docker.io/tidegate: the chart's images.registry. */
  registry: string;
  tag: string;
  /** Archives that a runtime's import takes. */
  archives: Record<ImageName, string>;
}

const BUILD_PACKAGES = [
  { name: 'buildah', program: 'buildah' },
  { name: 'mmdebstrap', program: 'mmdebstrap' },
];
/** What the images' base has, besides what these depend on: small, because a node without overlayfs copies it for each container. */
const BASE_PACKAGES = ['coreutils', 'dash'];
const REGISTRY = 'localhost/tidegate';
const TAG = 'checkout';
const BASE_IMAGE = 'localhost/tidegate-base';
const BUILD_TIMEOUT_MS = 10 * 60_000;
const OUTPUT_MAX_BYTES = 16 * 1024 * 1024;

// From src and from dist alike.
const root = fileURLToPath(new URL('../../../', import.meta.url));
const imagesFolder = join(root, 'deploy', 'images');
const execute = promisify(execFile);

/** @returns why images cannot be built on this machine, for a test's `skip`; undefined: buildImages works */
export async function prepareImages(): Promise<string | undefined> {
  if (process.platform !== 'linux') return `images are built on Linux, this is ${process.platform}`;
  if (process.getuid?.() !== 0) return 'building images needs root';
  const missing = BUILD_PACKAGES.filter(({ program }) => findProgram(program) === undefined).map(({ name }) => name);
  if (missing.length > 0) {
    if (findProgram('apt-get') === undefined) return `building images needs ${missing.join(', ')}, and there is no apt-get to install them`;
    await installPackages(missing);
  }
  return undefined;
}

/** Builds all images of this checkout, which must be built itself; all files are in `folder`. */
export async function buildImages(folder: string): Promise<ImageBuild> {
  await execute(process.execPath, [join(imagesFolder, 'stage.js')], { timeout: BUILD_TIMEOUT_MS, maxBuffer: OUTPUT_MAX_BYTES });
  const storage = join(folder, 'storage');
  const buildah = (...args: string[]) =>
    execute('buildah', ['--storage-driver', 'vfs', '--root', storage, '--runroot', join(folder, 'run'), ...args], {
      timeout: BUILD_TIMEOUT_MS,
      maxBuffer: OUTPUT_MAX_BYTES,
    });
  const base = join(folder, 'base');
  mkdirSync(base);
  copyFileSync(await debianBase(), join(base, 'debian.tar'));
  writeFileSync(join(base, 'Dockerfile'), 'FROM scratch\nADD debian.tar /\n');
  await buildah('bud', '--isolation', 'chroot', '--tag', BASE_IMAGE, base);
  rmSync(base, { recursive: true });
  const archives = {} as Record<ImageName, string>;
  for (const name of IMAGES) {
    const image = `${REGISTRY}/${name}:${TAG}`;
    const options = ['--isolation', 'chroot', '--squash', '--build-arg', `BASE=${BASE_IMAGE}`, '--target', name, '--tag', image];
    await buildah('bud', ...options, imagesFolder);
    archives[name] = join(folder, `${name}.tar`);
    await buildah('push', image, `docker-archive:${archives[name]}:${image}`);
  }
  rmSync(storage, { recursive: true });
  return { registry: REGISTRY, tag: TAG, archives };
}

/** A root file system with glibc and a few commands, of this machine's Debian, made once. */
async function debianBase(): Promise<string> {
  const release = /^VERSION_CODENAME=(\w+)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1];
  if (release === undefined) throw new Error('expected VERSION_CODENAME in /etc/os-release, as Debian has it');
  const path = join(cacheFolder(), `debian-${release}-base.tar`);
  const free = await acquireLock('debian-base', BUILD_TIMEOUT_MS);
  try {
    if (existsSync(path)) return path;
    mkdirSync(cacheFolder(), { recursive: true });
    const partial = join(cacheFolder(), `debian-${release}-partial.tar`);
    const packages = `--include=${BASE_PACKAGES.join(',')}`;
    await execute('mmdebstrap', ['--mode=root', '--variant=extract', packages, release, partial], {
      timeout: BUILD_TIMEOUT_MS,
      maxBuffer: OUTPUT_MAX_BYTES,
    });
    renameSync(partial, path);
    return path;
  } finally {
    await free();
  }
}
