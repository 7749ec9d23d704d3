/**
 * Real kernels for tests: Debian's, in QEMU. The machine's own root is the VM's root, read-only over virtiofs, so that whatever was built here
 * runs there; only /tmp, /run and the kernel's own file systems are the VM's. Software emulation throughout (KVM is not to be had in a VM's
 * VM): it boots in seconds and computes about twenty times slower.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { endChild } from './host.ts';
import { acquireLock } from './kubernetes/lock.ts';
import { waitFor } from './wait.ts';

/** Kernels to be had: Debian's stable one, and its newest backport. */
export type KernelSeries = '6.1' | '6.12';

export interface VmOptions {
  kernel: KernelSeries;
  /** For boot and command together; then the VM is killed and the run rejects with TIMEOUT. */
  timeoutMs?: number;
  memoryMib?: number;
  cpus?: number;
  /** Added to PATH, HOME and LANG. */
  env?: Readonly<Record<string, string>>;
}

export interface VmRun {
  exitCode: number;
  /** What the command wrote, standard output and error together. */
  output: string;
  /** The kernel's log. */
  console: string;
}

const DEFAULT_TIMEOUT_MS = 120_000;
const DEFAULT_MEMORY_MIB = 1024;
const DEFAULT_CPUS = 2;
const DOWNLOAD_TIMEOUT_MS = 5 * 60_000;
const LOCK_TIMEOUT_MS = 10 * 60_000;
const SOCKET_TIMEOUT_MS = 10_000;
const TOOL_OUTPUT_MAX_BYTES = 16 * 1024 * 1024;
const CONSOLE_TAIL_CHARACTERS = 4_000;

const VIRTIOFSD = '/usr/lib/qemu/virtiofsd';
const BUSYBOX = '/bin/busybox';
/** Debian packages, and a file that shows that each is there. */
const PACKAGES = [
  { name: 'qemu-system-x86', file: '/usr/bin/qemu-system-x86_64' },
  { name: 'qemu-system-common', file: VIRTIOFSD },
  { name: 'busybox-static', file: BUSYBOX },
];
/** What 6.1 has as modules and 6.12 built in, in the order that they need each other. */
const MODULES = [
  'drivers/virtio/virtio_ring.ko',
  'drivers/virtio/virtio.ko',
  'drivers/virtio/virtio_pci_legacy_dev.ko',
  'drivers/virtio/virtio_pci_modern_dev.ko',
  'drivers/virtio/virtio_pci.ko',
  'fs/fuse/fuse.ko',
  'fs/fuse/virtiofs.ko',
];

const repository = fileURLToPath(new URL('../../../', import.meta.url));
const execute = promisify(execFile);

