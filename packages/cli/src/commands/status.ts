import { Option } from 'commander';
import {
  bytesText,
  countText,
  durationText,
  printable,
  printableJson,
  type ConnectorReport,
  type LagReport,
  type SensorReport,
  type StatusReport,
} from '@tidegate/contracts';
import { createApiClient } from '../api-client.ts';
import { ExitCode, apiOption, apiUrlOf, type CommandContext, type CommandSpec } from '../command.ts';

const GIB = 1024 ** 3;
/** Where there are more sensors, those with which all is well are summed up. */
const MAX_LISTED_SENSORS = 50;
/** An event that has waited so long for an enricher is worth a line of its own. */
const LONG_WAIT_SECONDS = 10;

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
  if (hours < 1) return durationText(seconds * 1000);
  return `${hours < 9.95 ? hours.toFixed(1) : countText(Math.round(hours))} h`;
}

/** @param lag undefined: of a node that nothing is known of, as one that just came. */
function lagText(lag: LagReport | undefined): string {
  const { events, waiting_seconds } = lag ?? { events: 0, waiting_seconds: 0 };
  return waiting_seconds < 1 ? countText(events) : `${countText(events)} (for ${durationText(waiting_seconds * 1000)})`;
}

function connectorText({ connector, listeners, pending, published, skipped }: ConnectorReport): string {
  const state = listeners === 0 ? 'asleep, nobody listens' : `${countText(listeners)} listened to, ${countText(pending)} messages behind`;
  const told = skipped === 0 ? '' : `, skipped what EVENTS had discarded ${countText(skipped)} times`;
  return `${printable(connector)} ${state}, ${countText(published)} events handed over${told}`;
}

async function printStatus(status: StatusReport, { print, paint }: CommandContext): Promise<void> {
  const nowMs = Date.parse(status.time);
  await print(paint('bold', 'Sensors'));
  await printSensors(status, { print, paint });
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
  for (const connector of status.connectors) await print(`  connector  ${connectorText(connector)}`);
  await print(`  NATS       ${printable(status.nats.server)}, version ${printable(status.nats.version)}`);
  for (const problem of status.problems) await print(paint('red', `! ${printable(problem)}`));
  if (status.problems.length === 0) await print(paint('green', 'All in order.'));
}

async function printSensors(
  { time, sensors, lag }: StatusReport,
  { print, paint }: Pick<CommandContext, 'print' | 'paint'>,
): Promise<void> {
  const nowMs = Date.parse(time);
  const lags = new Map(lag.map(each => [each.node, each]));
  const isMany = sensors.length > MAX_LISTED_SENSORS;
  const listed = isMany ? sensors.filter(sensor => !isWell(sensor, lags.get(sensor.node))) : sensors;
  if (isMany) {
    const well = sensors.filter(sensor => !listed.includes(sensor));
    const events = well.reduce((sum, sensor) => sum + sensor.events, 0);
    const waiting = well.reduce((sum, { node }) => sum + (lags.get(node)?.events ?? 0), 0);
    await print(
      `  ${paint('green', `${countText(well.length)} up`)} with all hooks, events ${countText(events)}, lost 0, not yet enriched ${countText(waiting)}`,
    );
  }
  for (const sensor of listed.slice(0, MAX_LISTED_SENSORS)) {
    const state = sensor.recorded ? 'recorded' : sensor.stale ? paint('red', 'silent') : paint('green', 'up');
    const age = durationText(Math.max(0, nowMs - Date.parse(sensor.started_at)));
    await print(`  ${printable(sensor.node)}  ${state} for ${age}${sensor.kernel === '' ? '' : `, kernel ${printable(sensor.kernel)}`}`);
    if (sensor.hooks.length > 0) {
      const hooks = sensor.hooks.map(({ hook, attached }) => (attached ? printable(hook) : paint('red', `${printable(hook)} (off)`)));
      await print(`    hooks   ${hooks.join(', ')}`);
    }
    const lost = lostOf(sensor);
    const lostText =
      lost.length === 0 ? '0' : paint('red', lost.map(([reason, count]) => `${printable(reason)} ${countText(count)}`).join(', '));
    await print(`    events  ${countText(sensor.events)}, lost ${lostText}, not yet enriched ${lagText(lags.get(sensor.node))}`);
    if (sensor.spool.batches > 0)
      await print(paint('yellow', `    spool   ${countText(sensor.spool.batches)} batches, ${bytesText(sensor.spool.bytes)}`));
  }
  if (listed.length > MAX_LISTED_SENSORS)
    await print(paint('red', `  and ${countText(listed.length - MAX_LISTED_SENSORS)} more that are not well: tidegate status -o json`));
  if (sensors.length === 0) await print('  none');
}

function isWell(sensor: SensorReport, lag: LagReport | undefined): boolean {
  const isWhole = !sensor.stale && !sensor.recorded && sensor.hooks.every(({ attached }) => attached);
  return isWhole && lostOf(sensor).length === 0 && sensor.spool.batches === 0 && (lag?.waiting_seconds ?? 0) < LONG_WAIT_SECONDS;
}

function lostOf({ lost }: SensorReport): [string, number][] {
  return Object.entries(lost).filter(([, count]) => count > 0);
}
