/**
 * Who listens to the feed: each server is asked for the account's connections that subscribe to anything under it. The answer names their subjects, so that
 * a listener is noticed however narrow its subject is and before an event of that subject exists, and nothing has to be sent to find out. (Requests that come
 * back with "no responders" tell of one subject each, and would reach listeners.) Connections of leaf nodes are among them, with what is listened to behind them.
 */
import { FEED_PREFIX } from '@tidegate/contracts';
import { LISTENERS_SUBJECT } from '@tidegate/runtime';
import type { NatsConnection } from '@nats-io/nats-core';

/** The subjects somebody listens to; none: nobody listens. */
export type Listeners = readonly string[];

/** Of one server; a subject for each is more than the feed can tell apart with profit. */
const MAX_CONNECTIONS = 256;
/** Servers of a cluster answer one after the other; a second one that takes longer than this is heard at the next question. */
const STALL_MS = 250;
const TIMEOUT_MS = 2_000;

interface ServerAnswer {
  data?: { total?: number; limit?: number; connections?: { subscriptions_list?: string[] }[] };
  error?: { description?: string };
}

/** @throws {Error} when no server answers */
export async function askListeners(nc: NatsConnection): Promise<Listeners> {
  const question = JSON.stringify({ filter_subject: `${FEED_PREFIX}.>`, subscriptions: true, limit: MAX_CONNECTIONS });
  const answers = await nc.requestMany(LISTENERS_SUBJECT, question, { strategy: 'stall', stall: STALL_MS, maxWait: TIMEOUT_MS });
  const subjects = new Set<string>();
  let isAnswered = false;
  for await (const message of answers) {
    const { data, error } = message.json<ServerAnswer>();
    if (error) throw new Error(`NATS does not say who listens: ${error.description ?? 'no reason given'}`);
    isAnswered = true;
    const connections = data?.connections ?? [];
    if (connections.length >= MAX_CONNECTIONS) subjects.add('>');
    for (const { subscriptions_list: list = [] } of connections)
      for (const subject of list) if (overlapsFeed(subject)) subjects.add(subject);
  }
  if (!isAnswered) throw new Error('NATS does not say who listens');
  return [...subjects];
}

/** Whether a message of this subject reaches one of them. */
export function isListenedTo(subject: string, listeners: Listeners): boolean {
  const tokens = subject.split('.');
  return listeners.some(pattern => matches(pattern.split('.'), tokens));
}

const FEED_TOKENS = FEED_PREFIX.split('.');

function overlapsFeed(pattern: string): boolean {
  const tokens = pattern.split('.');
  return matches(tokens.slice(0, FEED_TOKENS.length), FEED_TOKENS) && (tokens.length > FEED_TOKENS.length || tokens.at(-1) === '>');
}

function matches(pattern: readonly string[], tokens: readonly string[]): boolean {
  for (const [i, token] of pattern.entries()) {
    if (token === '>') return tokens.length > i;
    if (i >= tokens.length || (token !== '*' && token !== tokens[i])) return false;
  }
  return pattern.length === tokens.length;
}
