/** Every service against three nats-servers, each process in a network namespace of its own, each server on a disk of its own. */
import type { ChildProcess } from 'node:child_process';
import { closeSync, copyFileSync, openSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { BUCKETS, CLUSTER_KEY, clusterSettingCodec } from '@tidegate/contracts';
import { configuredCluster, createBuckets, NatsRole } from '@tidegate/runtime';
import {
  connectAs,
  createHost,
  createNetwork,
  roleUsers,
  startNatsCluster,
  type Host,
  type NetworkPlace,
  type TestDisk,
  type TestNatsCluster,
  type TestNatsServer,
} from '@tidegate/testkit';
import type { NatsConnection } from '@nats-io/nats-core';
import { runTidegate, type CommandResult } from '../tidegate-command.ts';

interface Service {
  /** Folder of services/. */
  folder: string;
  role: NatsRole;
  /** How many run; further ones come and go when there are any. */
  count?: number;
  spare?: number;
  env?: NodeJS.ProcessEnv;
}

/** All that take part. */
const SERVICES: readonly Service[] = [
  { folder: 'node-sensor', role: NatsRole.sensor },
  { folder: 'enricher', role: NatsRole.enricher, count: 2, spare: 2 },
  { folder: 'api', role: NatsRole.api },
  { folder: 'connectors', role: NatsRole.connectors },
];
const NATS_SERVERS = 3;
export const NODE = 'chaos';
const API_PORT = 7400;
const LOG_TAIL_BYTES = 4_000;
const CHECKOUT = join(import.meta.dirname, '..', '..', '..');

/** A process that faults befall. */
export interface Member {
  readonly name: string;
  readonly place: NetworkPlace;
  start(): Promise<void>;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** SIGTERM. */
  stop(): Promise<void>;
  /** SIGSTOP, and SIGCONT. */
  pause(): void;
  resume(): void;
}

export interface ServiceMember extends Member {
  readonly role: NatsRole;
  readonly isSpare: boolean;
}

export interface ServerMember extends Member {
  readonly disk: TestDisk;
}

export interface Stage {
  readonly nc: NatsConnection;
  readonly cluster: TestNatsCluster;
  readonly services: readonly ServiceMember[];
  readonly servers: readonly ServerMember[];
  /** The only program whose events the kernel lets through, so that numbers are exact whatever else runs. */
  readonly program: string;
  /** Processes that ended though nobody ended them, or not as asked, with the last of their logs. */
  readonly accidents: readonly string[];
  /** The `tidegate` command, beside the API. */
  command(...args: string[]): Promise<CommandResult>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Needs root, and a kernel that the sensor runs on. */
export async function setStage(): Promise<Stage> {
  const host = createHost();
  try {
    return await set(host);
  } catch (error) {
    await host[Symbol.asyncDispose]();
    throw error;
  }
}

async function set(host: Host): Promise<Stage> {
  const wanted = SERVICES.flatMap(service =>
    Array.from({ length: (service.count ?? 1) + (service.spare ?? 0) }, (_, i) => ({ ...service, number: i + 1 })),
  );
  const places = await createNetwork(host, NATS_SERVERS + wanted.length);
  const disks = Array.from({ length: NATS_SERVERS }, () => host.disk());
  const cluster = await startNatsCluster({
    users: roleUsers(),
    places: disks.map(({ folder }, i) => ({ ...places[i]!, storeDir: folder })),
  });
  host.defer(() => cluster[Symbol.asyncDispose]());
  const nc = await connectAs(NatsRole.admin, cluster.url, host);
  await cluster.setUp(nc);
  const buckets = await createBuckets({ nc, logger: host.logger });
  await buckets.open(BUCKETS.settings, clusterSettingCodec).put(CLUSTER_KEY, configuredCluster('chaos'));
  buckets.close();

  const program = join(realpathSync(host.folder()), 'marker');
  copyFileSync('/bin/true', program);
  const pinDirectory = join(host.bpffs(), 'tidegate');
  const folder = host.folder();
  const accidents: string[] = [];
  const services = wanted.map(({ folder: name, role, number, count = 1, env = {} }, i): ServiceMember => {
    const isAlone = wanted.filter(other => other.folder === name).length === 1;
    const member = isAlone ? name : `${name}-${number}`;
    return {
      role,
      isSpare: number > count,
      ...serviceMember(host, {
        name: member,
        place: places[NATS_SERVERS + i]!,
        main: join(CHECKOUT, 'services', name, 'dist', 'main.js'),
        logFile: join(folder, `${member}.log`),
        accidents,
        env: {
          ...process.env,
          TIDEGATE_NATS_URL: cluster.url,
          TIDEGATE_NATS_USER: role,
          TIDEGATE_NATS_PASSWORD: role,
          TIDEGATE_HEALTH_PORT: '0',
          TIDEGATE_API_PORT: String(API_PORT),
          TIDEGATE_NODE: NODE,
          TIDEGATE_DATA_DIR: folder,
          TIDEGATE_PIN_DIRECTORY: pinDirectory,
          TIDEGATE_ALLOW_BINARIES: program,
          ...env,
        },
      }),
    };
  });
  const api = services.find(({ role }) => role === NatsRole.api)!;
  await Promise.all(services.filter(({ isSpare }) => !isSpare).map(service => service.start()));
  return {
    nc,
    cluster,
    services,
    servers: cluster.servers.map((server, i) => serverMember(`nats-${i + 1}`, server, places[i]!, disks[i]!)),
    program,
    accidents,
    command: (...args) =>
      runTidegate(args, {
        launcher: api.place.launcher,
        env: {
          TIDEGATE_NATS_URL: cluster.url,
          TIDEGATE_NATS_USER: NatsRole.admin,
          TIDEGATE_NATS_PASSWORD: NatsRole.admin,
          TIDEGATE_API_URL: `http://127.0.0.1:${API_PORT}`,
        },
      }),
    [Symbol.asyncDispose]: () => host[Symbol.asyncDispose](),
  };
}

interface ServiceMemberOptions {
  name: string;
  place: NetworkPlace;
  main: string;
  env: NodeJS.ProcessEnv;
  logFile: string;
  accidents: string[];
}

function serviceMember(host: Host, { name, place, main, env, logFile, accidents }: ServiceMemberOptions): Member {
  let child: ChildProcess | undefined;
  let exited = Promise.resolve();
  let isWanted = false;
  const isRunning = () => child !== undefined && child.exitCode === null && child.signalCode === null;
  const end = (signal: NodeJS.Signals) => {
    isWanted = false;
    if (isRunning()) child!.kill(signal);
    return exited;
  };
  return {
    name,
    place,
    start() {
      const [command, ...args] = [...place.launcher, process.execPath, '--no-warnings', main];
      const log = openSync(logFile, 'a');
      child = host.spawn(command, args, { env, stdio: ['ignore', log, log] });
      closeSync(log);
      isWanted = true;
      exited = new Promise(resolve => {
        child!.once('exit', (code, signal) => {
          if (isWanted || (code !== 0 && signal !== 'SIGKILL' && signal !== 'SIGTERM'))
            accidents.push(`${name} ended with ${signal ?? code}: ${readFileSync(logFile, 'utf8').slice(-LOG_TAIL_BYTES)}`);
          resolve();
        });
      });
      return Promise.resolve();
    },
    kill: () => end('SIGKILL'),
    stop: () => end('SIGTERM'),
    pause: () => void child!.kill('SIGSTOP'),
    resume: () => void child!.kill('SIGCONT'),
  };
}

function serverMember(name: string, server: TestNatsServer, place: NetworkPlace, disk: TestDisk): ServerMember {
  return {
    name,
    place,
    disk,
    start: () => server.restart(),
    kill: () => server.kill(),
    stop: () => server.stop(),
    pause: () => void process.kill(server.pid, 'SIGSTOP'),
    resume: () => void process.kill(server.pid, 'SIGCONT'),
  };
}
