/** What a sensor reports of itself in KV `sensors`. */
import { jsonCodec } from './bucket-values.ts';
import { count, flag, list, object, optional, table, text, time } from './json-shape.ts';

export interface HookStatus {
  /** As in bpf/programs: `sched_process_exec`. */
  hook: string;
  program: string;
  attached: boolean;
  error?: string | undefined;
}

export interface SensorStatus {
  node: string;
  boot: string;
  version: string;
  kernel: string;
  /** RFC 3339. */
  startedAt: string;
  /** RFC 3339; a sensor reports at least every SENSOR_STATUS_INTERVAL_MS. */
  reportedAt: string;
  hooks: HookStatus[];
  /** Since the sensor started. */
  events: number;
  lastSequence: number;
  /** Events lost since the sensor started, by reason (LossReason without its prefix, lower case). */
  lost: Record<string, number>;
  spool: { bytes: number; batches: number; maxBytes: number };
  /** Plays a capture: its events are recorded ones. */
  recorded: boolean;
  /** A kubelet keeps pods on this machine. */
  hasKubelet?: boolean | undefined;
  /** Containers there are of which the runtime's own record was looked for in vain: they have neither name nor image. */
  undescribedContainers?: number | undefined;
  /** Mean milliseconds until RAW has stored a batch, of the last seconds; absent: it has stored none. */
  ackMs?: number | undefined;
}

export const SENSOR_STATUS_INTERVAL_MS = 5_000;

export const sensorStatusCodec = jsonCodec(
  object<SensorStatus>({
    node: text,
    boot: text,
    version: text,
    kernel: text,
    startedAt: time,
    reportedAt: time,
    hooks: list(object<HookStatus>({ hook: text, program: text, attached: flag, error: optional(text) })),
    events: count,
    lastSequence: count,
    lost: table(count),
    spool: object<SensorStatus['spool']>({ bytes: count, batches: count, maxBytes: count }),
    recorded: flag,
    hasKubelet: optional(flag),
    undescribedContainers: optional(count),
    ackMs: optional(count),
  }),
);
