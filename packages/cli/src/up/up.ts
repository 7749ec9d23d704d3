/** The supervisor: starts the parts of Tidegate in order, keeps them running, and ends them in order. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { get } from 'node:http';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  BUCKETS,
  STREAMS,
  bytesText,
  durationText,
  gatewayStatusCodec,
  printable,
  sensorStatusCodec,
  type GatewayStatus,
  type SensorStatus,
  type StreamDefinition,
} from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import {
  NatsRole,
  TidegateError,
  createBuckets,
  connectNats,
  createLogger,
  ensureBuckets,
  ensureStreams,
  findNatsServer,
  leaveStartBehind,
  provideNatsServer,
  startNatsServer,
  type ReadBucket,
} from '@tidegate/runtime';
import { DEFAULT_API_PORT, type CommandContext } from '../command.ts';
import { CONSUMER_USER, embeddedNatsUsers, natsAccess, provideNatsPasswords } from '../nats-access.ts';
import { BPFFS, provideBpffs } from './bpffs.ts';
import { startProgram } from './child-process.ts';
import { nameCluster } from './cluster.ts';
import { startGuardian, type Guardian } from './guardian.ts';
import { probeKernel } from './kernel-probe.ts';
import { formatLogLine, type LogFormat } from './log-lines.ts';
import { leaveOldName } from './machine-name.ts';
import { chooseNode } from './node-choice.ts';
import { requirePorts } from './ports.ts';
import { hasFilters, isReadBack } from './read-back.ts';
import { takeRunFile } from './run-file.ts';
import { commandPath, demoCapturePath, serviceArguments, type ServiceName } from './service-path.ts';
import { fitStorage } from './storage-budget.ts';
import { supervise, type RunningProcess, type Supervised } from './supervised.ts';

export interface UpOptions {
  folder: string;
  /** The cluster's name; undefined: Kubernetes names it, else a random one is made. */
  cluster: string | undefined;
  /** undefined: start one. */
  natsUrl: string | undefined;
  natsPort: number;
  apiPort: number;
  /** First of four: sensor, enricher, gateway, connectors. */
  healthPort: number;
  logFormat: LogFormat;
  /** Played instead of using the kernel. */
  capture: string | undefined;
}

/** Services give themselves 25 s to close. */
const STOP_TIMEOUT_MS = 30_000;
/** Processes of a supervisor that was killed need a moment to end and free their ports. */
const TAKE_OVER_MS = 20_000;
/** An existing NATS that does not answer for so long is worth a word. */
const WAIT_NOTE_MS = 1_000;
const READY_TIMEOUT_MS = 60_000;
const READY_POLL_MS = 100;
const READY_REQUEST_TIMEOUT_MS = 2_000;
const PIN_DIGEST_CHARS = 8;
const SERVICE_ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount/token';

