/** What the installation is doing, read from NATS when asked: KV `sensors`, `nodes`, `gateways`, `enrichers` and `connectors`, and the streams. */
import {
  BUCKETS,
  CURSOR_PREFIX,
  MEMBER_PREFIX,
  RAW_PREFIX,
  RawHeader,
  STREAMS,
  connectorStatusCodec,
  enricherCursorCodec,
  durationText,
  enricherMemberCodec,
  gatewayStatusCodec,
  parseSequences,
  tokenName,
  type ConnectorReport,
  type ConnectorStatus,
  type EnricherCursor,
  type EnricherMember,
  type GatewayStatus,
  type SensorStatus,
  type EnricherReport,
  type GatewayReport,
  type LagReport,
  type SensorReport,
  type StatusReport,
  type StreamReport,
} from '@tidegate/contracts';
import { JetStreamApiError } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import {
  type Buckets,
  type KnownNode,
  type NodeRegistry,
  type PresentEntry,
  type ReadBucket,
  type StreamMessage,
  type StreamReaders,
} from '@tidegate/runtime';

export interface StatusReader {
  read(): Promise<StatusReport>;
}

/** As the enrichers count it among themselves. */
const ENRICHER_DEAD_MS = 4_000;
/**
 * An event that has waited longer for an enricher is a problem and not one on its way: cursors are written once a second, of very many nodes every few seconds, and a dead enricher's nodes have
 * another after some 5 s. How many wait says little: 46,000 are half a second of a storm, or a quiet node that nobody reads.
 */
export const LAG_PROBLEM_MS = 10_000;
/** Nodes far behind of which the first event that waits is looked up in RAW. */
const MAX_LOOKED_UP = 50;
/** Nodes that one problem names. */
const MAX_NAMED = 10;
/** What came in less time tells no rate. */
const MIN_RATE_SPAN_MS = 60_000;
/** A report serves all that ask within this. */
const REPORT_AGE_MS = 1_000;
/**
 * A stream on an idle disk stores a message in 1 to 3 ms. In a storm messages also wait behind what is in the publisher's window (8 MiB): beyond
 * this it is the server or its disk.
 */
const ACK_PROBLEM_MS = 250;
/** Clocks that differ by more are no longer a report on its way. */
const CLOCK_PROBLEM_MS = 60_000;
const STREAM_NOT_FOUND = 10059;

export function createStatusReader(nc: NatsConnection, readers: StreamReaders, registry: NodeRegistry, buckets: Buckets): StatusReader {
  const sources: Sources = {
    nc,
    readers,
    registry,
    gateways: buckets.open(BUCKETS.gateways, gatewayStatusCodec),
    members: buckets.open(BUCKETS.enrichers, enricherMemberCodec),
    cursors: buckets.open(BUCKETS.enrichers, enricherCursorCodec),
    connectors: buckets.open(BUCKETS.connectors, connectorStatusCodec),
  };
  let latest: { atMs: number; report: Promise<StatusReport> } | undefined;
  return {
    read() {
      const nowMs = performance.now();
      if (!latest || nowMs - latest.atMs > REPORT_AGE_MS) {
        const report = readReport(sources);
        latest = { atMs: nowMs, report };
        report.catch(() => (latest = undefined));
      }
      return latest.report;
    },
  };
}

interface Sources {
  nc: NatsConnection;
  readers: StreamReaders;
  registry: NodeRegistry;
  gateways: ReadBucket<GatewayStatus>;
  members: ReadBucket<EnricherMember>;
  cursors: ReadBucket<EnricherCursor>;
  connectors: ReadBucket<ConnectorStatus>;
}

async function readReport({ nc, readers, registry, ...buckets }: Sources): Promise<StatusReport> {
  const [streams, nodes, gateways, members, cursors, connectors, rawHeads] = await Promise.all([
    Promise.all(Object.values(STREAMS).map(({ name }) => streamReport(name, readers))),
    registry.list(),
    buckets.gateways.snapshot(),
    buckets.members.snapshot(`${MEMBER_PREFIX}*`),
    buckets.cursors.snapshot(`${CURSOR_PREFIX}*`),
    buckets.connectors.snapshot(),
    lastOnRaw(readers),
  ]);
  const timeMs = Date.now();
  // What NATS has stored is as old as its own clock says.
  const nowMs = await serverTimeMs(readers);
  const sensors = nodes.flatMap(({ sensor, isSilent, left }) => (sensor && !left ? sensorReport(sensor, isSilent) : []));
  const enrichers = [...members.values()].map(entry => enricherReport(entry, nowMs));
  const lags = await lagReports(rawHeads, cursors, readers, nowMs);
  const known = streams.flatMap(stream => stream ?? []);
  const report = {
    time: new Date(timeMs).toISOString(),
    nats: { version: nc.info?.version ?? '', server: nc.getServer(), time: new Date(nowMs).toISOString() },
    sensors,
    streams: known,
    gateways: [...gateways.values()].map(({ value }) => gatewayReport(value)),
    enrichers,
    connectors: [...connectors.values()].map(({ value }) => connectorReport(value)),
    lag: lags.sort((a, b) => (a.node < b.node ? -1 : 1)),
  };
  return { ...report, problems: problemsOf(report, nodes) };
}

