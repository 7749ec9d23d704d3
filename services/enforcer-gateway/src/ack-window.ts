/**
 * Publishes to streams and hears the acks over one inbox. A request of the client for each message costs 80 us and some kilobytes of promises
 * and timers that outlive a young collection: writing 100,000 pods that way left the gateway with 300 MB more.
 */
import { createInbox, type Msg, type MsgHdrs, type NatsConnection } from '@nats-io/nats-core';
import { inboxPrefixOf } from '@tidegate/runtime';

export interface AckWindow {
  /** @param onDone called once, without an error when the stream has stored it */
  publish(subject: string, payload: Uint8Array, headers: MsgHdrs | undefined, onDone: (error?: Error) => void): void;
  close(): void;
}

interface Unacked {
  onDone: (error?: Error) => void;
  dueMs: number;
}

const ACK_TIMEOUT_MS = 2_000;
const SWEEP_MS = 500;
const NO_RESPONDERS = 503;

/** Its user bounds how many are on their way. */
export function openAckWindow(nc: NatsConnection): AckWindow {
  const inbox = createInbox(inboxPrefixOf(nc));
  // In the order in which they fall due.
  const unacked = new Map<string, Unacked>();
  let published = 0;

  const settle = (reply: string, error?: Error) => {
    const message = unacked.get(reply);
    unacked.delete(reply);
    message?.onDone(error);
  };
  const subscription = nc.subscribe(`${inbox}.*`, { callback: (error, ack) => settle(ack.subject, error ?? ackError(ack)) });
  const sweeper = setInterval(() => {
    const nowMs = performance.now();
    for (const [reply, { dueMs }] of unacked) {
      if (dueMs > nowMs) break;
      settle(reply, new Error(`no ack in ${ACK_TIMEOUT_MS} ms`));
    }
  }, SWEEP_MS).unref();

  return {
    publish(subject, payload, headers, onDone) {
      const reply = `${inbox}.${++published}`;
      unacked.set(reply, { onDone, dueMs: performance.now() + ACK_TIMEOUT_MS });
      try {
        nc.publish(subject, payload, { reply, ...(headers && { headers }) });
      } catch (error) {
        // The connection is closed for good. Its user is called back after this call, as always.
        queueMicrotask(() => settle(reply, error as Error));
      }
    },
    close() {
      clearInterval(sweeper);
      unacked.clear();
      if (!nc.isClosed()) subscription.unsubscribe();
    },
  };
}

function ackError(ack: Msg): Error | undefined {
  if (ack.headers?.code === NO_RESPONDERS) return new Error('no stream takes this subject');
  const { error } = ack.json<{ error?: { description: string } }>();
  return error && new Error(`the stream refused the message: ${error.description}`);
}
