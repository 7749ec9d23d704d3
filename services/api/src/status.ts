/** What the installation is doing, read from NATS when asked: KV `sensors` and `enrichers`, and the streams. */
import {
  BUCKETS,
  CURSOR_PREFIX,
  MEMBER_PREFIX,
  RAW_PREFIX,
  RawHeader,
  STREAMS,
  enricherCursorCodec,
  enricherMemberCodec,
  parseSequences,
  sensorStatusCodec,
  tokenName,
  type EnricherCursor,
  type EnricherMember,
  type SensorStatus,
} from '@tidegate/contracts';
import { JetStreamApiError } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Buckets, PresentEntry, ReadBucket, StreamMessage, StreamReaders } from '@tidegate/runtime';

export interface SensorReport {
  node: string;
  boot: string;
  version: string;
  kernel: string;
  started_at: string;
  reported_at: string;
  /** It has not reported for 15 s. */
  stale: boolean;
  recorded: boolean;
  hooks: { hook: string; program: string; attached: boolean; error?: string }[];
  events: number;
  last_sequence: number;
  /** Events lost since the sensor started, by reason. */
  lost: Record<string, number>;
  spool: { bytes: number; batches: number; max_bytes: number };
}

export interface StreamReport {
  name: string;
  messages: number;
  bytes: number;
  first_sequence: number;
  last_sequence: number;
  first_time?: string;
  last_time?: string;
  max_bytes: number;
  max_age_seconds: number;
}

export interface EnricherReport {
  id: string;
  alive: boolean;
  seen_at: string;
}

/** How far one node's events are enriched. */
export interface LagReport {
  node: string;
  /** Id of the enricher that has the node; empty: none. */
  owner: string;
  /** Sequence numbers of the node that are in RAW and not yet in EVENTS. */
  events: number;
  raw_last_sequence: number;
  enriched_last_sequence: number;
}

export interface StatusReport {
  time: string;
  nats: { version: string; server: string };
  sensors: SensorReport[];
  streams: StreamReport[];
  enrichers: EnricherReport[];
  lag: LagReport[];
  /** What is wrong, in words; empty: nothing. */
  problems: string[];
}

export interface StatusReader {
  read(): Promise<StatusReport>;
}

/** Three reports of a sensor missed. */
export const SENSOR_STALE_MS = 15_000;
/** As the enrichers count it among themselves. */
const ENRICHER_DEAD_MS = 4_000;
/** Beyond, lag is a problem and not the events on their way. Cursors are written once a second. */
const LAG_PROBLEM_MS = 10_000;
/** A report serves all that ask within this. */
const REPORT_AGE_MS = 1_000;
const STREAM_NOT_FOUND = 10059;

