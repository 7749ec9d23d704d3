import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  provideNatsServer,
  startNatsServer as startServer,
  unpackDebianNatsServer,
  type NatsProgram,
  type NatsServer,
  type NatsUser,
} from '@tidegate/runtime';
import { testLogger } from './host.ts';

export interface TestNatsOptions {
  /** Default: a temporary folder that stop() removes. */
  storeDir?: string;
  /** Default: any free one, kept over kill and restart. */
  port?: number;
  /** Default: 127.0.0.1. */
  address?: string;
  /** What runs the program, such as nsenter. */
  launcher?: readonly string[];
  users?: readonly NatsUser[];
  /** How often it writes to the disk what it has acknowledged; default as in production. */
  syncInterval?: string;
  /** Further settings of the server's configuration. */
  config?: Readonly<Record<string, unknown>>;
  /** `debian`: the oldest server that is supported, 2.9.10. */
  version?: 'new' | 'debian';
}

/** A real nats-server for a test; `await using` stops it. */
export interface TestNatsServer {
  readonly url: string;
  readonly version: string;
  readonly storeDir: string;
  readonly pid: number;
  /** SIGKILL, as a crash would; the stores stay. */
  kill(): Promise<void>;
  /** Starts it again on the same port and stores, stopping it first when it runs. */
  restart(): Promise<void>;
  /** Ends it for good and removes a temporary folder. */
  stop(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

const programs = new Map<'new' | 'debian', Promise<NatsProgram>>();

/** The nats-server that tests run, installed into the cache when missing. */
export function findNatsServer(version: 'new' | 'debian' = 'new'): Promise<NatsProgram> {
  const known = programs.get(version);
  if (known) return known;
  const provided = version === 'new' ? provideNatsServer({ logger: testLogger() }) : unpackDebianNatsServer({ logger: testLogger() });
  programs.set(version, provided);
  return provided;
}

export async function startNatsServer({
  storeDir,
  address,
  port,
  launcher,
  users,
  syncInterval,
  config,
  version = 'new',
}: TestNatsOptions = {}): Promise<TestNatsServer> {
  const program = await findNatsServer(version);
  const storeFolder = storeDir ?? mkdtempSync(join(tmpdir(), 'tidegate-nats-'));
  const start = (onPort?: number): Promise<NatsServer> =>
    startServer({
      program,
      storeFolder,
      logger: testLogger(),
      ...(address !== undefined && { address }),
      ...(onPort !== undefined && { port: onPort }),
      ...(launcher && { launcher }),
      ...(users && { users }),
      ...(syncInterval !== undefined && { syncInterval }),
      ...(config && { config }),
    });
  let server = await start(port);
  const { url } = server;
  const stop = async () => {
    await server.stop();
    if (storeDir === undefined) rmSync(storeFolder, { recursive: true, force: true });
  };
  return {
    url,
    version: program.version,
    storeDir: storeFolder,
    get pid() {
      return server.pid;
    },
    kill: () => server.kill(),
    restart: async () => {
      await server.stop();
      server = await start(Number(new URL(url).port));
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}