function problemsOf(report: Omit<StatusReport, 'problems'>, nodes: readonly KnownNode[]): string[] {
  const { sensors, streams, enrichers, connectors, lag } = report;
  const withoutSensor = nodes.filter(({ sensor, cluster }) => cluster && !sensor).map(({ node }) => node);
  const names = streams.map(stream => stream.name);
  return [
    ...Object.values(STREAMS)
      .filter(({ name }) => !names.includes(name))
      .map(({ name }) => `stream ${name} does not exist`),
    ...(sensors.length === 0 ? ['no sensor has reported'] : []),
    ...(withoutSensor.length > 0 ? [`no sensor has reported from ${namesText(withoutSensor)} of the cluster`] : []),
    ...sensors
      .filter(sensor => sensor.stale)
      .map(
        sensor =>
          `sensor of ${sensor.node} has not reported since ${sensor.reported_at}; if the node is gone for good: tidegate node remove ${sensor.node}`,
      ),
    ...sensors.flatMap(sensor =>
      sensor.hooks
        .filter(hook => !hook.attached)
        .map(hook => `hook ${hook.hook} is not attached on ${sensor.node}: ${hook.error ?? 'no reason given'}`),
    ),
    ...sensors
      .filter(sensor => sensor.spool.batches > 0)
      .map(sensor => `sensor of ${sensor.node} holds ${sensor.spool.batches} batches in its spool`),
    ...nodes.flatMap(({ node, sensor, isSilent }) => {
      const containers = isSilent ? 0 : (sensor?.value.undescribedContainers ?? 0);
      if (containers === 0) return [];
      const [which, whose] =
        containers === 1 ? ['1 container', 'its runtime keeps no files'] : [`${containers} containers`, 'their runtimes keep no files'];
      return `${which} on ${node} without name and image: ${whose} where its sensor looks, below TIDEGATE_HOST_ROOT`;
    }),
    ...clusterProblems(report, nodes),
    ...slowStoreProblems(report),
    ...clockProblems(nodes),
    ...(enrichers.some(enricher => enricher.alive) ? [] : ['no enricher is alive']),
    ...connectors.flatMap(({ connector, faults }) => faults.map(fault => `connector ${connector} cannot do its work: ${fault}`)),
    ...lag
      .filter(({ waiting_seconds }) => waiting_seconds * 1000 > LAG_PROBLEM_MS)
      .map(({ node, events, waiting_seconds }) => `${events} events of ${node} wait for an enricher, the oldest for ${waiting_seconds} s`),
  ];
}

/** One for all who wait: they have one server, or one cluster of them. */
function slowStoreProblems({ sensors, enrichers }: Pick<StatusReport, 'sensors' | 'enrichers'>): string[] {
  const waiting = [
    ...sensors.flatMap(({ node, stale, ack_ms = 0 }) => (stale ? [] : { who: `the sensor of ${node}`, ack_ms })),
    ...enrichers.flatMap(({ id, alive, ack_ms = 0 }) => (alive ? { who: `enricher ${id}`, ack_ms } : [])),
  ].filter(({ ack_ms }) => ack_ms > ACK_PROBLEM_MS);
  const [slowest] = waiting.sort((a, b) => b.ack_ms - a.ack_ms);
  if (!slowest) return [];
  const others = waiting.length > 1 ? ` (and ${waiting.length - 1} more wait so)` : '';
  return [
    `NATS is slow: it takes ${durationText(slowest.ack_ms)} on average to store a message of ${slowest.who}${others}; ` +
      `a few ms are normal, up to ${ACK_PROBLEM_MS} ms in a storm: look at its disk, its CPU and the network`,
  ];
}

/** A report bears the time of the node, its entry in KV that of the server which stored it. */
function clockProblems(nodes: readonly KnownNode[]): string[] {
  return nodes.flatMap(({ node, sensor, isSilent }) => {
    if (!sensor || isSilent) return [];
    const aheadMs = Date.parse(sensor.value.reportedAt) - sensor.writtenAtMs;
    if (Math.abs(aheadMs) <= CLOCK_PROBLEM_MS) return [];
    const differs = `${durationText(Math.abs(aheadMs))} ${aheadMs > 0 ? 'ahead of' : 'behind'}`;
    return [`the clock of ${node} is ${differs} that of nats-server: times of its events are wrong by as much, or the server's clock is`];
  });
}