export function createStatusReader(nc: NatsConnection, readers: StreamReaders, buckets: Buckets): StatusReader {
  const sources: Sources = {
    nc,
    readers,
    sensors: buckets.open(BUCKETS.sensors, sensorStatusCodec),
    members: buckets.open(BUCKETS.enrichers, enricherMemberCodec),
    cursors: buckets.open(BUCKETS.enrichers, enricherCursorCodec),
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
  sensors: ReadBucket<SensorStatus>;
  members: ReadBucket<EnricherMember>;
  cursors: ReadBucket<EnricherCursor>;
}

async function readReport({ nc, readers, ...buckets }: Sources): Promise<StatusReport> {
  const [streams, sensorEntries, members, cursors, rawHeads] = await Promise.all([
    Promise.all(Object.values(STREAMS).map(({ name }) => streamReport(name, readers))),
    buckets.sensors.snapshot(),
    buckets.members.snapshot(`${MEMBER_PREFIX}*`),
    buckets.cursors.snapshot(`${CURSOR_PREFIX}*`),
    lastOnRaw(readers),
  ]);
  const nowMs = Date.now();
  const sensors = [...sensorEntries.values()].map(entry => sensorReport(entry, nowMs));
  const enrichers = [...members.values()].map(entry => enricherReport(entry, nowMs));
  const lags = [...rawHeads].flatMap(([token, head]) => lagReport(token, head, cursors.get(CURSOR_PREFIX + token)?.value) ?? []);
  const known = streams.flatMap(stream => stream ?? []);
  const report = {
    time: new Date(nowMs).toISOString(),
    nats: { version: nc.info?.version ?? '', server: nc.getServer() },
    sensors: sensors.sort((a, b) => (a.node < b.node ? -1 : 1)),
    streams: known,
    enrichers,
    lag: lags.sort((a, b) => (a.node < b.node ? -1 : 1)),
  };
  const oldHeads = new Set(
    [...rawHeads].filter(([, head]) => nowMs - storedAtMs(head) > LAG_PROBLEM_MS).map(([token]) => tokenName(token)),
  );
  return { ...report, problems: problemsOf(report, oldHeads) };
}

function problemsOf({ sensors, streams, enrichers, lag }: Omit<StatusReport, 'problems'>, oldHeads: ReadonlySet<string>): string[] {
  const names = streams.map(stream => stream.name);
  return [
    ...Object.values(STREAMS)
      .filter(({ name }) => !names.includes(name))
      .map(({ name }) => `stream ${name} does not exist`),
    ...(sensors.length === 0 ? ['no sensor has reported'] : []),
    ...sensors.filter(sensor => sensor.stale).map(sensor => `sensor of ${sensor.node} has not reported since ${sensor.reported_at}`),
    ...sensors.flatMap(sensor =>
      sensor.hooks
        .filter(hook => !hook.attached)
        .map(hook => `hook ${hook.hook} is not attached on ${sensor.node}: ${hook.error ?? 'no reason given'}`),
    ),
    ...sensors
      .filter(sensor => sensor.spool.batches > 0)
      .map(sensor => `sensor of ${sensor.node} holds ${sensor.spool.batches} batches in its spool`),
    ...(enrichers.some(enricher => enricher.alive) ? [] : ['no enricher is alive']),
    ...lag
      .filter(({ node, events }) => events > 0 && oldHeads.has(node))
      .map(({ node, events }) => `${events} events of ${node} wait for an enricher`),
  ];
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
    };
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
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

function sensorReport({ value, writtenAtMs }: PresentEntry<SensorStatus>, nowMs: number): SensorReport {
  const { node, boot, version, kernel, startedAt, reportedAt, hooks, events, lastSequence, lost, spool, recorded } = value;
  return {
    node,
    boot,
    version,
    kernel,
    started_at: startedAt,
    reported_at: reportedAt,
    stale: nowMs - writtenAtMs > SENSOR_STALE_MS,
    recorded,
    hooks: hooks.map(({ hook, program, attached, error }) => ({ hook, program, attached, ...(error !== undefined && { error }) })),
    events,
    last_sequence: lastSequence,
    lost,
    spool: { bytes: spool.bytes, batches: spool.batches, max_bytes: spool.maxBytes },
  };
}

function enricherReport({ key, writtenAtMs }: PresentEntry<EnricherMember>, nowMs: number): EnricherReport {
  return {
    id: tokenName(key.slice(MEMBER_PREFIX.length)),
    alive: nowMs - writtenAtMs < ENRICHER_DEAD_MS,
    seen_at: new Date(writtenAtMs).toISOString(),
  };
}

function lagReport(token: string, head: StreamMessage, cursor: EnricherCursor | undefined): LagReport | undefined {
  const sequences = parseSequences(head.headers?.get(RawHeader.sequences) ?? '');
  if (!sequences) return undefined;
  const { lastSequence = 0, owner = '' } = cursor ?? {};
  return {
    node: tokenName(token),
    owner,
    events: Math.max(0, sequences.last - lastSequence),
    raw_last_sequence: sequences.last,
    enriched_last_sequence: lastSequence,
  };
}

function storedAtMs({ timeNs }: StreamMessage): number {
  return timeNs / 1e6;
}

function isNotFound(error: unknown): boolean {
  return error instanceof JetStreamApiError && error.code === STREAM_NOT_FOUND;
}