/** Runs until the context's signal is aborted and everything has ended. */
export async function runUp(options: UpOptions, given: CommandContext): Promise<void> {
  const context = { ...given, env: withPinDirectory(given.env, options.folder) };
  const startMs = performance.now();
  const page = `http://127.0.0.1:${options.apiPort}/`;
  const natsUrl = options.natsUrl ?? `nats://127.0.0.1:${options.natsPort}`;
  const runFile = takeRunFile(options.folder, { page, nats: natsUrl });
  const guardian = startGuardian();
  const parts: Supervised[] = [];
  const up = createParts({ options, context, guardian, natsUrl });
  try {
    await requirePorts(neededPorts(options), runFile.replacedDead ? TAKE_OVER_MS : 0);
    const hasGateway = hasCluster(context.env);
    const capture = await chooseCapture(options, context, up.say);
    let streams: readonly StreamDefinition[] = Object.values(STREAMS);
    if (options.natsUrl === undefined) {
      const storage = await fitStorage(storeFolder(options));
      if (storage.isReduced) up.say(`little disk is free: streams keep ${storageText(storage.streams)}`, 'warn');
      streams = storage.streams;
      parts.push(await up.nats(storage.maxStoreBytes));
    }
    // Asked meanwhile: it takes a second, and an API server that is off takes longer.
    const choosing = hasGateway && capture === undefined ? chooseNode(context.env) : undefined;
    await setUpStreams({ url: natsUrl, env: up.adminEnv, streams, signal: context.signal, say: up.say });
    const named = () =>
      withAdmin(natsUrl, up.adminEnv, context.signal, nc =>
        nameCluster({ nc, configured: options.cluster, hasGateway, signal: context.signal }),
      );
    // Where the gateway is asked it has to run first.
    const isGatewayAsked = hasGateway && options.cluster === undefined;
    if (!isGatewayAsked) up.say(`cluster ${await named()}`);
    // Consumers before producers: the first event finds everyone at work. They end the other way round.
    const choice = await choosing;
    if (choice) up.say(choice.text, choice.level);
    if (capture === undefined) {
      const name = choice?.node ?? (context.env.TIDEGATE_NODE || hostname());
      const old = await withAdmin(natsUrl, up.adminEnv, context.signal, nc => leaveOldName(nc, options.folder, name));
      if (old !== undefined) up.say(`this machine was node ${printable(old)} before: that node has left, its events stay`);
    }
    const services: Part[] = [
      ...(hasGateway ? [up.gateway] : []),
      up.api,
      up.connectors,
      up.enricher,
      capture === undefined ? up.sensor(choice?.node) : up.player(capture),
    ];
    for (const part of services) {
      if (context.signal.aborted) break;
      up.say(`starting ${part.name}`);
      parts.push(await up.start(part));
    }
    if (isGatewayAsked) {
      named().then(
        name => up.say(`cluster ${name}`),
        (error: unknown) => up.say(`the cluster has no name yet: ${error instanceof Error ? error.message : String(error)}`, 'warn'),
      );
    }
    const unready = await waitUntilReady(services, context.signal);
    if (!context.signal.aborted) {
      if (unready.length > 0)
        up.say(`not ready after ${READY_TIMEOUT_MS / 1000} s: ${unready.join(', ')}; the log above may say why`, 'warn');
      else {
        const isRead = capture === undefined && !hasFilters(context.env) ? await isReadBack(page, context.signal) : undefined;
        const reports = await newestReports(natsUrl, up.adminEnv, context.signal);
        if (isRead === false && !context.signal.aborted) throw noEvents(reports.sensor);
        for (const line of welcome({ startMs, page, natsUrl, capture, reports, isEmbedded: options.natsUrl === undefined, context }))
          up.say(line);
      }
      leaveStartBehind();
      await aborted(context.signal);
    }
  } finally {
    if (parts.length > 0) up.say('stopping');
    const killAll = () => parts.forEach(part => part.kill());
    process.once('exit', killAll);
    for (const part of parts.reverse()) await part.stop();
    process.off('exit', killAll);
    await guardian.close();
    runFile.release();
    if (parts.length > 0) up.say('stopped');
  }
}

/**
 * Pins of its own for each data folder. Two sensors that share pins, as two `npm start` on one machine would, share the rings too: the kernel overwrites what
 * one of them has read, and the first to end removes them.
 */
function withPinDirectory(env: NodeJS.ProcessEnv, folder: string): NodeJS.ProcessEnv {
  const digest = createHash('sha256').update(folder).digest('hex').slice(0, PIN_DIGEST_CHARS);
  return { ...env, TIDEGATE_PIN_DIRECTORY: env.TIDEGATE_PIN_DIRECTORY || `${BPFFS}/tidegate-${digest}` };
}

/** The supervisor's own words. */
type Say = (text: string, level?: 'info' | 'warn') => void;

/** One process to supervise. */
interface Part {
  name: string;
  command: readonly string[];
  env: NodeJS.ProcessEnv;
  /** Answers 200 when ready. */
  readyUrl?: string;
}

interface PartsOptions {
  options: UpOptions;
  context: CommandContext;
  guardian: Guardian;
  natsUrl: string;
}