/** Why events have no pods, or will have none. */
function clusterProblems({ gateways }: Pick<StatusReport, 'gateways'>, nodes: readonly KnownNode[]): string[] {
  const inCluster = nodes.filter(({ cluster }) => cluster).map(({ node }) => node);
  const isOwn = (identity: string) => gateways.some(gateway => gateway.identity === identity);
  const others = gateways.flatMap(({ lease, holder }) => (holder && !isOwn(holder.identity) ? { lease, ...holder } : []))[0];
  const misnamed = nodes.filter(
    ({ sensor, isSilent, cluster, left }) => sensor?.value.hasKubelet === true && !isSilent && !cluster && !left,
  );
  return [
    ...(gateways.length === 0 && inCluster.length > 0
      ? [`no gateway reports: what is known of ${namesText(inCluster)} of the cluster and of its pods grows old; set KUBECONFIG`]
      : []),
    ...(others && !gateways.some(({ leads }) => leads)
      ? [
          `events get no pods: ${others.identity}, a gateway of another installation, holds the Lease ${others.lease}${others.since === undefined ? '' : ` since ${others.since}`}; ` +
            'ours takes over when that ends, or set TIDEGATE_LEASE_NAME to have one of its own',
        ]
      : []),
    ...gateways.flatMap(({ identity, faults }) => faults.map(fault => `gateway ${identity} cannot do its work: ${fault}`)),
    ...(inCluster.length > 0
      ? misnamed.map(
          ({ node }) =>
            `the cluster has no node ${node}, as its sensor is told it is: its pods get no identity; the cluster has ${namesText(inCluster)}, TIDEGATE_NODE says which it is`,
        )
      : []),
  ];
}

function namesText(nodes: readonly string[]): string {
  const named = nodes.slice(0, MAX_NAMED).join(', ');
  return nodes.length === 1 ? `node ${named}` : `${nodes.length} nodes (${named}${nodes.length > MAX_NAMED ? ', …' : ''})`;
}

/** This machine's time where there are no streams. */
async function serverTimeMs(readers: StreamReaders): Promise<number> {
  try {
    return (await readers.bounds(STREAMS.raw.name)).nowMs;
  } catch (error) {
    if (!isNotFound((error as Error).cause)) throw error;
    return Date.now();
  }
}

