/**
 * Lays out the files of every image under deploy/images/build/, so that building an image copies files and needs no network. Run it in a built checkout
 * (`npm run setup`); it has no dependencies of its own.
 *
 *   node deploy/images/stage.js            all images
 *   node deploy/images/stage.js api nats   some
 *
 * Each folder mirrors the checkout (services/enricher/dist, node_modules/..., bpf/build), so that programs find their files in an image as they do here. What goes in is
 * the closure of `dependencies` in package-lock.json: no package that only building or testing needs.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const BUILD = join(ROOT, 'deploy', 'images', 'build');
/** Where the files lie in every image. */
const PREFIX = 'opt/tidegate';
/** What of a workspace is needed to run it. */
const WORKSPACE_PARTS = ['package.json', 'dist', 'generated', 'proto', 'static'];
/** Types and source maps are for whoever builds on a package. */
const NOT_SHIPPED = /\.(map|d\.[cm]?ts|tsbuildinfo)$/;
/** glibc comes with the base image; every other library an image's programs are linked to is shipped. */
const BASE_LIBRARIES = /^(ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv)\.so/;

const NODE = realpathSync(join(ROOT, 'node_modules', '.bin', 'node'));
const ADDON = 'native/build/tidegate.node';
const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')).packages;

const IMAGES = {
  runtime: async folder => {
    mkdirSync(join(folder, PREFIX, 'bin'), { recursive: true });
    copyFileSync(NODE, join(folder, PREFIX, 'bin', 'node'));
    copyLibraries(NODE, folder);
  },
  sensor: async folder => {
    copyWorkspaces(['services/node-sensor'], folder);
    copyFiles(['bpf/build/tidegate.bpf.o', 'bpf/LICENSE', ADDON], folder);
    copyLibraries(join(ROOT, ADDON), folder);
  },
  enricher: async folder => {
    copyWorkspaces(['services/enricher'], folder);
    copyFiles(['deploy/images/set-up-streams.js', 'deploy/images/set-up-settings.js'], folder);
  },
  gateway: async folder => {
    copyWorkspaces(['services/enforcer-gateway'], folder);
    copyFiles(['deploy/images/await-clean-up.js'], folder);
  },
  api: async folder => {
    copyWorkspaces(['services/api', 'packages/cli'], folder);
    const command = join(PREFIX, 'packages', 'cli', 'dist', 'main.js');
    chmodSync(join(folder, command), 0o755);
    mkdirSync(join(folder, PREFIX, 'bin'), { recursive: true });
    symlinkSync(join('..', relative(PREFIX, command)), join(folder, PREFIX, 'bin', 'tidegate'));
  },
  connectors: async folder => {
    copyWorkspaces(['services/connectors'], folder);
  },
  nats: async folder => {
    const { provideNatsServer, createLogger } = await import('../../packages/runtime/dist/index.js');
    const { path, version } = await provideNatsServer({ logger: createLogger({ name: 'stage', level: 'warn' }) });
    mkdirSync(join(folder, PREFIX, 'bin'), { recursive: true });
    copyFileSync(path, join(folder, PREFIX, 'bin', 'nats-server'));
    copyLibraries(path, folder);
    say(`nats-server ${version}`);
  },
};

const wanted = process.argv.slice(2);
const unknown = wanted.filter(name => !(name in IMAGES));
if (unknown.length > 0) fail(`images: expected some of ${Object.keys(IMAGES).join(', ')}, got ${unknown.join(', ')}`);
for (const [name, stage] of Object.entries(IMAGES)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const folder = join(BUILD, name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, PREFIX), { recursive: true });
  await stage(folder);
  say(relative(ROOT, folder));
}

/** Copies workspaces, the workspaces they depend on and all packages these need, each where the checkout has it. */
function copyWorkspaces(workspaces, folder) {
  const places = new Set();
  for (const workspace of workspaces) collect(workspace, places);
  for (const place of places) {
    const from = join(ROOT, place);
    const to = join(folder, PREFIX, place);
    if (place.includes('node_modules/')) {
      // Packages nested in it have places of their own.
      copyTree(from, to, path => basename(path) !== 'node_modules');
    } else {
      if (!existsSync(join(from, 'dist'))) fail(`${place}/dist is not there: run \`npm run setup\` first`);
      for (const part of WORKSPACE_PARTS) if (existsSync(join(from, part))) copyTree(join(from, part), join(to, part));
      const link = join(folder, PREFIX, 'node_modules', '@tidegate', basename(place));
      mkdirSync(dirname(link), { recursive: true });
      symlinkSync(join('..', '..', place), link);
    }
  }
}

/** Adds the lock file's key of a package, and of all it needs at run time. */
function collect(place, places) {
  if (places.has(place)) return;
  const entry = lock[place];
  places.add(place);
  for (const name of Object.keys({ ...entry.dependencies, ...entry.optionalDependencies, ...entry.peerDependencies })) {
    const found = resolvePlace(place, name);
    const isThere = found !== undefined && existsSync(join(ROOT, found));
    const isOptional = entry.optionalDependencies?.[name] !== undefined || entry.peerDependenciesMeta?.[name]?.optional === true;
    // An optional one may be for another platform, or there only because a build tool asks for it.
    if (isOptional && (!isThere || lock[found].dev === true)) continue;
    if (!isThere) fail(`${place} needs ${name}, which is not installed: run \`npm run setup\` first`);
    collect(found, places);
  }
}

/** As Node.js looks for packages: in the nearest node_modules folder, going up. */
function resolvePlace(place, name) {
  for (let folder = place; ; folder = dirname(folder)) {
    const candidate = folder === '.' ? `node_modules/${name}` : `${folder}/node_modules/${name}`;
    const entry = lock[candidate];
    if (entry) return entry.link ? entry.resolved : candidate;
    if (folder === '.') return undefined;
  }
}

function copyFiles(files, folder) {
  for (const file of files) {
    if (!existsSync(join(ROOT, file))) fail(`${file} is not there: run \`npm run setup\` first`);
    copyTree(join(ROOT, file), join(folder, PREFIX, file));
  }
}

function copyTree(from, to, isWanted = () => true) {
  cpSync(from, to, { recursive: true, filter: path => path === from || (isWanted(path) && !NOT_SHIPPED.test(path)) });
}

/** Shared libraries that a program or addon is linked to, into opt/tidegate/lib. */
function copyLibraries(program, folder) {
  const { status, stdout } = spawnSync('ldd', [program], { encoding: 'utf8' });
  // Not zero: linked statically.
  if (status !== 0) return;
  const lib = join(folder, PREFIX, 'lib');
  mkdirSync(lib, { recursive: true });
  for (const [, name, path] of stdout.matchAll(/^\s*(\S+) => (\/\S+)/gm))
    if (!BASE_LIBRARIES.test(name)) copyFileSync(path, join(lib, name));
}

function say(text) {
  process.stderr.write(`stage: ${text}\n`);
}

function fail(text) {
  process.stderr.write(`stage: error: ${text}\n`);
  process.exit(1);
}
