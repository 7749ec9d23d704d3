import { setTimeout as delay } from 'node:timers/promises';
import { BUCKETS, RawHeader, STREAMS, nodeKey, parseSequences, rawSubject, type SensorStatus } from '@tidegate/contracts';
import type { Msg, NatsConnection } from '@nats-io/nats-core';
import { TidegateError, bucketPrefix, bucketStream } from '@tidegate/runtime';

/** The last message RAW holds of a node. */
export interface RawTail {
  messageId: string;
  lastSequence: number;
}

const REQUEST_TIMEOUT_MS = 2_000;
const NO_MESSAGE = 404;
/** What a killed sensor had sent may still be on its way through the server: the tail counts once it stood still this long. */
const SETTLE_MS = 200;
const SETTLE_TRIES = 25;

/** Asks the stream itself. undefined: RAW holds none of this node. */
export async function readRawTail(nc: NatsConnection, node: string): Promise<RawTail | undefined> {
  const reply = await lastMessage(nc, STREAMS.raw.name, rawSubject(node));
  if (!reply) return undefined;
  const messageId = reply.headers?.get('Nats-Msg-Id') ?? '';
  const sequences = parseSequences(reply.headers?.get(RawHeader.sequences) ?? '');
  if (sequences === undefined) {
    throw new TidegateError('INVALID_ARGUMENT', "cannot read the last message of this node's subject", {
      field: RawHeader.sequences,
      expected: 'first-last',
      got: reply.headers?.get(RawHeader.sequences) ?? reply.headers?.description ?? 'nothing',
    });
  }
  return { messageId, lastSequence: sequences.last };
}

/** The tail once nothing of an earlier run of the sensor arrives any more. */
export async function readSettledRawTail(nc: NatsConnection, node: string): Promise<RawTail | undefined> {
  let tail = await readRawTail(nc, node);
  for (let i = 0; i < SETTLE_TRIES; i++) {
    await delay(SETTLE_MS);
    const next = await readRawTail(nc, node);
    if (next?.lastSequence === tail?.lastSequence) break;
    tail = next;
  }
  return tail;
}

/** The highest number the node's last sensor reported to have given out: it outlives RAW, which forgets. 0: none reported. */
export async function readReportedSequence(nc: NatsConnection, node: string): Promise<number> {
  const reply = await lastMessage(nc, bucketStream(BUCKETS.sensors.name), bucketPrefix(BUCKETS.sensors.name) + nodeKey(node));
  const { lastSequence = 0 } = reply?.data.length ? reply.json<Partial<SensorStatus>>() : {};
  return lastSequence;
}

/** A direct get, which a sensor may do for its own subjects alone. */
async function lastMessage(nc: NatsConnection, stream: string, subject: string): Promise<Msg | undefined> {
  const reply = await nc.request(`$JS.API.DIRECT.GET.${stream}.${subject}`, undefined, { timeout: REQUEST_TIMEOUT_MS });
  return reply.headers?.code === NO_MESSAGE ? undefined : reply;
}