/** undefined: there is no such stream. */
async function streamReport(name: string, { manager }: StreamReaders): Promise<StreamReport | undefined> {
  try {
    const { state, config } = await manager.streams.info(name);
    return {
      name,
      messages: state.messages,
      bytes: state.bytes,
      first_sequence: state.first_seq,
      last_sequence: state.last_seq,
      ...(state.messages > 0 && { first_time: state.first_ts, last_time: state.last_ts }),
      max_bytes: config.max_bytes,
      max_age_seconds: config.max_age / 1e9,
      ...holdsSeconds(state.bytes, Date.parse(state.last_ts) - Date.parse(state.first_ts), config.max_bytes),
    };
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

/** @param spanMs between the first and the last message stored */
export function holdsSeconds(bytes: number, spanMs: number, maxBytes: number): Pick<StreamReport, 'holds_seconds'> {
  return bytes === 0 || !(spanMs >= MIN_RATE_SPAN_MS) ? {} : { holds_seconds: Math.round((spanMs / 1000) * (maxBytes / bytes)) };
}

/** The last message of each node on RAW, without its payload, by the node's token. Empty when there is no such stream. */
async function lastOnRaw(readers: StreamReaders): Promise<Map<string, StreamMessage>> {
  const reader = readers.open({ stream: STREAMS.raw.name, start: 'last-per-subject', subjects: [`${RAW_PREFIX}.*`], headersOnly: true });
  const heads = new Map<string, StreamMessage>();
  try {
    for await (const message of reader.read({ follow: false })) heads.set(message.subject.slice(RAW_PREFIX.length + 1), message);
  } catch (error) {
    if (!isNotFound((error as Error).cause)) throw error;
  } finally {
    reader.close();
  }
  return heads;
}

function sensorReport({ value }: PresentEntry<SensorStatus>, isSilent: boolean): SensorReport {
  const { node, boot, version, kernel, startedAt, reportedAt, hooks, events, lastSequence, lost, spool, recorded, ackMs } = value;
  return {
    node,
    boot,
    version,
    kernel,
    started_at: startedAt,
    reported_at: reportedAt,
    stale: isSilent,
    recorded,
    hooks: hooks.map(({ hook, program, attached, error }) => ({ hook, program, attached, ...(error !== undefined && { error }) })),
    events,
    last_sequence: lastSequence,
    lost,
    spool: { bytes: spool.bytes, batches: spool.batches, max_bytes: spool.maxBytes },
    ...(ackMs !== undefined && { ack_ms: ackMs }),
  };
}

function gatewayReport({ identity, startedAt, reportedAt, server, lease, leads, holder, faults }: GatewayStatus): GatewayReport {
  return {
    identity,
    started_at: startedAt,
    reported_at: reportedAt,
    server,
    lease,
    leads,
    ...(holder && { holder: { identity: holder.identity, ...(holder.since !== undefined && { since: holder.since }) } }),
    faults,
  };
}

function connectorReport({ connector, startedAt, reportedAt, ...counts }: ConnectorStatus): ConnectorReport {
  return { connector, started_at: startedAt, reported_at: reportedAt, ...counts };
}

function enricherReport({ key, value: { ackMs }, writtenAtMs }: PresentEntry<EnricherMember>, nowMs: number): EnricherReport {
  return {
    id: tokenName(key.slice(MEMBER_PREFIX.length)),
    alive: nowMs - writtenAtMs < ENRICHER_DEAD_MS,
    seen_at: new Date(writtenAtMs).toISOString(),
    ...(ackMs !== undefined && { ack_ms: ackMs }),
  };
}

/** How far behind each node's events are that RAW has. What is no batch is left out. */
async function lagReports(
  heads: ReadonlyMap<string, StreamMessage>,
  cursors: ReadonlyMap<string, PresentEntry<EnricherCursor>>,
  readers: StreamReaders,
  nowMs: number,
): Promise<LagReport[]> {
  const lags = [...heads].flatMap(([token, head]) => {
    const sequences = parseSequences(head.headers?.get(RawHeader.sequences) ?? '');
    const cursor = cursors.get(CURSOR_PREFIX + token)?.value;
    return sequences ? [lagOf(tokenName(token), head, sequences.last, cursor, nowMs)] : [];
  });
  // Of a node that is quiet, or left behind, the first that waits is much younger than the last that is done: it is looked up.
  const suspects = lags.filter(lag => lag.waitsAfter !== undefined).sort((a, b) => b.report.events - a.report.events);
  for (const { report, head } of suspects) report.waiting_seconds = secondsSince(storedAtMs(head), nowMs);
  await Promise.all(
    suspects.slice(0, MAX_LOOKED_UP).map(async ({ report, head, waitsAfter }) => {
      const first = await firstStoredAtMs(readers, head.subject, waitsAfter! + 1);
      if (first !== undefined) report.waiting_seconds = secondsSince(first, nowMs);
    }),
  );
  return lags.map(({ report }) => report);
}

interface Lag {
  report: LagReport;
  head: StreamMessage;
  /** Place in RAW behind which something waits, for how long is not known yet. */
  waitsAfter: number | undefined;
}

function lagOf(node: string, head: StreamMessage, rawLast: number, cursor: EnricherCursor | undefined, nowMs: number): Lag {
  const { lastSequence = 0, streamSequence = 0, storedAtMs: doneAtMs = 0, owner = '' } = cursor ?? {};
  const isBehind = head.streamSequence > streamSequence;
  const isRecent = nowMs - doneAtMs <= LAG_PROBLEM_MS;
  return {
    head,
    waitsAfter: isBehind && !isRecent ? streamSequence : undefined,
    report: {
      node,
      owner,
      events: Math.max(0, rawLast - lastSequence),
      waiting_seconds: isBehind ? secondsSince(doneAtMs, nowMs) : 0,
      raw_last_sequence: rawLast,
      enriched_last_sequence: lastSequence,
    },
  };
}

/** When the first message of a node from a place in RAW on was stored. undefined: there is none any more. */
async function firstStoredAtMs(readers: StreamReaders, subject: string, streamSequence: number): Promise<number | undefined> {
  const reader = readers.open({ stream: STREAMS.raw.name, start: { streamSequence }, subjects: [subject], headersOnly: true });
  try {
    for await (const message of reader.read({ follow: false })) return storedAtMs(message);
    return undefined;
  } finally {
    reader.close();
  }
}

function secondsSince(timeMs: number, nowMs: number): number {
  return Math.max(0, Math.round((nowMs - timeMs) / 100) / 10);
}

function storedAtMs({ timeNs }: StreamMessage): number {
  return timeNs / 1e6;
}

function isNotFound(error: unknown): boolean {
  return error instanceof JetStreamApiError && error.code === STREAM_NOT_FOUND;
}