function createParts({ options, context, guardian, natsUrl }: PartsOptions) {
  const { folder, logFormat, healthPort, apiPort } = options;
  const { env, paint } = context;
  const isEmbedded = options.natsUrl === undefined;
  const passwords = isEmbedded ? provideNatsPasswords(folder) : undefined;
  const print = (name: string, line: string) => void context.print(formatLogLine(name, line, logFormat, paint));
  const say: Say = (msg, level = 'info') => {
    if (logFormat === 'json') print('tidegate', JSON.stringify({ level: level === 'warn' ? 40 : 30, time: new Date().toISOString(), msg }));
    else void context.print(level === 'warn' ? paint('yellow', msg) : msg);
  };
  const logger = createLogger({ name: 'nats', level: 'warn' });

  /** Settings that the user gave reach every service; these are what the supervisor decides. */
  const envOf = (role: NatsRole, more: NodeJS.ProcessEnv): NodeJS.ProcessEnv => ({
    ...env,
    TIDEGATE_DATA_DIR: folder,
    TIDEGATE_NATS_URL: natsUrl,
    ...(passwords && { TIDEGATE_NATS_USER: role, TIDEGATE_NATS_PASSWORD: passwords[role] }),
    ...more,
  });
  const service = (name: string, program: ServiceName, role: NatsRole, port: number | undefined, more: NodeJS.ProcessEnv = {}): Part => ({
    name,
    command: serviceArguments(program),
    env: envOf(role, { ...(port !== undefined && { TIDEGATE_HEALTH_PORT: String(port) }), ...more }),
    readyUrl: `http://127.0.0.1:${port ?? apiPort}/readyz`,
  });
  const onEnd = (name: string) => (how: string, restartMs: number) =>
    say(`${name} ${how}; starting it again in ${durationText(restartMs)}`, 'warn');

  return {
    say,
    adminEnv: envOf(NatsRole.admin, {}),
    gateway: service('gateway', 'enforcer-gateway', NatsRole.gateway, healthPort + 2, { TIDEGATE_CLUSTER: options.cluster }),
    api: service('api', 'api', NatsRole.api, undefined, { TIDEGATE_API_PORT: String(apiPort) }),
    enricher: service('enricher', 'enricher', NatsRole.enricher, healthPort + 1),
    connectors: service('connectors', 'connectors', NatsRole.connectors, healthPort + 3),
    // Links and maps stay pinned only where the user wants it: Ctrl-C leaves nothing behind.
    sensor: (node: string | undefined) =>
      service('sensor', 'node-sensor', NatsRole.sensor, healthPort, {
        TIDEGATE_KEEP_PINS: env.TIDEGATE_KEEP_PINS ?? 'false',
        ...(node !== undefined && { TIDEGATE_NODE: node }),
      }),
    player: (capture: string): Part => ({
      name: 'player',
      command: [commandPath(), 'play', '--loop', '--nats', natsUrl, capture],
      env: envOf(NatsRole.admin, {}),
    }),
    start: (part: Part): Promise<Supervised> =>
      supervise({
        name: part.name,
        guardian,
        onEnd: onEnd(part.name),
        launch: () =>
          startProgram({
            command: process.execPath,
            args: part.command,
            env: part.env,
            stopTimeoutMs: STOP_TIMEOUT_MS,
            onLine: line => print(part.name, line),
          }),
      }),
    async nats(maxStoreBytes: number): Promise<Supervised> {
      if (!(await findNatsServer({ env }))) say('getting nats-server: built with Go, or unpacked from Debian; a minute or two, once');
      const program = await provideNatsServer({ env, logger });
      const launch = async (): Promise<RunningProcess> => {
        const server = await startNatsServer({
          program,
          storeFolder: storeFolder(options),
          port: options.natsPort,
          users: embeddedNatsUsers(passwords!),
          config: { no_auth_user: CONSUMER_USER, jetstream: { store_dir: storeFolder(options), max_file_store: maxStoreBytes } },
          logger,
        });
        return {
          pid: server.pid,
          ended: server.exited.then(() => 'ended'),
          stop: () => server.stop(),
          kill: () => void server.kill(),
        };
      };
      say(`starting nats-server ${program.version}`);
      return supervise({ name: 'nats', launch, guardian, onEnd: onEnd('nats') });
    },
  };
}

