import { setTimeout as delay } from 'node:timers/promises';
import { RawHeader, STREAMS, parseSequences, rawSubject } from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import { TidegateError } from '@tidegate/runtime';

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

/** Asks the stream itself, by a direct get, which a sensor may do for its own subject alone. undefined: RAW holds none of this node. */
export async function readRawTail(nc: NatsConnection, node: string): Promise<RawTail | undefined> {
  const subject = `$JS.API.DIRECT.GET.${STREAMS.raw.name}.${rawSubject(node)}`;
  const reply = await nc.request(subject, undefined, { timeout: REQUEST_TIMEOUT_MS });
  if (reply.headers?.code === NO_MESSAGE) return undefined;
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
