import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  BUCKETS,
  LossReason,
  SENSOR_STATUS_INTERVAL_MS,
  STREAMS,
  lossReasonName,
  leftNodeCodec,
  leftNodeKey,
  nodeKey,
  sensorStatusCodec,
  type HookStatus,
  type LeftNode,
  type SensorStatus,
} from '@tidegate/contracts';
import { Reader, readState, type Counters, type Filters, type ReaderOptions, type SensorState } from '@tidegate/native';
import type { NatsConnection } from '@nats-io/nats-core';
import {
  TidegateError,
  createBuckets,
  createPublisher,
  malformedEntries,
  type Bucket,
  type Buckets,
  type Logger,
  type MalformedEntries,
  type Metrics,
  type Publisher,
  type ReadBucket,
} from '@tidegate/runtime';
import { createOutbox, type Outbox } from './outbox.ts';
import { followPace, type Pace } from './pace.ts';
import { readRawTail, readSettledRawTail } from './raw-tail.ts';
import { registerMetrics } from './sensor-metrics.ts';

export interface SensorDependencies {
  node: string;
  version: string;
  /** Connects to NATS, however long it takes, until the signal is aborted. */
  connect: (signal: AbortSignal) => Promise<NatsConnection>;
  /** Folder for state and spool; made when missing. */
  folder: string;
  spoolMaxBytes: number;
  /** Of batches that NATS has acknowledged and may not have written to its disk. */
  keptMaxBytes: number;
  windowBytes: number;
  /** What the reader is given beyond what the sensor knows itself. */
  reader: Pick<
    ReaderOptions,
    | 'objectFile'
    | 'pinDirectory'
    | 'lifecycleRingBytes'
    | 'dataRingBytes'
    | 'batchMaxBytes'
    | 'lingerMs'
    | 'queueMaxBatches'
    | 'procRoot'
    | 'cgroupRoot'
    | 'cgroupV1Root'
    | 'hostRoot'
    | 'compression'
  > & { filters: Filters };
  /** Leave the programs recording after close(). */
  keepPins: boolean;
  metrics: Metrics;
  logger: Logger;
}

export interface Sensor {
  /** Why it is not ready; empty: it is. */
  readiness(): string[];
  /** Reads what the kernel has, publishes or spools it, and ends. May be called twice. */
  close(): Promise<void>;
}

/** The connection to NATS, and what goes over it. */
interface Link {
  nc: NatsConnection;
  buckets: Buckets;
  statuses: Bucket<SensorStatus>;
  leftNodes: ReadBucket<LeftNode>;
}

/** Pauses between tries to read what a stream holds of this node while it does not answer. */
const ASK_RETRY_MS = 500;
/** Of the 25 s a service has to close. */
const DRAIN_TIMEOUT_MS = 10_000;
/** How often a change is looked for. */
const STATUS_CHECK_MS = 1_000;
const BOOT_BYTES = 8;
const BOOT_ID = 'sys/kernel/random/boot_id';
const KUBELET_CGROUPS = ['kubepods', 'kubepods.slice'];

/**
 * Starts reading the kernel at once and NATS when it is there. Only a sensor that remembers nothing of an earlier run, or not surely all of it since the machine was
 * started anew, waits for NATS first: RAW may know numbers it must not give out again.
 */
export async function createSensor(dependencies: SensorDependencies, signal?: AbortSignal): Promise<Sensor> {
  const sensor = new NodeSensor(dependencies);
  try {
    await sensor.start(signal);
  } catch (error) {
    await sensor.close();
    throw error;
  }
  return sensor;
}

class NodeSensor implements Sensor {
  readonly #deps: SensorDependencies;
  readonly #boot = randomBytes(BOOT_BYTES).toString('hex');
  readonly #startedAt = new Date();
  readonly #stop = new AbortController();
  readonly #outbox: Outbox;
  readonly #stateFile: string;
  #reader: Reader | undefined;
  #hooks: HookStatus[] = [];
  readonly #malformed: MalformedEntries;
  #connecting: Promise<Link> | undefined;
  #link: Link | undefined;
  #publisher: Publisher | undefined;
  #pace: Pace | undefined;
  #opening: Promise<void> = Promise.resolve();
  #reporting: Promise<void> = Promise.resolve();
  #isReported = false;
  /** Highest number known to have been given out before this start. */
  #knownSequence = 0;
  #closing: Promise<void> | undefined;