function storeFolder({ folder }: UpOptions): string {
  return join(folder, 'nats');
}

function storageText(streams: readonly StreamDefinition[]): string {
  return streams.map(({ name, maxBytes }) => `${name} ${bytesText(maxBytes)}`).join(', ');
}

function neededPorts({ natsUrl, natsPort, apiPort, healthPort }: UpOptions) {
  return [
    ...(natsUrl === undefined ? [{ port: natsPort, use: 'NATS; --nats-port chooses another' }] : []),
    { port: apiPort, use: 'page and API; --api-port chooses another' },
    { port: healthPort, use: "the sensor's health and metrics; --health-ports chooses others" },
    { port: healthPort + 1, use: "the enricher's health and metrics; --health-ports chooses others" },
    { port: healthPort + 3, use: "the connectors' health and metrics; --health-ports chooses others" },
  ];
}

/** The file to play; undefined: the kernel can be used. */
async function chooseCapture({ capture }: UpOptions, { env }: CommandContext, say: Say): Promise<string | undefined> {
  if (capture !== undefined) return resolve(capture);
  if (await provideBpffs(env)) say('mounted a bpffs at /sys/fs/bpf, where the sensor pins what outlives its restarts');
  const probe = await probeKernel(env);
  for (const limit of probe.limits) say(limit, 'warn');
  if (probe.ok) return undefined;
  say('The events of this machine cannot be had:', 'warn');
  for (const fault of probe.missing) say(`  - ${fault.split('\n')[0]}`, 'warn');
  say('Playing a recorded capture instead; its events are marked as recorded.', 'warn');
  return demoCapturePath();
}

interface StreamSetup {
  url: string;
  env: NodeJS.ProcessEnv;
  streams: readonly StreamDefinition[];
  signal: AbortSignal;
  say: Say;
}

async function setUpStreams({ url, env, streams, signal, say }: StreamSetup): Promise<void> {
  const reminder = setTimeout(() => say(`waiting for NATS at ${url}`, 'warn'), WAIT_NOTE_MS);
  await withAdmin(url, env, signal, async nc => {
    clearTimeout(reminder);
    await ensureStreams(nc, streams);
    await ensureBuckets(nc, Object.values(BUCKETS));
  }).finally(() => clearTimeout(reminder));
}

async function withAdmin<Result>(
  url: string,
  env: NodeJS.ProcessEnv,
  signal: AbortSignal,
  use: (nc: NatsConnection) => Promise<Result>,
): Promise<Result> {
  const nc = await connectNats({
    url,
    name: 'tidegate-up',
    ...natsAccess(env, NatsRole.admin),
    logger: createLogger({ name: 'tidegate', level: 'silent' }),
    signal,
  });
  try {
    return await use(nc);
  } finally {
    await nc.close();
  }
}

/** Names of parts that are not ready in time. */
async function waitUntilReady(parts: readonly Part[], signal: AbortSignal): Promise<string[]> {
  const deadlineMs = performance.now() + READY_TIMEOUT_MS;
  let waiting = parts.filter(part => part.readyUrl !== undefined);
  while (waiting.length > 0 && performance.now() < deadlineMs && !signal.aborted) {
    const ready = await Promise.all(waiting.map(part => isReady(part.readyUrl!)));
    waiting = waiting.filter((_, i) => !ready[i]);
    if (waiting.length > 0) await delay(READY_POLL_MS, undefined, { signal }).catch(() => undefined);
  }
  return waiting.map(part => part.name);
}

