/** A service as a process of its own, for benchmarks that start each by itself. */
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { NatsRole } from '@tidegate/runtime';
import { endChild, waitFor, type Host } from '@tidegate/testkit';
import { sumOfSamples } from './api-server.ts';

export interface ServiceProcess {
  readonly pid: number;
  /** Where it serves health, metrics, and all else that it serves. */
  readonly url: string;
  /** All labels summed; the prefix is left out. Rejects when there is none. */
  metric(name: string): Promise<number>;
  /** Ends it in order. */
  stop(): Promise<void>;
}

export interface ServiceProcessOptions {
  /** Folder of services/. */
  folder: string;
  /** Also its password. */
  role: NatsRole;
  natsUrl: string;
  /** What starts it, such as unshare. It ends with us, also when the benchmark is killed. */
  launcher?: readonly string[];
  env?: NodeJS.ProcessEnv;
  /** It runs when this metric is 1, and not as soon as it is ready. */
  untilMetric?: string;
}

const SERVICES = fileURLToPath(new URL('../../services/', import.meta.url));
const START_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 30_000;
const OUTPUT_KEPT_BYTES = 16 * 1024;
const DYING_WITH_US = ['setpriv', '--pdeathsig', 'KILL', '--'];

/** Resolves when it runs. */
export async function startServiceProcess(
  host: Host,
  { folder, role, natsUrl, launcher = [], env = {}, untilMetric }: ServiceProcessOptions,
): Promise<ServiceProcess> {
  const main = join(SERVICES, folder, 'dist', 'main.js');
  const [command, ...args] = [...DYING_WITH_US, ...launcher, process.execPath, '--no-warnings', main];
  const child = host.spawn(command, args, {
    env: {
      ...process.env,
      TIDEGATE_NATS_URL: natsUrl,
      TIDEGATE_NATS_USER: role,
      TIDEGATE_NATS_PASSWORD: role,
      TIDEGATE_HEALTH_PORT: '0',
      ...env,
    },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let output = '';
  let url: string | undefined;
  createInterface(child.stderr!).on('line', line => {
    output = `${output}${line}\n`.slice(-OUTPUT_KEPT_BYTES);
    url ??= /http:[^"]+/.exec(line)?.[0];
  });
  const prefix = `tidegate_${folder.replaceAll('-', '_')}_`;
  const service = {
    pid: child.pid!,
    get url() {
      return url ?? '';
    },
    async metric(name: string) {
      return sumOfSamples(await (await fetch(`${url}/metrics`)).text(), prefix + name);
    },
    async stop() {
      const exited = once(child, 'exit', { signal: AbortSignal.timeout(STOP_TIMEOUT_MS) });
      child.kill('SIGTERM');
      await exited.catch(() => endChild(child));
    },
  };
  await waitFor(
    async () => {
      if (child.exitCode !== null) return 'ended';
      const isReady = url !== undefined && (await fetch(`${url}/readyz`)).ok;
      return isReady && (untilMetric === undefined || (await service.metric(untilMetric)) === 1) && 'runs';
    },
    { what: `${folder} to run`, timeoutMs: START_TIMEOUT_MS },
  ).catch((error: unknown) => {
    throw new Error(`${folder} did not start:\n${output}`, { cause: error });
  });
  if (child.exitCode !== null) throw new Error(`${folder} ended:\n${output}`);
  return service;
}
