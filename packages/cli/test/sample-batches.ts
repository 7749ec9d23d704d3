/** Batches as a sensor makes them, for tests that need no kernel. */
import { Kind, ProcessOrigin, RawHeader, encodeBatch, formatSequences, rawMessageId, rawSubject, type Event } from '@tidegate/contracts';
import type { CaptureEntry } from '../src/capture-file.ts';

export interface SampleBatch {
  node: string;
  boot: string;
  batch: number;
  first: number;
  last: number;
  payload: Uint8Array;
}

const INIT = 1;
const SHELL = 2;
const PROGRAM = 3;

export function execId(node: string, ktimeNs: number, pid: number): string {
  return Buffer.from(`${node}:${ktimeNs}:${pid}`).toString('base64');
}

/** init → bash → ls, which is executed and exits again and again: `events` events from number `first` on. */
export function sampleBatch(
  node: string,
  boot: string,
  batch: number,
  first: number,
  events: number,
  more: { arguments?: string[] } = {},
): SampleBatch {
  const startKtimeNs = first * 1_000_000;
  const list: Event[] = Array.from({ length: events }, (_, i) => {
    const common = { process: PROGRAM, sequence: first + i, ktimeNs: startKtimeNs + i * 1_000 };
    return i % 2 === 0
      ? { ...common, kind: Kind.KIND_EXEC, exec: { rawPath: 'ls', comm: 'ls' } }
      : { ...common, kind: Kind.KIND_EXIT, exit: { code: 0, durationNs: 2_000_000 } };
  });
  const payload = encodeBatch({
    node,
    boot,
    batch,
    wallOffsetNs: Date.now() * 1e6,
    processes: [
      {
        id: INIT,
        execId: execId(node, 1, 1),
        pid: 1,
        binary: '/sbin/init',
        arguments: ['init'],
        origin: ProcessOrigin.PROCESS_ORIGIN_RUNNING,
      },
      { id: SHELL, parent: INIT, execId: execId(node, 500, 231), pid: 231, binary: '/usr/bin/bash', arguments: ['bash'] },
      {
        id: PROGRAM,
        parent: SHELL,
        execId: execId(node, startKtimeNs, 1_000 + batch),
        pid: 1_000 + batch,
        binary: '/usr/bin/ls',
        arguments: more.arguments ?? ['ls', '-la', '/tmp'],
        cwd: '/root',
        startKtimeNs,
        origin: ProcessOrigin.PROCESS_ORIGIN_EXEC,
      },
    ],
    events: list,
  });
  return { node, boot, batch, first, last: first + events - 1, payload };
}

/** The batch as RAW has it. */
export function rawMessage({ node, boot, batch, first, last, payload }: SampleBatch) {
  return {
    subject: rawSubject(node),
    payload,
    messageId: rawMessageId(node, boot, batch),
    headers: { [RawHeader.sequences]: formatSequences(first, last), [RawHeader.events]: String(last - first + 1) },
  };
}

export function captureEntry(batch: SampleBatch, time: Date): CaptureEntry {
  const { subject, payload, headers, messageId } = rawMessage(batch);
  return { time: time.toISOString(), subject, headers: { ...headers, 'Nats-Msg-Id': messageId }, payload: Buffer.from(payload) };
}
