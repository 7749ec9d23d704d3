import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import {
  BUCKETS,
  countText,
  durationText,
  enricherCursorCodec,
  enricherCursorKey,
  nodeKey,
  printable,
  recordedNode,
  SENSOR_STATUS_INTERVAL_MS,
  sensorStatusCodec,
  STREAMS,
} from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import { NatsRole, TidegateError, createBuckets, createLogger, createPublisher, hasErrorCode, type Buckets } from '@tidegate/runtime';
import { Option } from 'commander';
import { openCapture } from '../capture-file.ts';
import { ExitCode, natsOption, natsUrlOf, type CommandContext, type CommandSpec } from '../command.ts';
import { connectCommand } from '../nats-access.ts';
import { readRecordedBatch, recordedMessage } from '../recorded-batch.ts';
import { VERSION } from '../version.ts';

const MAX_SPEED = 1_000_000;
/** Between the end of a capture and its next round, so that a short one does not flood. */
const LOOP_PAUSE_MS = 2_000;
/** How long an enricher may take for the last batches. */
const ENRICHED_TIMEOUT_MS = 5_000;
const ENRICHED_POLL_MS = 100;
const PROGRESS_INTERVAL_MS = 250;
const SILENT = createLogger({ name: 'play', level: 'silent' });

export const playCommand: CommandSpec = {
  name: 'play',
  summary: 'Play a recorded file as if it happened now, marked as recorded',
  argument: { name: 'file', description: 'a file that `tidegate capture` wrote' },
  details:
    'Events come from the node `<name>-recorded` with `recorded` set, their times moved to now. The whole file is checked before anything is sent.',
  options: [
    new Option('--speed <factor>', '1: as it happened; 10: ten times as fast; max: as fast as it goes').default('1'),
    new Option('--loop', 'begin again at the end, until Ctrl-C'),
    natsOption(),
  ],
  examples: [
    ['tidegate play attack.tgcap', 'at its own pace'],
    ['tidegate play --speed max attack.tgcap', 'at once'],
  ],
  async run({ argument: file, options, faults }, context) {
    const speed = parseSpeed(options.text('speed') ?? '1');
    if (speed === undefined) faults.add('--speed', `max, or a number above 0 up to ${MAX_SPEED}`, options.text('speed') ?? '');
    const url = natsUrlOf(faults, options.text('nats'));
    faults.readableFile('<file>', file, 'a file that `tidegate capture` wrote');
    faults.check();
    const contents = await checkCapture(file);
    context.note(
      `${file}: ${countText(contents.events)} events of ${contents.nodes.map(printable).join(', ')} in ${durationText(contents.lastMs - contents.firstMs)}, ` +
        `recorded ${printable(contents.recordedAt)}`,
    );
    const nc = await connectCommand(url, context.env, context.signal, NatsRole.admin);
    try {
      const buckets = await createBuckets({ nc, logger: SILENT });
      const presence = await announceNodes(buckets, contents.nodes.map(recordedNode));
      try {
        do {
          await playOnce(nc, { file, contents, speed: speed!, context, onSent: presence.sent });
          if (options.flag('loop')) await delay(LOOP_PAUSE_MS, undefined, { signal: context.signal }).catch(() => undefined);
        } while (options.flag('loop') && !context.signal.aborted);
      } finally {
        context.progress('');
        await presence.close(context);
      }
    } finally {
      await nc.close();
    }
    return ExitCode.ok;
  },
};

interface CaptureContents {
  recordedAt: string;
  nodes: string[];
  events: number;
  batches: number;
  firstMs: number;
  lastMs: number;
}

/** Reads the whole file: a damaged one is refused before a part of it was played. */
async function checkCapture(file: string): Promise<CaptureContents> {
  const { header, entries } = await openCapture(file);
  const nodes = new Set<string>();
  const contents: CaptureContents = { recordedAt: header.recordedAt, nodes: [], events: 0, batches: 0, firstMs: Infinity, lastMs: 0 };
  for await (const entry of entries) {
    const batch = readRecordedBatch(entry);
    nodes.add(batch.node);
    contents.events += batch.events;
    contents.batches++;
    contents.firstMs = Math.min(contents.firstMs, batch.storedAtMs);
    contents.lastMs = Math.max(contents.lastMs, batch.storedAtMs);
  }
  contents.nodes = [...nodes];
  return contents;
}

interface Play {
  file: string;
  contents: CaptureContents;
  speed: number;
  context: CommandContext;
  onSent(node: string, batch: SentBatch): void;
}

interface SentBatch {
  boot: string;
  events: number;
  lastSequence: number;
  streamSequence: number;
}