  constructor(deps: SensorDependencies) {
    this.#deps = deps;
    mkdirSync(deps.folder, { recursive: true });
    this.#stateFile = join(deps.folder, 'state');
    this.#malformed = malformedEntries(deps.metrics);
    this.#outbox = createOutbox({
      node: deps.node,
      spoolFolder: join(deps.folder, 'spool'),
      spoolMaxBytes: deps.spoolMaxBytes,
      keptMaxBytes: deps.keptMaxBytes,
      acknowledgedFile: join(deps.folder, 'acknowledged'),
      logger: deps.logger,
    });
    registerMetrics(deps.metrics, {
      outbox: this.#outbox,
      counters: () => this.#counters(),
      publisher: () => this.#publisher?.stats,
    });
  }

  async start(signal?: AbortSignal): Promise<void> {
    signal?.addEventListener('abort', () => this.#stop.abort(), { once: true });
    const state = readState(this.#stateFile);
    let reported = 0;
    const { procRoot } = this.#deps.reader;
    // A machine whose power failed may have lost what the state file said last.
    if (state?.kernelBoot !== readFileSync(join(procRoot, BOOT_ID), 'utf8').trim()) {
      this.#deps.logger.info('first start since the machine was started: asking NATS which numbers were given out before');
      const tail = await this.#ask(({ nc }) => readRawTail(nc, this.#deps.node));
      // They outlive RAW, which forgets: what the last sensor of this name reported, and what was kept when its node left.
      const status = await this.#ask(({ statuses }) => statuses.get(nodeKey(this.#deps.node)));
      const left = await this.#ask(({ leftNodes }) => leftNodes.get(leftNodeKey(this.#deps.node)));
      reported = Math.max(status.value?.lastSequence ?? 0, left.value?.lastSequence ?? 0, tail?.lastSequence ?? 0);
    }
    this.#knownSequence = Math.max(reported, this.#outbox.acknowledged, this.#outbox.lastSpooled, (state?.nextSequence ?? 1) - 1);
    this.#startReader(this.#knownSequence + 1);
    this.#opening = this.#openOutbox(state, reported).catch((error: unknown) => {
      if (!this.#stop.signal.aborted) throw error;
    });
    this.#reporting = this.#report();
  }

  readiness(): string[] {
    const reasons: string[] = [];
    if (!this.#hooks.some(hook => hook.attached)) reasons.push('no hook is attached');
    if (this.#publisher === undefined) reasons.push('NATS was not reached yet');
    else if (!this.#publisher.stats.flowing) reasons.push('NATS does not take batches; they go to the spool');
    else if (!this.#isReported) reasons.push('the state of the sensor is not reported yet');
    return reasons;
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#stop.abort();
    this.#pace?.close();
    await this.#reader?.close({ unpin: !this.#deps.keepPins });
    await this.#opening;
    const isFlowing = this.#publisher?.stats.flowing === true;
    await this.#outbox.close({ drainTimeoutMs: DRAIN_TIMEOUT_MS });
    await this.#reporting;
    // The highest number, for a start after which neither the folder nor RAW knows it.
    if (isFlowing) await this.#put(this.#status());
    this.#link?.buckets.close();
    await this.#link?.nc.close();
  }

  #startReader(firstSequence: number): void {
    const { node, reader, logger } = this.#deps;
    this.#reader = new Reader({ ...reader, node, boot: this.#boot, firstSequence, stateFile: this.#stateFile }, batch =>
      this.#outbox.push({ ...batch, boot: this.#boot }),
    );
    this.#hooks = this.#reader.start();
    const { pinned, resumed, note } = this.#reader.pinning;
    logger.info({ boot: this.#boot, firstSequence: firstSequence, pinned, resumed, ...(note !== '' && { note }) }, 'reading kernel events');
    for (const { hook, attached, error } of this.#hooks) if (!attached) logger.error({ hook, error }, 'hook is not attached');
    if (!this.#hooks.some(hook => hook.attached)) {
      throw new TidegateError('SENSOR_UNSUPPORTED', 'no hook could be attached', {
        got: this.#hooks.map(({ hook, error }) => `${hook}: ${error}`).join('; '),
      });
    }
  }

  /** @param reported highest number that an earlier sensor of this node reported */
  async #openOutbox(state: SensorState | null, reported: number): Promise<void> {
    const { node, logger, reader } = this.#deps;
    const isMissingSome = state !== null && state.nextSequence - 1 > this.#outbox.acknowledged;
    await this.#openPublisher(isMissingSome ? readSettledRawTail : readRawTail, reported);
    if (this.#stop.signal.aborted) return;
    this.#pace = followPace(this.#link!.nc, {
      node,
      lingerMs: reader.lingerMs,
      setLinger: milliseconds => this.#reader!.setLinger(milliseconds),
      logger,
    });
  }

  async #openPublisher(readTail: typeof readRawTail, reported: number): Promise<void> {
    const { node, logger, windowBytes } = this.#deps;
    let tail = await this.#ask(({ nc }) => readTail(nc, node));
    // What answers may be behind the stream's leader.
    if (tail && tail.lastSequence < this.#outbox.acknowledged) tail = await this.#ask(({ nc }) => readSettledRawTail(nc, node));
    const { nc } = this.#link!;
    this.#publisher = createPublisher(nc, {
      stream: STREAMS.raw.name,
      windowBytes,
      logger,
      own: {
        lastStoredMessageId: async () => (await readRawTail(nc, node))?.messageId,
        onSetBack: () => {
          this.#opening = this.#openPublisher(readSettledRawTail, reported).catch((error: unknown) => {
            if (!this.#stop.signal.aborted) throw error;
          });
        },
      },
    });
    this.#outbox.open(this.#publisher, tail?.lastSequence, reported);
  }

  async #connect(signal: AbortSignal): Promise<Link> {
    const nc = await this.#deps.connect(signal);
    const buckets = await createBuckets({ nc, logger: this.#deps.logger, malformed: this.#malformed });
    return {
      nc,
      buckets,
      statuses: buckets.open(BUCKETS.sensors, sensorStatusCodec),
      leftNodes: buckets.open(BUCKETS.nodes, leftNodeCodec),
    };
  }

  /** Waits for NATS, its streams and buckets. */
  async #ask<Answer>(read: (link: Link) => Promise<Answer>): Promise<Answer> {
    const { signal } = this.#stop;
    this.#connecting ??= this.#connect(signal);
    const link = (this.#link = await this.#connecting);
    let isLogged = false;
    for (;;) {
      signal.throwIfAborted();
      try {
        return await read(link);
      } catch (error) {
        if (!isLogged) this.#deps.logger.warn({ err: error }, 'waiting for the streams');
        isLogged = true;
      }
      await delay(ASK_RETRY_MS, undefined, { signal });
    }
  }

  /** Reports at least every SENSOR_STATUS_INTERVAL_MS, and soon after a change of what can be seen without the kernel's counters: to read them costs more than all else at rest. */
  async #report(): Promise<void> {
    const { signal } = this.#stop;
    let lastChange = '';
    let lastMs = -Infinity;
    while (!signal.aborted) {
      await delay(STATUS_CHECK_MS, undefined, { signal }).catch(() => undefined);
      if (this.#publisher?.stats.flowing !== true) continue;
      const { stats, spool } = this.#outbox;
      const change = JSON.stringify([this.#hooks.length, stats.lost, spool.thinnedEvents, stats.spooling]);
      if (change === lastChange && performance.now() - lastMs < SENSOR_STATUS_INTERVAL_MS - STATUS_CHECK_MS) continue;
      if (!(await this.#put(this.#status()))) continue;
      lastChange = change;
      lastMs = performance.now();
    }
  }

  async #put(status: SensorStatus): Promise<boolean> {
    try {
      await this.#link!.statuses.put(nodeKey(this.#deps.node), status);
      this.#isReported = true;
      return true;
    } catch (error) {
      this.#deps.logger.debug({ err: error }, 'cannot report the state of the sensor');
      return false;
    }
  }

  #status(): SensorStatus {
    const counters = this.#counters();
    const lost: Record<string, number> = { ...this.#outbox.stats.lost };
    const ringLost = Object.values(counters?.lostByKind ?? {}).reduce((sum, count) => sum + count, 0);
    add(lost, LossReason.LOSS_REASON_RING_FULL, ringLost);
    add(lost, LossReason.LOSS_REASON_SPOOL_FULL, this.#outbox.spool.thinnedEvents);
    const { bytes, batches, maxBytes } = this.#outbox.spool;
    const ackMs = this.#publisher?.ackMs();
    return {
      node: this.#deps.node,
      boot: this.#boot,
      version: this.#deps.version,
      kernel: release(),
      startedAt: this.#startedAt.toISOString(),
      reportedAt: new Date().toISOString(),
      hooks: this.#hooks,
      events: counters?.events ?? 0,
      lastSequence: Math.max(counters?.lastSequence ?? 0, this.#knownSequence),
      lost,
      spool: { bytes, batches, maxBytes },
      recorded: false,
      hasKubelet: hasKubelet(this.#deps.reader),
      undescribedContainers: counters?.containersUndescribed ?? 0,
      ...(ackMs !== undefined && { ackMs: Math.round(ackMs) }),
    };
  }

  #counters(): Counters | undefined {
    return this.#hooks.length === 0 ? undefined : this.#reader?.counters();
  }
}

/** A kubelet makes this cgroup at its start, with either of its drivers, and before any pod. */
function hasKubelet({ cgroupRoot, cgroupV1Root }: Pick<ReaderOptions, 'cgroupRoot' | 'cgroupV1Root'>): boolean {
  const roots = [cgroupRoot, ...(typeof cgroupV1Root === 'string' ? [cgroupV1Root] : [])];
  return roots.some(root => KUBELET_CGROUPS.some(name => existsSync(join(root, name))));
}

function add(lost: Record<string, number>, reason: LossReason, count: number): void {
  if (count > 0) lost[lossReasonName(reason)] = (lost[lossReasonName(reason)] ?? 0) + count;
}
