/** Programs that the bench runs itself, each with a number: what EVENTS has to hold of them is known. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { decodeBatch, Kind, lossReasonName, STREAMS } from '@tidegate/contracts';
import { createStreamReaders } from '@tidegate/runtime';
import type { NatsConnection } from '@nats-io/nats-core';

export interface Markers {
  /** How many were run. */
  readonly count: number;
  /** Resolves when the last has ended, and one more, LAST, after it. */
  stop(): Promise<void>;
}

export interface MarkerJudgement {
  /** The last marker, run when nothing was broken any more, has come. */
  isComplete: boolean;
  /** Numbers that are stored more than once. */
  twice: number[];
  /** Numbers that are missing, and no loss event speaks of their place. */
  silent: number[];
  /** Numbers that are missing, with a loss event at their place. */
  told: number[];
  /** Subjects on which sequence numbers do not rise. */
  unordered: string[];
  /** Events lost, by reason, as the loss events say. */
  lost: Record<string, number>;
}

const TICK_MS = 20;
/** When this one has come, all have that come. */
const LAST = 'last';

/** Runs `program <name> 0`, `program <name> 1`, … one after the other, so many in a second. */
export function runMarkers(program: string, name: string, ratePerSecond: number): Markers {
  const shell = spawn('/bin/sh', ['-c', `while read -r number; do ${program} ${name} "$number"; done`], {
    stdio: ['pipe', 'ignore', 'inherit'],
  });
  const ended = once(shell, 'exit');
  const startedAtMs = performance.now();
  let count = 0;
  let isStopped = false;
  const running = (async () => {
    while (!isStopped) {
      for (const due = ((performance.now() - startedAtMs) * ratePerSecond) / 1000; count < due; count++) shell.stdin.write(`${count}\n`);
      await delay(TICK_MS);
    }
    shell.stdin.end();
    await ended;
    await promisify(execFile)(program, [name, LAST]);
  })();
  return {
    get count() {
      return count;
    },
    stop() {
      isStopped = true;
      return running;
    },
  };
}

interface Marker {
  number: number;
  sequence: number;
}

interface Loss {
  first: number;
  last: number;
}

/** Reads all of EVENTS, and waits for the last marker until the signal is aborted. */
export async function judgeMarkers(
  nc: NatsConnection,
  { node, name, count, signal }: { node: string; name: string; count: number; signal: AbortSignal },
): Promise<MarkerJudgement> {
  const readers = await createStreamReaders(nc);
  const reader = readers.open({ stream: STREAMS.events.name, start: { streamSequence: 1 }, maxAttempts: Infinity });
  signal.addEventListener('abort', () => reader.close());
  let isLast = false;
  const found: Marker[] = [];
  const losses: Loss[] = [];
  const lost: Record<string, number> = {};
  const lastOnSubject = new Map<string, number>();
  const unordered = new Set<string>();
  for await (const { subject, data } of reader.read({ follow: true })) {
    const batch = decodeBatch(data);
    if (batch.node !== node) continue;
    const processes = new Map(batch.processes.map(process => [process.id, process]));
    for (const { kind, process, sequence: number, loss } of batch.events) {
      const sequence = number ?? 0;
      if (sequence > 0) {
        if (sequence <= (lastOnSubject.get(subject) ?? 0)) unordered.add(subject);
        lastOnSubject.set(subject, sequence);
      }
      const args = kind === Kind.KIND_EXEC ? processes.get(process)?.arguments : undefined;
      if (args?.[1] === name && args[2] === LAST) isLast = true;
      else if (args?.[1] === name) found.push({ number: Number(args[2]), sequence });
      if (!loss) continue;
      const reason = lossReasonName(loss.reason ?? 0);
      lost[reason] = (lost[reason] ?? 0) + (loss.count ?? 0);
      // Without a count it is of a time, not of numbers; its own place says where.
      losses.push({ first: loss.firstSequence || sequence, last: loss.lastSequence || sequence });
    }
    if (isLast) break;
  }
  readers.close();
  return { isComplete: isLast, ...judge(found, losses, count), unordered: [...unordered], lost };
}

/** Markers ran one after the other: the sequence number of a missing one lies between those of the markers around it, and so must a loss. */
export function judge(
  found: readonly Marker[],
  losses: readonly Loss[],
  count: number,
): Pick<MarkerJudgement, 'twice' | 'silent' | 'told'> {
  const sequences = new Map<number, number>();
  const twice: number[] = [];
  for (const { number, sequence } of found) {
    if (sequences.has(number)) twice.push(number);
    sequences.set(number, sequence);
  }
  const silent: number[] = [];
  const told: number[] = [];
  let before = 0;
  for (let number = 0; number < count; number++) {
    const sequence = sequences.get(number);
    if (sequence !== undefined) {
      before = sequence;
      continue;
    }
    let end = number;
    while (end < count && !sequences.has(end)) end++;
    const after = sequences.get(end) ?? Infinity;
    const isTold = losses.some(({ first, last }) => first < after && last > before);
    for (; number < end; number++) (isTold ? told : silent).push(number);
    number--;
  }
  return { twice, silent, told };
}
