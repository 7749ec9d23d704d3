import { execFileSync, spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
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
  /** A new folder that is a file system of its own in memory, and may be made as small as what it holds. Needs root. */
  disk(): TestDisk;
  /** A new folder that is a file system on a block device, whose power may be cut. Needs root, mkfs.ext4 and perl. */
  blockDisk(): TestBlockDisk;
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
}

/** Linux's page cache and the disk behind it: what was not written down is gone when the power is. */
export interface TestBlockDisk {
  readonly folder: string;
  /** Everything that was written until now is on the disk. */
  sync(): void;
  /** What has not reached the disk is gone, as after a reset. Whoever used it must have been killed. */
  cutPower(): void;
}

const DISK_SIZE = '8g';
/** More than the streams may take; of it, only what is written takes room. */
const BLOCK_DISK_SIZE = '64G';
const BLOCK_DISK_FILES = '8192';
/** EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH, of Linux's fs/ext4/ext4.h. */
const SHUT_DOWN_EXT4 = `sysopen(my $folder, $ARGV[0], 0) or die $!; my $flags = pack('L', 2); ioctl($folder, 0x8004587d, $flags) or die $!`;
const FILL_TRIES = 20;

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
      const mounted = folder();
      const resize = (size: string) =>
        void execFileSync('mount', ['-o', `remount,size=${size}`, mounted], { stdio: ['ignore', 'ignore', 'pipe'] });
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK_SIZE}`, 'tidegate-test', mounted]);
      undos.push(() => void execFileSync('umount', [mounted]));
      return {
        folder: mounted,
        fill() {
          for (let tries = 1; ; tries++) {
            const { bsize, blocks, bfree } = statfsSync(mounted);
            try {
              return resize(String((blocks - bfree) * bsize));
            } catch (error) {
              // The kernel refuses less than there is, and somebody wrote in between.
              if (tries === FILL_TRIES) throw error;
            }
          }
        },
        free: () => resize(DISK_SIZE),
      };
    },
    blockDisk() {
      const image = join(folder(), 'disk');
      const mounted = folder();
      execFileSync('truncate', ['--size', BLOCK_DISK_SIZE, image]);
      execFileSync('mkfs.ext4', ['-q', '-N', BLOCK_DISK_FILES, '-J', 'size=16', image]);
      const mount = () => void execFileSync('mount', ['-o', 'loop', image, mounted]);
      const unmount = () => void execFileSync('umount', [mounted]);
      mount();
      undos.push(unmount);
      return {
        folder: mounted,
        sync: () => void execFileSync('sync', ['--file-system', mounted]),
        cutPower() {
          execFileSync('perl', ['-e', SHUT_DOWN_EXT4, mounted]);
          unmount();
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
