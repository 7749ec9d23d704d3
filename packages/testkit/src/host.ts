import { execFileSync, spawn, spawnSync, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger, type Logger } from '@tidegate/runtime';

/** What a test makes on the machine, undone in reverse order when the test is over: `await using host = createHost()`. */
export interface Host {
  /** For what is under test: silent, unless TIDEGATE_TEST_LOG_LEVEL names a level. */
  readonly logger: Logger;
  /** A new temporary folder. */
  folder(): string;
  /** A new folder that is a bpffs of its own, whether the machine has one mounted or not. Needs root. */
  bpffs(): string;
  /** A new folder that is a file system of its own, on a block device. Needs root, mkfs.ext4 and perl. */
  disk(): TestDisk;
  /** A child process; killed when it still runs at the end. */
  spawn(command: string, args: readonly string[], options?: SpawnOptions): ChildProcess;
  /** Anything else to undo. */
  defer(undo: () => void | Promise<void>): void;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface TestDisk {
  readonly folder: string;
  /** From now on nothing more fits. */
  fill(): void;
  /** There is room again. */
  free(): void;
  /** Everything that was written until now is on the disk. */
  sync(): void;
  /** What was written and has not reached the disk is gone, as after a reset. Whoever used it must have been killed. */
  cutPower(): void;
}

/** More than streams may take; of it, only what is written takes room. */
const DISK_SIZE = '64G';
const MAKE_FILE_SYSTEM = ['-q', '-m', '0', '-N', '8192', '-J', 'size=16'];
const FILL_TRIES = 20;
/** EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH, of Linux's fs/ext4/ext4.h. */
const SHUT_DOWN_EXT4 = `sysopen(my $folder, $ARGV[0], 0) or die $!; my $flags = pack('L', 2); ioctl($folder, 0x8004587d, $flags) or die $!`;

export function createHost(): Host {
  const undos: (() => void | Promise<void>)[] = [];
  const folder = () => {
    const made = mkdtempSync(join(tmpdir(), 'tidegate-test-'));
    undos.push(() => rmSync(made, { recursive: true, force: true }));
    return made;
  };
  return {
    logger: testLogger(),
    folder,
    bpffs() {
      const mounted = folder();
      execFileSync('mount', ['-t', 'bpf', 'bpf', mounted]);
      undos.push(() => void execFileSync('umount', [mounted]));
      return mounted;
    },
    disk() {
      const image = join(folder(), 'disk');
      const mounted = folder();
      execFileSync('truncate', ['--size', DISK_SIZE, image]);
      execFileSync('mkfs.ext4', [...MAKE_FILE_SYSTEM, image]);
      // A device of its own each time: whoever has copied the mount, as a container's mount namespace does, keeps the old one as it was.
      const mount = () => {
        const device = execFileSync('losetup', ['--find', '--show', image], { encoding: 'utf8' }).trim();
        execFileSync('mount', [device, mounted]);
        execFileSync('losetup', ['--detach', device]); // when it is unmounted
      };
      mount();
      undos.push(() => void execFileSync('umount', ['--lazy', mounted]));
      const fillers: string[] = [];
      return {
        folder: mounted,
        fill() {
          for (let tries = 0; tries < FILL_TRIES; tries++) {
            const { bsize, bavail } = statfsSync(mounted);
            if (bavail === 0) return;
            const filler = join(mounted, `.filler-${tries}`);
            fillers.push(filler);
            // Fails where somebody wrote in between, or the map of so much takes some of it.
            spawnSync('fallocate', ['--length', String(bavail * bsize), filler]);
          }
        },
        free() {
          for (const filler of fillers.splice(0)) rmSync(filler, { force: true });
        },
        sync: () => void execFileSync('sync', ['--file-system', mounted]),
        cutPower() {
          execFileSync('perl', ['-e', SHUT_DOWN_EXT4, mounted]);
          execFileSync('umount', [mounted]);
          mount();
        },
      };
    },
    spawn(command, args, options = {}) {
      const child = spawn(command, args, options);
      undos.push(() => endChild(child));
      return child;
    },
    defer: undo => void undos.push(undo),
    async [Symbol.asyncDispose]() {
      const failures: unknown[] = [];
      for (const undo of undos.splice(0).reverse()) {
        try {
          await undo();
        } catch (error) {
          failures.push(error);
        }
      }
      if (failures.length > 0) throw new AggregateError(failures, 'the test left something behind');
    },
  };
}

/** SIGKILLs a child that still runs, and waits for its end. */
export async function endChild(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise<void>(resolve => child.once('exit', () => resolve()));
  child.kill('SIGKILL');
  await exited;
}

/** A logger for what is under test: silent, unless TIDEGATE_TEST_LOG_LEVEL names a level. */
export function testLogger(): Logger {
  const level = process.env.TIDEGATE_TEST_LOG_LEVEL;
  return createLogger({
    name: 'test',
    level: level === 'info' || level === 'debug' || level === 'warn' || level === 'error' ? level : 'silent',
  });
}