/** One pass, with a boot id of its own: so its batches are new to the stream, and an audit tells passes apart. */
async function playOnce(nc: NatsConnection, { file, contents, speed, context, onSent }: Play): Promise<void> {
  const publisher = createPublisher(nc, { stream: STREAMS.raw.name, logger: SILENT });
  const boot = randomBytes(8).toString('hex');
  const batches = new Map<string, number>();
  const startMs = Date.now();
  let sent = 0;
  let progressAtMs = 0;
  let failure: unknown;
  const underWay = new Set<Promise<void>>();
  try {
    for await (const entry of (await openCapture(file)).entries) {
      if (context.signal.aborted || failure !== undefined) break;
      const recorded = readRecordedBatch(entry);
      const dueMs = startMs + (recorded.storedAtMs - contents.firstMs) / speed;
      const waitMs = dueMs - Date.now();
      if (waitMs > 0) await delay(waitMs, undefined, { signal: context.signal }).catch(() => undefined);
      await publisher.ready();
      const batch = (batches.get(recorded.node) ?? 0) + 1;
      batches.set(recorded.node, batch);
      const shiftMs = Math.round(dueMs - recorded.storedAtMs);
      const stored = publisher
        .publish(recordedMessage(recorded, { boot, batch, shiftMs }))
        .then(
          ({ sequence }) =>
            onSent(recordedNode(recorded.node), {
              boot,
              events: recorded.events,
              lastSequence: Number(recorded.sequences.split('-')[1]),
              streamSequence: sequence,
            }),
          (error: unknown) => void (failure ??= error),
        )
        .finally(() => underWay.delete(stored));
      underWay.add(stored);
      sent += recorded.events;
      if (performance.now() - progressAtMs > PROGRESS_INTERVAL_MS) {
        progressAtMs = performance.now();
        context.progress(`playing: ${countText(sent)} of ${countText(contents.events)} events, ${durationText(Date.now() - startMs)}`);
      }
    }
    await Promise.all(underWay);
  } finally {
    await publisher.close();
  }
  if (failure !== undefined) throw failure as Error;
  context.progress('');
  await context.print(`played ${countText(sent)} recorded events in ${durationText(Date.now() - startMs)}`);
}

interface Presence {
  sent(node: string, batch: SentBatch): void;
  /** Waits until an enricher has done what was sent, then takes the nodes away. */
  close(context: CommandContext): Promise<void>;
}

/**
 * Nodes exist by their entry in KV `sensors`: without it no enricher takes up their batches.
 * @throws {TidegateError} PUBLISH_DENIED
 */
async function announceNodes(buckets: Buckets, nodes: readonly string[]): Promise<Presence> {
  const statuses = buckets.open(BUCKETS.sensors, sensorStatusCodec);
  const startedAt = new Date().toISOString();
  const states = new Map<string, SentBatch>(nodes.map(node => [node, { boot: '', events: 0, lastSequence: 0, streamSequence: 0 }]));
  const announce = async () => {
    for (const [node, { boot, events, lastSequence }] of states) {
      await statuses.put(nodeKey(node), {
        node,
        boot,
        version: VERSION,
        kernel: '',
        startedAt,
        reportedAt: new Date().toISOString(),
        hooks: [],
        events,
        lastSequence,
        lost: {},
        spool: { bytes: 0, batches: 0, maxBytes: 0 },
        recorded: true,
      });
    }
  };
  await announce().catch((error: unknown) => {
    if (!hasErrorCode(error, 'PUBLISH_DENIED')) throw error;
    throw new TidegateError('PUBLISH_DENIED', 'this NATS user may not play captures', {
      field: 'TIDEGATE_NATS_USER',
      expected: 'a user who may write, or the data folder of the NATS that `tidegate up` started',
      cause: error,
    });
  });
  // A server that is away for a while gets the next one.
  const timer = setInterval(() => void announce().catch(() => undefined), SENSOR_STATUS_INTERVAL_MS);
  return {
    sent(node, { boot, events, lastSequence, streamSequence }) {
      const state = states.get(node)!;
      Object.assign(state, { boot, lastSequence, streamSequence, events: state.events + events });
    },
    async close(context) {
      clearInterval(timer);
      for (const [node, { streamSequence }] of states) {
        if (!(await isEnriched(buckets, node, streamSequence))) {
          // Left there, so that an enricher that comes later still finds the node.
          context.note(`no enricher has taken up all of ${printable(node)} yet; \`tidegate status\` shows how far it is`);
          continue;
        }
        await statuses.delete(nodeKey(node));
      }
    },
  };
}

async function isEnriched(buckets: Buckets, node: string, streamSequence: number): Promise<boolean> {
  const cursors = buckets.open(BUCKETS.enrichers, enricherCursorCodec);
  const deadlineMs = performance.now() + ENRICHED_TIMEOUT_MS;
  while (performance.now() < deadlineMs) {
    const { value } = await cursors.get(enricherCursorKey(node));
    if ((value?.streamSequence ?? 0) >= streamSequence) return true;
    await delay(ENRICHED_POLL_MS);
  }
  return false;
}

function parseSpeed(text: string): number | undefined {
  if (text === 'max') return Infinity;
  const speed = /^\d+(\.\d+)?$/.test(text) ? Number(text) : NaN;
  return speed > 0 && speed <= MAX_SPEED ? speed : undefined;
}