/** PID 1 on the initramfs: makes the shared root the root. A repository that lies in a folder of the VM's own, as /tmp, is put back there. */
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t virtiofs -o ro root /root
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -o bind /root${quote(repository)} /repository
for folder in tmp run dev/shm; do mount -t tmpfs tmpfs /root/$folder; done
[ -d /root${quote(repository)} ] || { mkdir -p /root${quote(repository)}; mount -o bind /repository /root${quote(repository)}; }
mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount -t bpf bpf /root/sys/fs/bpf
mount -t tracefs tracefs /root/sys/kernel/tracing
cp /start /command /root/run
exec switch_root /root ${BUSYBOX} sh /run/start
`;
/** PID 1 on the shared root. The first serial port is the kernel's console, the second takes the command's output, the third its exit code. */
const START = `
exec </dev/null
busybox ip link set lo up
busybox stty -F /dev/ttyS1 raw
busybox stty -F /dev/ttyS2 raw
/bin/sh /run/command >/run/output 2>&1
status=$?
busybox cat /run/output >/dev/ttyS1
echo $status >/dev/ttyS2
busybox poweroff -f
`;

/**
 * Gets ready what a VM with that kernel needs: Debian packages are installed, the kernel is unpacked into the cache.
 * @returns why a VM cannot be had on this machine, for a test's `skip`; undefined: runInVm works
 */
export async function prepareVm(kernel: KernelSeries): Promise<string | undefined> {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return `a VM for tests needs Linux on x64, this is ${process.platform} on ${process.arch}`;
  if (process.getuid?.() !== 0) return 'a VM for tests needs root: it shares the root file system';
  const missing = PACKAGES.filter(({ file }) => !existsSync(file)).map(({ name }) => name);
  if (missing.length > 0 || (await findKernel(kernel)) === undefined) {
    if (!onPath('apt-get'))
      return `a VM for tests needs ${[...missing, `Debian's Linux ${kernel}`].join(', ')}, and there is no apt-get to get it`;
    const release = await acquireLock('packages', LOCK_TIMEOUT_MS);
    try {
      if (missing.length > 0) await tool('apt-get', ['install', '--yes', '--no-install-recommends', ...missing]);
      if ((await findKernel(kernel)) === undefined) await provideKernel(kernel);
    } finally {
      await release();
    }
  }
  return undefined;
}

/**
 * Boots the kernel, runs a shell command as root in the repository's folder and resolves when the VM is gone. Needs prepareVm to have
 * returned undefined. An exit code other than 0 resolves too; a VM that does not come up or finish rejects with TIMEOUT.
 */
export async function runInVm(command: string, options: VmOptions): Promise<VmRun> {
  const { kernel, timeoutMs = DEFAULT_TIMEOUT_MS, memoryMib = DEFAULT_MEMORY_MIB, cpus = DEFAULT_CPUS, env = {} } = options;
  const kernelFolder = await findKernel(kernel);
  if (kernelFolder === undefined) throw new Error(`Linux ${kernel} is not in the cache: await prepareVm('${kernel}') first`);
  const folder = await mkdtemp(join(tmpdir(), 'tidegate-vm-'));
  const children: ChildProcess[] = [];
  try {
    const file = (name: string): string => join(folder, name);
    await buildInitramfs(folder, kernelFolder, commandScript(command, env));

    children.push(start(VIRTIOFSD, [`--socket-path=${file('root.sock')}`, '-o', 'source=/,cache=auto,sandbox=chroot']));
    await waitFor(() => existsSync(file('root.sock')), { what: 'virtiofsd', timeoutMs: SOCKET_TIMEOUT_MS });

    const qemu = start('qemu-system-x86_64', [
      ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', `${cpus}`, '-m', `${memoryMib}M`],
      ...['-object', `memory-backend-memfd,id=memory,size=${memoryMib}M,share=on`, '-numa', 'node,memdev=memory'],
      ...['-chardev', `socket,id=root,path=${file('root.sock')}`, '-device', 'vhost-user-fs-pci,chardev=root,tag=root'],
      ...['-kernel', join(kernelFolder, 'vmlinuz'), '-initrd', file('initramfs'), '-append', 'console=ttyS0 panic=-1 quiet'],
      ...['-serial', `file:${file('console')}`, '-serial', `file:${file('output')}`, '-serial', `file:${file('status')}`],
      ...['-display', 'none', '-monitor', 'none', '-nic', 'none', '-no-reboot'],
    ]);
    children.push(qemu);
    const kernelLog = (): Promise<string> => readFile(file('console'), 'utf8').catch(() => '');
    try {
      await waitFor(() => qemu.exitCode !== null || qemu.signalCode !== null, { what: `the VM to run ${command}`, timeoutMs });
    } catch (error) {
      throw new Error(`the VM did not finish; its kernel says: ${(await kernelLog()).slice(-CONSOLE_TAIL_CHARACTERS)}`, { cause: error });
    }
    const status = (await readFile(file('status'), 'utf8').catch(() => '')).trim();
    if (status === '')
      throw new Error(`the VM ended without an exit code; its kernel says: ${(await kernelLog()).slice(-CONSOLE_TAIL_CHARACTERS)}`);
    return { exitCode: Number(status), output: await readFile(file('output'), 'utf8'), console: await kernelLog() };
  } finally {
    await Promise.all(children.map(endChild));
    await rm(folder, { recursive: true, force: true });
  }
}

function commandScript(command: string, env: Readonly<Record<string, string>>): string {
  const variables = { PATH: process.env.PATH ?? '', HOME: '/tmp', LANG: 'C.UTF-8', ...env };
  const exports = Object.entries(variables).map(([name, value]) => `export ${name}=${quote(value)}`);
  return [...exports, `cd ${quote(repository)} || exit 1`, command, ''].join('\n');
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

async function buildInitramfs(folder: string, kernelFolder: string, script: string): Promise<void> {
  const root = join(folder, 'initramfs-root');
  for (const name of ['bin', 'dev', 'root', 'repository', 'modules']) await mkdir(join(root, name), { recursive: true });
  await cp(BUSYBOX, join(root, 'bin/busybox'));
  await writeFile(join(root, 'init'), INIT, { mode: 0o755 });
  await writeFile(join(root, 'start'), START);
  await writeFile(join(root, 'command'), script);
  const modules = MODULES.filter(module => existsSync(join(kernelFolder, 'modules', module)));
  const order = modules.map(module => module.replaceAll('/', '-'));
  for (const [index, module] of modules.entries()) await cp(join(kernelFolder, 'modules', module), join(root, 'modules', order[index]!));
  await writeFile(join(root, 'modules/order'), order.join('\n'));
  await tool('sh', ['-c', `cd ${quote(root)} && find . | ${BUSYBOX} cpio -o -H newc > ${quote(join(folder, 'initramfs'))}`]);
}

function start(program: string, args: readonly string[]): ChildProcess {
  // Nothing outlives a test that is killed.
  return spawn('setpriv', ['--pdeathsig', 'KILL', program, ...args], { stdio: 'ignore' });
}

function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'tidegate', 'kernels');
}

/** The newest kernel of the series in the cache: a folder with vmlinuz and modules/. */
async function findKernel(series: KernelSeries): Promise<string | undefined> {
  const names = await readdir(cacheFolder()).catch(() => []);
  const newest = names
    .filter(name => name.startsWith(`linux-image-${series}.`))
    .sort(byVersion)
    .at(-1);
  return newest === undefined ? undefined : join(cacheFolder(), newest);
}

async function provideKernel(series: KernelSeries): Promise<void> {
  const name = (await newestPackage(series)) ?? (await tool('apt-get', ['update']), await newestPackage(series));
  if (name === undefined) throw new Error(`apt-get knows no Linux ${series}: Debian 12 has it in its main and security archives`);
  await mkdir(cacheFolder(), { recursive: true });
  const folder = await mkdtemp(join(cacheFolder(), 'unpack-'));
  try {
    await tool('apt-get', ['download', name], folder);
    const packageFile = (await readdir(folder)).find(entry => entry.endsWith('.deb'));
    if (packageFile === undefined) throw new Error(`apt-get downloaded no ${name}`);
    await tool('dpkg-deb', ['--extract', packageFile, 'root'], folder);
    const version = name.replace('linux-image-', '');
    await mkdir(join(folder, 'kernel'));
    await rename(join(folder, `root/boot/vmlinuz-${version}`), join(folder, 'kernel/vmlinuz'));
    await rename(join(folder, `root/lib/modules/${version}/kernel`), join(folder, 'kernel/modules'));
    await rename(join(folder, 'kernel'), join(cacheFolder(), name));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function newestPackage(series: KernelSeries): Promise<string | undefined> {
  const names = (await tool('apt-cache', ['pkgnames', `linux-image-${series}.`])).split('\n');
  return names
    .filter(name => name.endsWith('-cloud-amd64'))
    .sort(byVersion)
    .at(-1);
}

const versionOrder = new Intl.Collator('en', { numeric: true });
function byVersion(left: string, right: string): number {
  return versionOrder.compare(left, right);
}

function onPath(program: string): boolean {
  return (process.env.PATH ?? '').split(delimiter).some(folder => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

async function tool(program: string, args: readonly string[], cwd?: string): Promise<string> {
  const { stdout } = await execute(program, args, { cwd, timeout: DOWNLOAD_TIMEOUT_MS, maxBuffer: TOOL_OUTPUT_MAX_BYTES });
  return stdout;
}
