/**
 * Makes this checkout ready to run: system packages, npm packages with the pinned Node.js, generated code, TypeScript, BPF objects, the native addon. Has no
 * dependencies and runs on Node.js 20: `npm start` and `npm test` call it first. Each step looks whether it is needed, so that a second run takes seconds.
 *
 *   node scripts/setup.js                everything
 *   node scripts/setup.js --build-only   no system packages: for an image build that has them
 *   node scripts/setup.js --to-run       what reads the kernel's events only where they can be had
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const MINIMUM_NODE = 20;
const BIN = join(ROOT, 'node_modules', '.bin');
const LOCK_STAMP = join(ROOT, 'node_modules', '.tidegate-lock');
/** What the build needs: the Debian package, and how to see that it is there. */
const SYSTEM_PACKAGES = [
  { name: 'make', command: 'make' },
  { name: 'g++', command: 'g++' },
  { name: 'clang', command: 'clang' },
  { name: 'llvm', command: 'llvm-strip' },
  { name: 'pkg-config', command: 'pkg-config' },
  { name: 'libbpf-dev', module: 'libbpf' },
  { name: 'libelf-dev', module: 'libelf' },
  { name: 'zlib1g-dev', module: 'zlib' },
  { name: 'libzstd-dev', module: 'libzstd' },
];

/** In packages/contracts: what `npm run generate` makes, and of what. */
const GENERATED = ['events.js', 'events.d.ts', 'details.js', 'details.d.ts', 'numbers.js', 'numbers.d.ts', 'numbers.h'].map(
  name => `generated/${name}`,
);
const GENERATED_FROM = ['proto/tidegate/v1/events.proto', 'generate.js', 'generator/event-details.js', 'generator/exact-codecs.js'];

/** Bits of linux/capability.h. */
const CAPABILITIES = { sysAdmin: 21n, perfmon: 38n, bpf: 39n };

const isBuildOnly = process.argv.includes('--build-only');
const startedAtMs = Date.now();
const starters = whoStarted();

checkNode();
const noKernel = whyNoKernel();
if (!noKernel && !isBuildOnly) installSystemPackages();
installNpmPackages();
generateCode();
run('TypeScript', join(BIN, 'tsc'), ['-b']);
if (noKernel) say(`BPF programs and the native addon are not built: ${noKernel}; recorded captures can be played`);
else {
  run('BPF objects', 'make', ['-s', '-C', 'bpf']);
  run('native addon', 'make', ['-s', '-C', 'native']);
}
if (whoStarted() !== starters) fail('the npm that started this has ended');
say(`ready in ${((Date.now() - startedAtMs) / 1000).toFixed(1)} s`);

function checkNode() {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < MINIMUM_NODE) fail(`Node.js: expected ${MINIMUM_NODE} or newer to set up, got ${process.versions.node}`);
}

/** Why BPF programs and the addon would be of no use; undefined: they are. Who builds or tests on Linux wants them in any case. */
function whyNoKernel() {
  if (process.platform !== 'linux') return `they are for Linux, this is ${process.platform}`;
  if (!process.argv.includes('--to-run')) return undefined;
  if (!existsSync('/sys/kernel/btf/vmlinux')) return 'the kernel has no type information (BTF)';
  const effective = BigInt(`0x${/^CapEff:\s*(\w+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`);
  const has = capability => ((effective >> capability) & 1n) === 1n;
  const mayLoad = has(CAPABILITIES.sysAdmin) || (has(CAPABILITIES.bpf) && has(CAPABILITIES.perfmon));
  return mayLoad ? undefined : 'using them needs root, or CAP_BPF and CAP_PERFMON';
}

function installSystemPackages() {
  const missing = SYSTEM_PACKAGES.filter(each => !isInstalled(each)).map(each => each.name);
  if (missing.length === 0) return;
  const isRoot = process.getuid?.() === 0;
  if (!isRoot || !hasCommand('apt-get')) {
    const reason = isRoot ? 'apt-get is not on this machine' : 'not root';
    fail(
      `missing system packages, and cannot install them (${reason}). Install them and run again:\n  apt-get install ${missing.join(' ')}`,
    );
  }
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  run('package lists', 'apt-get', ['update', '-qq'], { env });
  run(`system packages ${missing.join(' ')}`, 'apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missing], {
    env,
    isQuiet: true,
  });
}

function isInstalled({ command, module }) {
  return command ? hasCommand(command) : hasCommand('pkg-config') && spawnSync('pkg-config', ['--exists', module]).status === 0;
}

function hasCommand(command) {
  return (process.env.PATH ?? '').split(':').some(folder => folder !== '' && existsSync(join(folder, command)));
}

function installNpmPackages() {
  const lock = createHash('sha256')
    .update(readFileSync(join(ROOT, 'package-lock.json')))
    .digest('hex');
  if (existsSync(LOCK_STAMP) && readFileSync(LOCK_STAMP, 'utf8') === lock && existsSync(join(BIN, 'node'))) return;
  // The system's Node.js may be older than some packages ask for; they run on the pinned one.
  run('npm packages', 'npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], { isQuiet: true });
  if (!existsSync(join(BIN, 'node')))
    fail('the npm package `node` (the pinned Node.js) did not install: are install scripts switched off (npm config get ignore-scripts)?');
  writeFileSync(LOCK_STAMP, lock);
}

function generateCode() {
  const folder = join(ROOT, 'packages/contracts');
  const changedAtMs = Math.max(...GENERATED_FROM.map(each => statSync(join(folder, each)).mtimeMs));
  const isFresh = each => existsSync(join(folder, each)) && statSync(join(folder, each)).mtimeMs >= changedAtMs;
  if (GENERATED.every(isFresh)) return;
  run('protobuf code', 'npm', ['run', '--silent', 'generate', '--workspace=packages/contracts']);
}

/** Runs one step in the checkout's root, with the pinned Node.js first on the PATH once it is there. */
function run(what, command, args, { env = process.env, isQuiet = false } = {}) {
  if (whoStarted() !== starters) fail('the npm that started this has ended');
  const stepAtMs = Date.now();
  const result = spawnSync(command, args, {
    cwd: ROOT,
    env: { ...env, PATH: existsSync(join(BIN, 'node')) ? `${BIN}:${env.PATH}` : env.PATH },
    stdio: ['ignore', isQuiet ? 'pipe' : 'inherit', 'inherit'],
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  });
  if (result.error) fail(`${what}: ${command}: ${result.error.message}`);
  if (result.status !== 0) {
    if (isQuiet) process.stderr.write(result.stdout.slice(-4000));
    fail(`${what}: \`${command} ${args.join(' ')}\` ended with ${result.signal ?? `status ${result.status}`}`);
  }
  const seconds = (Date.now() - stepAtMs) / 1000;
  say(`${what} (${seconds.toFixed(1)} s)`);
}

/** This process's parent and that one's, npm and the shell it runs scripts with: a signal to them does not come here. */
function whoStarted() {
  try {
    const stat = readFileSync(`/proc/${process.ppid}/stat`, 'utf8');
    return `${process.ppid} ${stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]}`;
  } catch {
    return String(process.ppid);
  }
}

function say(text) {
  process.stderr.write(`setup: ${text}\n`);
}

function fail(text) {
  process.stderr.write(`setup: error: ${text}\n`);
  process.exit(1);
}