/** Not by fetch, which costs this process 8 MB for as long as it runs. */
function isReady(url: string): Promise<boolean> {
  return new Promise(resolve => {
    const request = get(url, { agent: false, signal: AbortSignal.timeout(READY_REQUEST_TIMEOUT_MS) }, response => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    request.on('error', () => resolve(false));
  });
}

/** What sensor and gateway have just reported. */
interface Reports {
  sensor: SensorStatus | undefined;
  gateway: GatewayStatus | undefined;
}

function newestReports(url: string, env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<Reports> {
  return withAdmin(url, env, signal, async nc => {
    const buckets = await createBuckets({ nc, logger: createLogger({ name: 'up', level: 'silent' }) });
    const newest = async <Value>(bucket: ReadBucket<Value>) =>
      [...(await bucket.snapshot()).values()].sort((a, b) => b.revision - a.revision)[0]?.value;
    const sensor = await newest(buckets.open(BUCKETS.sensors, sensorStatusCodec));
    const gateway = await newest(buckets.open(BUCKETS.gateways, gatewayStatusCodec));
    buckets.close();
    return { sensor, gateway };
  });
}

interface Welcome {
  startMs: number;
  page: string;
  natsUrl: string;
  capture: string | undefined;
  reports: Reports;
  isEmbedded: boolean;
  context: CommandContext;
}

function welcome({ startMs, page, natsUrl, capture, reports: { sensor, gateway }, isEmbedded, context: { paint } }: Welcome): string[] {
  const attached = sensor?.hooks.filter(hook => hook.attached) ?? [];
  const source =
    capture === undefined
      ? [
          `  hooks   ${attached.map(hook => hook.hook).join(', ') || 'none'}`,
          ...hooksThatAreOff(sensor).map(({ hook, reason }) => paint('red', `          ${hook} is off: ${printable(reason)}`)),
        ]
      : [`  events  recorded ones, from ${printable(capture)}`];
  return [
    '',
    paint(['green', 'bold'], `Tidegate is ready (${durationText(performance.now() - startMs)}).`),
    ...source,
    ...(gateway ? [podsText(gateway, paint)] : []),
    `  page    ${page}`,
    `  API     ${page}docs`,
    `  NATS    ${natsUrl}   stream EVENTS, subjects tidegate.events.<kind>.<namespace>.<workload>${isEmbedded ? '; reading needs no sign-in' : ''}`,
    `  feed    nats sub -s ${natsUrl} 'tidegate.feed.>'   each event as JSON, while you listen`,
    `  try     npx tidegate events${page === `http://127.0.0.1:${DEFAULT_API_PORT}/` ? '' : ` --api ${page}`}   in another terminal${capture === undefined ? ', and run a program in a third' : ''}`,
    '',
  ];
}

function hooksThatAreOff(sensor: SensorStatus | undefined): { hook: string; reason: string }[] {
  const off = sensor?.hooks.filter(({ attached }) => !attached) ?? [];
  return off.map(({ hook, error: reason = 'no reason given' }) => ({ hook, reason }));
}

function noEvents(sensor: SensorStatus | undefined): TidegateError {
  return new TidegateError('NO_EVENTS', 'Every part runs, but the start of a program was not read back from EVENTS within 10 s', {
    expected: 'every hook attached',
    got:
      hooksThatAreOff(sensor)
        .map(({ hook, reason }) => `${hook} is off: ${printable(reason.split('\n')[0]!)}`)
        .join('; ') || 'so it is, and no event',
  });
}

function podsText({ leads, holder, lease, server }: GatewayStatus, paint: CommandContext['paint']): string {
  const kubernetes = `Kubernetes at ${printable(server)}`;
  if (leads || !holder) return `  pods    of ${kubernetes}`;
  const since = holder.since === undefined ? '' : ` since ${printable(holder.since)}`;
  const text = `  pods    none: ${printable(holder.identity)}, another gateway, holds the Lease ${printable(lease)} of ${kubernetes}${since}`;
  return paint('yellow', `${text}; this one takes over when that ends, or set TIDEGATE_LEASE_NAME`);
}

function hasCluster(env: NodeJS.ProcessEnv): boolean {
  return Boolean(env.KUBECONFIG) || (Boolean(env.KUBERNETES_SERVICE_HOST) && existsSync(SERVICE_ACCOUNT));
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise(done => (signal.aborted ? done() : signal.addEventListener('abort', () => done(), { once: true })));
}
