import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { constants } from 'node:fs';
import { access, mkdir, mkdtemp, open, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { NATS_SYNC_INTERVAL_MS } from '@tidegate/contracts';
import { TidegateError } from './errors.ts';
import type { Logger } from './logging.ts';
import type { NatsUser } from './nats-permissions.ts';
import { compareVersions } from './nats.ts';

const run = promisify(execFile);

/** What is built when the machine has no nats-server that is new enough. */
const PINNED_VERSION = '2.15.2';
const MODULE = 'github.com/nats-io/nats-server/v2';
/** From here on it has stream compression, several filter subjects and `sync_interval`: no need to build one. */
const NEW_ENOUGH = '2.10.0';
/** Below it nothing works; Debian 12 has 2.9.10. */
const OLDEST_VERSION = '2.9.0';

const BUILD_TIMEOUT_MS = 15 * 60_000;
const DOWNLOAD_TIMEOUT_MS = 2 * 60_000;
const VERSION_TIMEOUT_MS = 10_000;
/** JetStream reads its stores before it listens: gigabytes take a while. */
const START_TIMEOUT_MS = 60_000;
const START_POLL_MS = 20;
/** After SIGTERM the server flushes its stores; then it is killed. */
const STOP_TIMEOUT_MS = 15_000;
const MAX_PAYLOAD_BYTES = 8 * 1024 * 1024;
const LOG_LIMIT_BYTES = 10 * 1024 * 1024;
const LOG_TAIL_BYTES = 2_000;

export interface NatsProgram {
  path: string;
  version: string;
  source: 'TIDEGATE_NATS_SERVER' | 'PATH' | 'built' | 'Debian';
}

export interface InstallOptions {
  env?: NodeJS.ProcessEnv;
  /** Default ~/.cache/tidegate. */
  cacheFolder?: string;
  logger: Logger;
}

export interface NatsServerOptions {
  program: NatsProgram;
  /** JetStream's files, configuration and log; made when missing. */
  storeFolder: string;
  /** Address to listen on; default 127.0.0.1. */
  address?: string;
  /** Default: any free port, kept over restarts of this object. */
  port?: number;
  /** What runs the program: a command that becomes it by execve, such as nsenter. */
  launcher?: readonly string[];
  /** Default: one account without sign-in. */
  users?: readonly NatsUser[];
  /** How often it writes to the disk what it has acknowledged, from 2.10 on: a duration, or `always`; default every NATS_SYNC_INTERVAL_MS. */
  syncInterval?: string | undefined;
  /** Further settings of nats-server's configuration file, over ours. */
  config?: Readonly<Record<string, unknown>>;
  logger: Logger;
}

/** A nats-server child process. */
export interface NatsServer {
  readonly url: string;
  readonly pid: number;
  /** Resolves when the process ends, wanted or not. */
  readonly exited: Promise<void>;
  /** Ends it in order; the stores stay. May be called twice. */
  stop(): Promise<void>;
  /** SIGKILL. */
  kill(): Promise<void>;
}

/**
 * A nats-server to run, in this order: the program TIDEGATE_NATS_SERVER names; one on PATH from 2.10 on; one built before; one built now
 * with Go; an older one on PATH; Debian's package, unpacked and not installed. Throws NATS_SERVER_MISSING saying what was tried.
 */
export async function provideNatsServer({
  env = process.env,
  cacheFolder = defaultCacheFolder(env),
  logger,
}: InstallOptions): Promise<NatsProgram> {
  const found = await findNatsServer({ env, cacheFolder });
  if (found && (found.source !== 'PATH' || compareVersions(found.version, NEW_ENOUGH) >= 0)) return found;
  const attempts: unknown[] = [];
  try {
    return await buildNatsServer(cacheFolder, env, logger);
  } catch (error) {
    attempts.push(error);
    logger.warn({ err: error }, 'cannot build nats-server with Go');
  }
  if (found) return found;
  try {
    return await unpackDebianNatsServer({ env, cacheFolder, logger });
  } catch (error) {
    attempts.push(error);
  }
  throw new TidegateError('NATS_SERVER_MISSING', 'no nats-server, and neither Go nor apt-get could provide one', {
    field: 'TIDEGATE_NATS_SERVER',
    expected: `the path of a nats-server from ${OLDEST_VERSION} on, or TIDEGATE_NATS_URL of one that runs`,
    cause: new AggregateError(attempts),
  });
}

/** The same without building or downloading anything. */
export async function findNatsServer({
  env = process.env,
  cacheFolder = defaultCacheFolder(env),
}: Omit<InstallOptions, 'logger'> = {}): Promise<NatsProgram | undefined> {
  const named = env.TIDEGATE_NATS_SERVER;
  if (named !== undefined && named !== '') {
    const version = await versionOf(named);
    if (version === undefined || compareVersions(version, OLDEST_VERSION) < 0) {
      throw new TidegateError('NATS_SERVER_MISSING', 'TIDEGATE_NATS_SERVER names no usable nats-server', {
        field: 'TIDEGATE_NATS_SERVER',
        expected: `a nats-server from ${OLDEST_VERSION} on`,
        got: version ?? `${named}, which cannot be run`,
      });
    }
    return { path: named, version, source: 'TIDEGATE_NATS_SERVER' };
  }
  let older: NatsProgram | undefined;
  for (const folder of (env.PATH ?? '').split(delimiter).filter(name => name !== '')) {
    const path = join(folder, 'nats-server');
    const version = await versionOf(path);
    if (version === undefined || compareVersions(version, OLDEST_VERSION) < 0) continue;
    if (compareVersions(version, NEW_ENOUGH) >= 0) return { path, version, source: 'PATH' };
    older ??= { path, version, source: 'PATH' };
  }
  const built = join(cacheFolder, `nats-server-${PINNED_VERSION}`);
  const version = await versionOf(built);
  return version === undefined ? older : { path: built, version, source: 'built' };
}

/** Debian's nats-server, taken out of its package into the cache: nothing is installed, no service starts. */
export async function unpackDebianNatsServer({
  env = process.env,
  cacheFolder = defaultCacheFolder(env),
  logger,
}: InstallOptions): Promise<NatsProgram> {
  const path = join(cacheFolder, 'nats-server-debian');
  let version = await versionOf(path);
  if (version === undefined) {
    logger.info("downloading Debian's nats-server");
    await mkdir(cacheFolder, { recursive: true });
    const folder = await mkdtemp(join(cacheFolder, 'debian-'));
    try {
      await run('apt-get', ['download', 'nats-server'], { cwd: folder, env, timeout: DOWNLOAD_TIMEOUT_MS });
      const packageFile = (await readdir(folder)).find(name => name.endsWith('.deb'));
      if (packageFile === undefined) throw new TidegateError('NATS_SERVER_MISSING', 'apt-get downloaded nothing', { field: 'nats-server' });
      await run('dpkg-deb', ['--extract', packageFile, 'root'], { cwd: folder, env, timeout: DOWNLOAD_TIMEOUT_MS });
      await rename(join(folder, 'root/usr/sbin/nats-server'), path);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
    version = await versionOf(path);
  }
  if (version === undefined) throw new TidegateError('NATS_SERVER_MISSING', "Debian's nats-server does not run", { field: path });
  return { path, version, source: 'Debian' };
}

/** Starts nats-server with JetStream on loopback, and resolves when it takes connections. */
export async function startNatsServer({
  program,
  storeFolder,
  address = '127.0.0.1',
  port,
  launcher = [],
  users,
  syncInterval = `${NATS_SYNC_INTERVAL_MS / 1000}s`,
  config = {},
  logger,
}: NatsServerOptions): Promise<NatsServer> {
  await mkdir(storeFolder, { recursive: true });
  const configFile = join(storeFolder, 'nats-server.conf');
  const logFile = join(storeFolder, 'nats-server.log');
  const settings = {
    // -1: any free port; the server writes the one it took into its ports file.
    listen: `${address}:${port ?? -1}`,
    ports_file_dir: storeFolder,
    log_file: logFile,
    logfile_size_limit: LOG_LIMIT_BYTES,
    max_payload: MAX_PAYLOAD_BYTES,
    jetstream: {
      store_dir: storeFolder,
      // Older ones know no other than two minutes.
      ...(compareVersions(program.version, NEW_ENOUGH) >= 0 && { sync_interval: syncInterval }),
    },
    ...(users && { authorization: { users } }),
    ...config,
  };
  // JSON is a subset of nats-server's configuration language. It may hold passwords.
  await writeFile(configFile, JSON.stringify(settings, undefined, 2), { mode: 0o600 });
  // A session of its own: Ctrl-C in the terminal must reach it through its owner, after the services that still publish.
  const command = [...(await dieWithParent()), ...launcher, program.path, '--config', configFile];
  const child = spawn(command[0]!, command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'], detached: true });
  let complaint = '';
  child.stderr.on('data', (chunk: Buffer) => (complaint = (complaint + chunk.toString()).slice(-LOG_TAIL_BYTES)));
  const ended = new Promise<void>(resolve => {
    child.once('exit', () => resolve());
    child.once('error', error => {
      complaint += error.message;
      resolve();
    });
  });
  const portsFile = join(storeFolder, `${basename(program.path)}_${child.pid}.ports`);
  // A killed server leaves it.
  const exited = ended.then(() => rm(portsFile, { force: true }));
  try {
    const url = await listeningUrl(child, portsFile, async () => complaint || (await tail(logFile)));
    logger.info({ url, version: program.version, program: program.path, storeFolder }, 'nats-server runs');
    return { url, pid: child.pid!, exited, stop: () => end(child, exited, 'SIGTERM'), kill: () => end(child, exited, 'SIGKILL') };
  } catch (error) {
    await end(child, exited, 'SIGKILL');
    throw error;
  }
}

async function buildNatsServer(cacheFolder: string, env: NodeJS.ProcessEnv, logger: Logger): Promise<NatsProgram> {
  logger.info({ version: PINNED_VERSION }, 'building nats-server with Go, which takes about a minute');
  await mkdir(cacheFolder, { recursive: true });
  const folder = await mkdtemp(join(cacheFolder, 'go-'));
  try {
    await run('go', ['install', `${MODULE}@v${PINNED_VERSION}`], { env: { ...env, GOBIN: folder }, timeout: BUILD_TIMEOUT_MS });
    const path = join(cacheFolder, `nats-server-${PINNED_VERSION}`);
    await rename(join(folder, 'nats-server'), path);
    return { path, version: PINNED_VERSION, source: 'built' };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function defaultCacheFolder(env: NodeJS.ProcessEnv): string {
  return join(env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'tidegate');
}

/** undefined: not there, or not a program that runs. */
async function versionOf(path: string): Promise<string | undefined> {
  try {
    await access(path, constants.X_OK);
    const { stdout } = await run(path, ['--version'], { timeout: VERSION_TIMEOUT_MS });
    return /v(\d+\.\d+\.\d+)/.exec(stdout)?.[1];
  } catch {
    return undefined;
  }
}

/** Prefix of a command that the kernel ends with SIGTERM when this process dies, even by SIGKILL. Empty where util-linux is not. */
async function dieWithParent(): Promise<string[]> {
  const setpriv = '/usr/bin/setpriv';
  const isThere = await access(setpriv, constants.X_OK).then(
    () => true,
    () => false,
  );
  return isThere ? [setpriv, '--pdeathsig', 'TERM'] : [];
}

async function listeningUrl(child: ChildProcess, portsFile: string, reason: () => Promise<string>): Promise<string> {
  const deadlineMs = performance.now() + START_TIMEOUT_MS;
  while (performance.now() < deadlineMs) {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) break;
    try {
      const { nats } = JSON.parse(await readFile(portsFile, 'utf8')) as { nats?: string[] };
      if (nats?.[0] !== undefined) return nats[0];
    } catch {
      // Not there yet, or half written.
    }
    await delay(START_POLL_MS);
  }
  throw new TidegateError('NATS_SERVER_EXITED', `nats-server did not start: ${(await reason()).trim()}`, { field: portsFile });
}

async function end(child: ChildProcess, exited: Promise<void>, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return exited;
  child.kill(signal);
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await exited;
  clearTimeout(timer);
}

async function tail(file: string): Promise<string> {
  try {
    await using handle = await open(file);
    const { size } = await handle.stat();
    const buffer = Buffer.alloc(Math.min(size, LOG_TAIL_BYTES));
    await handle.read(buffer, 0, buffer.length, size - buffer.length);
    return buffer.toString();
  } catch {
    return 'it wrote nothing';
  }
}
