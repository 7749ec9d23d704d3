import { mkdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { CLUSTER_NAME_RULE, isClusterName } from '@tidegate/contracts';
import { Option } from 'commander';
import { DEFAULT_API_PORT, DEFAULT_NATS_PORT, ExitCode, natsUrlOf, type CommandSpec } from '../command.ts';
import { LOG_FORMATS } from '../up/log-lines.ts';
import { runUp } from '../up/up.ts';

const PORT = { min: 1, max: 65_535 };

export const upCommand: CommandSpec = {
  name: 'up',
  summary: 'Start everything on this machine',
  details:
    'Starts nats-server, sensor, enricher and API as processes, starts again what dies, and ends all with Ctrl-C. With KUBECONFIG or a service account it starts the gateway to Kubernetes too.\n' +
    'Where the kernel cannot be used it says what is missing and plays a recorded capture. Settings of the services (TIDEGATE_…) are passed on to them.',
  options: [
    new Option('--data-dir <folder>', 'where streams, spool and settings are kept').env('TIDEGATE_DATA_DIR').default('.tidegate'),
    new Option('--cluster <name>', "the cluster's name in all events, fixed at the first start").env('TIDEGATE_CLUSTER'),
    new Option('--nats <url>', 'use this NATS instead of starting one').env('TIDEGATE_NATS_URL'),
    new Option('--nats-port <port>', 'port of the NATS that is started').env('TIDEGATE_NATS_PORT').default(DEFAULT_NATS_PORT),
    new Option('--api-port <port>', 'port of page and API').env('TIDEGATE_API_PORT').default(DEFAULT_API_PORT),
    new Option('--health-ports <port>', 'first of four ports for health and metrics of sensor, enricher, gateway and connectors')
      .env('TIDEGATE_HEALTH_PORTS')
      .default('7402'),
    new Option('--play <file>', 'play this capture instead of using the kernel'),
    new Option('--log-format <format>', `one of ${LOG_FORMATS.join(', ')}`).env('TIDEGATE_LOG_FORMAT').default('text'),
  ],
  examples: [
    ['tidegate up', 'as root: this machine, live'],
    ['tidegate up --play attack.tgcap', 'a recorded capture, round and round'],
    ['TIDEGATE_NATS_URL=nats://10.0.0.5:4222 tidegate up', 'with a NATS that runs elsewhere'],
  ],
  async run({ options, faults }, context) {
    const natsUrl = options.text('nats');
    if (natsUrl !== undefined) natsUrlOf(faults, natsUrl);
    const natsPort = faults.integer('--nats-port', options.text('natsPort'), PORT);
    const apiPort = faults.integer('--api-port', options.text('apiPort'), PORT);
    const healthPort = faults.integer('--health-ports', options.text('healthPorts'), { min: 1, max: PORT.max - 3 });
    const logFormat = faults.oneOf('--log-format', options.text('logFormat'), LOG_FORMATS);
    const cluster = options.text('cluster');
    if (cluster !== undefined && !isClusterName(cluster)) faults.add('--cluster', CLUSTER_NAME_RULE, cluster);
    const capture = options.text('play');
    if (capture !== undefined) faults.readableFile('--play', capture, 'a file that `tidegate capture` wrote');
    faults.check();
    const folder = resolve(options.text('dataDir')!);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    await runUp(
      {
        folder,
        cluster,
        natsUrl,
        natsPort: natsPort!,
        apiPort: apiPort!,
        healthPort: healthPort!,
        logFormat: logFormat!,
        capture,
      },
      context,
    );
    return ExitCode.ok;
  },
};
