/** The whole of Tidegate as `npm start` runs it, in a folder and on ports of its own. */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connectNats, createLogger, NatsRole, roleInboxPrefix } from '@tidegate/runtime';
import { createHost } from '@tidegate/testkit';
import type { NatsConnection } from '@nats-io/nats-core';
import { COMMAND, keepOutput, runTidegate, type CommandResult } from './tidegate-command.ts';

/** Also when the benchmark is killed. */
const ENDING_WITH_US = ['--pdeathsig', 'TERM', '--'];
const READY_TIMEOUT_MS = 60_000;
const POLL_MS = 50;
const STOP_TIMEOUT_MS = 60_000;
const FIRST_PORT = 21_000;
const LAST_PORT = 22_000;
const PORTS = 6;

export interface Stack {
  apiUrl: string;
  natsUrl: string;
  /** Of the sensor's links and maps. */
  pinDirectory: string;
  /** As an administrator. */
  connect(): Promise<NatsConnection>;
  /** A metric of sensor or enricher, all labels summed; 0 when it is not there. */
  metric(service: 'sensor' | 'enricher', name: string): Promise<number>;
  /** Process ids by service: nats, sensor, enricher, api. */
  pids(): Record<string, number>;
  /** Runs the `tidegate` command against this stack. */
  command(...args: string[]): Promise<CommandResult>;
  stop(): Promise<void>;
}

/** @param env settings of the services: TIDEGATE_… */
export async function startStack(env: NodeJS.ProcessEnv = {}): Promise<Stack> {
  const host = createHost();
  const folder = host.folder();
  const [natsPort, apiPort, healthPort] = await freePorts();
  const pinDirectory = join(host.bpffs(), 'tidegate');
  const apiUrl = `http://127.0.0.1:${apiPort}`;
  const natsUrl = `nats://127.0.0.1:${natsPort}`;
  const environment = { ...process.env, TIDEGATE_PIN_DIRECTORY: pinDirectory, TIDEGATE_API_URL: apiUrl, TIDEGATE_DATA_DIR: folder, ...env };
  const ports = ['--nats-port', String(natsPort), '--api-port', String(apiPort), '--health-ports', String(healthPort)];
  const up = [process.execPath, COMMAND, 'up', '--data-dir', folder, ...ports];
  const supervisor = spawn('setpriv', [...ENDING_WITH_US, ...up], {
    env: environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = keepOutput(supervisor);
  const stop = async () => {
    if (supervisor.exitCode === null) {
      supervisor.kill('SIGINT');
      await Promise.race([new Promise(resolve => supervisor.once('exit', resolve)), delay(STOP_TIMEOUT_MS, undefined, { ref: false })]);
    }
    await host[Symbol.asyncDispose]();
  };
  const untilMs = performance.now() + READY_TIMEOUT_MS;
  while (!output().includes('Tidegate is ready')) {
    if (supervisor.exitCode !== null || performance.now() > untilMs) {
      await stop();
      throw new Error(`the stack did not become ready:\n${output()}`);
    }
    await delay(POLL_MS);
  }
  const healthPorts = { sensor: healthPort, enricher: healthPort + 1 };
  return {
    apiUrl,
    natsUrl,
    pinDirectory,
    connect() {
      const passwords = JSON.parse(readFileSync(join(folder, 'nats-users.json'), 'utf8')) as Record<string, string>;
      return connectNats({
        url: natsUrl,
        name: 'bench',
        user: NatsRole.admin,
        password: passwords[NatsRole.admin],
        inboxPrefix: roleInboxPrefix(NatsRole.admin),
        logger: createLogger({ name: 'bench', level: 'warn' }),
      });
    },
    async metric(service, name) {
      const text = await (await fetch(`http://127.0.0.1:${healthPorts[service]}/metrics`)).text();
      return text
        .split('\n')
        .filter(line => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
        .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
    },
    pids: () => childrenByService(supervisor.pid ?? 0),
    command: (...args) => runTidegate(args, { env: environment }),
    stop,
  };
}

/** Resident memory, bytes; of the process alone. */
export function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024;
}

function childrenByService(supervisor: number): Record<string, number> {
  const found: Record<string, number> = { supervisor };
  for (const entry of readdirSync('/proc')) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || !existsSync(`/proc/${pid}/status`)) continue;
    try {
      if (!new RegExp(`^PPid:\\s+${supervisor}$`, 'm').test(readFileSync(`/proc/${pid}/status`, 'utf8'))) continue;
      const commandLine = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      const service = /services\/([a-z-]+)\//.exec(commandLine)?.[1] ?? (commandLine.includes('nats-server') ? 'nats-server' : undefined);
      if (service !== undefined) found[service] = pid;
    } catch {
      continue; // It ended meanwhile.
    }
  }
  return found;
}

/** Free ports for NATS, the API, and the first of three for health. They lie below the range that the kernel gives to outgoing connections. */
async function freePorts(): Promise<[number, number, number]> {
  for (let first = FIRST_PORT; first < LAST_PORT; first += PORTS) {
    const ports = Array.from({ length: PORTS }, (_, i) => first + i);
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return [first, first + 1, first + 2];
  }
  throw new Error(`no ${PORTS} free ports from ${FIRST_PORT} to ${LAST_PORT}`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const server = createServer().once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
