/**
 * Where in EVENTS a process begins. Its exec_id says when by the node's own clock, which nobody sets, and the messages of a node are stored in the order of that clock:
 * so that a bisection finds the place in a few dozen reads, however much is stored and whatever wall clocks and outages of NATS did.
 */
import { Kind, STREAMS, decodeBatch, eventSubject, HOST_NAMESPACE, type Exact64 } from '@tidegate/contracts';
import type { StoredMessage, StreamReaders } from '@tidegate/runtime';
import type { ExecId } from './exec-id.ts';

/** Stream sequences, both included; first is above last when there is nothing. */
export interface StreamRange {
  first: number;
  last: number;
}

/** Boots of a node's kernel that are looked at: with each, its clock begins anew. */
const MAX_BOOTS = 8;
/** An event is stored after those that happened so much before it: a batch is open for a few hundredths of this. */
const MARGIN_NS = 1_000_000_000n;
/** The wall time of ktime 0 changes by less than this within a boot (clocks are adjusted), and by more with the next boot. */
const BOOT_SLACK_NS = 60_000_000_000n;

/** A message of processes outside containers: of all subjects only theirs name the node. */
interface HostMessage {
  sequence: number;
  /** CLOCK_BOOTTIME of its last event. */
  ktimeNs: bigint;
  /** Wall time of ktime 0. */
  bootNs: bigint;
}

/**
 * Gives, for each boot of the node from the present one back, the part of the stream that can speak of the process; nothing when no message of the node's host is stored.
 * @param stream what is stored
 * @throws {TidegateError} STREAM_UNAVAILABLE
 */
export async function* processRanges(
  { node, ktimeNs: startNs }: ExecId,
  stream: StreamRange,
  readers: StreamReaders,
): AsyncGenerator<StreamRange, void, undefined> {
  const host = await hostMessages(node, readers);
  if (!host) return;
  let latest: HostMessage | undefined = host.latest;
  let { last } = stream;
  for (let boot = 0; latest && boot < MAX_BOOTS; boot++) {
    const { bootNs } = latest;
    const isOfBoot = (message: HostMessage) => absolute(message.bootNs - bootNs) <= BOOT_SLACK_NS;
    const isBefore = (message: HostMessage) => !isOfBoot(message) || message.ktimeNs <= startNs - MARGIN_NS;
    const searched = { first: stream.first, last: latest.sequence };
    const before = await lastWhere(isBefore, searched, host.next);
    yield { first: before ? before.sequence + 1 : stream.first, last };
    latest = await lastWhere(message => !isOfBoot(message), searched, host.next);
    // What the node's containers did at the end of that boot may be stored up to the first message of the next.
    if (latest) last = ((await host.next(latest.sequence + 1))?.sequence ?? last + 1) - 1;
  }
}

/** The last of the host's messages for which a test holds, given that it holds for none after the first for which it does not. */
async function lastWhere(
  test: (message: HostMessage) => boolean,
  { first, last }: StreamRange,
  next: (from: number) => Promise<HostMessage | undefined>,
): Promise<HostMessage | undefined> {
  let found: HostMessage | undefined;
  let low = first;
  let high = last + 1;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const message = await next(middle);
    if (message && message.sequence < high && test(message)) {
      found = message;
      low = message.sequence + 1;
    } else high = middle;
  }
  return found;
}

/** The latest message of the node's host, and how to find the next one of its subject. */
async function hostMessages(node: string, readers: StreamReaders) {
  const stream = STREAMS.events.name;
  // Not losses: those that an enricher finds bear no time of the node's clock.
  for (const kind of [Kind.KIND_EXEC, Kind.KIND_EXIT, Kind.KIND_CONNECT, Kind.KIND_ACCEPT, Kind.KIND_CLOSE]) {
    const subject = eventSubject(kind, HOST_NAMESPACE, node);
    const latest = hostMessage(await readers.message(stream, subject, 'last'));
    const next = async (from: number) => hostMessage(await readers.message(stream, subject, { from }));
    if (latest) return { latest, next };
  }
  return undefined;
}

/** undefined: there is none, or it is no batch. */
function hostMessage(message: StoredMessage | undefined): HostMessage | undefined {
  if (!message) return undefined;
  try {
    const { wallOffsetNs, events } = decodeBatch(message.data);
    return { sequence: message.streamSequence, ktimeNs: big(events.at(-1)?.ktimeNs), bootNs: big(wallOffsetNs) };
  } catch {
    return undefined;
  }
}

function big(value: Exact64 | null | undefined): bigint {
  return BigInt(value ?? 0);
}

function absolute(value: bigint): bigint {
  return value < 0n ? -value : value;
}
