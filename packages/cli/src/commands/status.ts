import { Option } from 'commander';
import { bytesText, countText, durationText, printable, printableJson, type LagReport, type StatusReport } from '@tidegate/contracts';
import { createApiClient } from '../api-client.ts';
import { ExitCode, apiOption, apiUrlOf, type CommandContext, type CommandSpec } from '../command.ts';

const GIB = 1024 ** 3;

export const statusCommand: CommandSpec = {
  name: 'status',
  summary: 'Show sensors, hooks, streams, lag and loss',
  details: 'Exit status: 0 all in order, 1 something is wrong, 2 the API does not answer.',
  options: [new Option('-o, --output <format>', 'one of text, json').default('text'), apiOption()],
  examples: [
    ['tidegate status', 'for people'],
    ['tidegate status -o json', 'for scripts'],
  ],
  async run({ options, faults }, context) {
    const format = faults.oneOf('--output', options.text('output'), ['text', 'json']);
    const apiUrl = apiUrlOf(faults, options.text('api'));
    faults.check();
    const status = await createApiClient(apiUrl, context.signal).get<StatusReport>('api/v1/status');
    if (format === 'json') await context.print(printableJson(status, 2));
    else await printStatus(status, context);
    return status.problems.length === 0 ? ExitCode.ok : ExitCode.amiss;
  },
};

/** How far back a stream reaches when it is full. */
export function holdsText(maxBytes: number, holdsSeconds: number): string {
  return `at this rate ${bytesText(maxBytes)} hold ${hoursText(holdsSeconds)}, 1 GiB ${hoursText((holdsSeconds * GIB) / maxBytes)}`;
}

function hoursText(seconds: number): string {
  const hours = seconds / 3_600;
  return `${hours < 9.95 ? hours.toFixed(1) : countText(Math.round(hours))} h`;
}

/** @param lag undefined: of a node that nothing is known of, as one that just came. */
function lagText(lag: LagReport | undefined): string {
  const { events, waiting_seconds } = lag ?? { events: 0, waiting_seconds: 0 };
  return waiting_seconds < 1 ? countText(events) : `${countText(events)} (for ${durationText(waiting_seconds * 1000)})`;
}

async function printStatus(status: StatusReport, { print, paint }: CommandContext): Promise<void> {
  const nowMs = Date.parse(status.time);
  const lags = new Map(status.lag.map(lag => [lag.node, lag]));
  await print(paint('bold', 'Sensors'));
  for (const sensor of status.sensors) {
    const state = sensor.recorded ? 'recorded' : sensor.stale ? paint('red', 'silent') : paint('green', 'up');
    const age = durationText(Math.max(0, nowMs - Date.parse(sensor.started_at)));
    await print(`  ${printable(sensor.node)}  ${state} for ${age}${sensor.kernel === '' ? '' : `, kernel ${printable(sensor.kernel)}`}`);
    if (sensor.hooks.length > 0) {
      const hooks = sensor.hooks.map(({ hook, attached }) => (attached ? printable(hook) : paint('red', `${printable(hook)} (off)`)));
      await print(`    hooks   ${hooks.join(', ')}`);
    }
    const lost = Object.entries(sensor.lost).filter(([, count]) => count > 0);
    const lostText =
      lost.length === 0 ? '0' : paint('red', lost.map(([reason, count]) => `${printable(reason)} ${countText(count)}`).join(', '));
    await print(`    events  ${countText(sensor.events)}, lost ${lostText}, not yet enriched ${lagText(lags.get(sensor.node))}`);
    if (sensor.spool.batches > 0)
      await print(paint('yellow', `    spool   ${countText(sensor.spool.batches)} batches, ${bytesText(sensor.spool.bytes)}`));
  }
  if (status.sensors.length === 0) await print('  none');
  await print(paint('bold', 'Streams'));
  for (const { name, messages, bytes, first_time, max_bytes, max_age_seconds, holds_seconds } of status.streams) {
    const since = first_time === undefined ? '' : `, reaching back ${durationText(Math.max(0, nowMs - Date.parse(first_time)))}`;
    await print(
      `  ${name.padEnd(10)} ${countText(messages)} messages, ${bytesText(bytes)} of ${bytesText(max_bytes)}${since} of ${durationText(max_age_seconds * 1000)}`,
    );
    if (holds_seconds !== undefined) await print(`             ${holdsText(max_bytes, holds_seconds)}`);
  }
  const alive = status.enrichers.filter(enricher => enricher.alive).length;
  await print(paint('bold', 'Services'));
  await print(`  enrichers  ${alive} alive`);
  for (const gateway of status.gateways) {
    const state = gateway.leads
      ? paint('green', 'leads')
      : gateway.holder
        ? `waits for ${printable(gateway.holder.identity)}`
        : 'does not lead';
    await print(`  gateway    ${printable(gateway.identity)} ${state}, Kubernetes at ${printable(gateway.server)}`);
  }
  await print(`  NATS       ${printable(status.nats.server)}, version ${printable(status.nats.version)}`);
  for (const problem of status.problems) await print(paint('red', `! ${printable(problem)}`));
  if (status.problems.length === 0) await print(paint('green', 'All in order.'));
}
