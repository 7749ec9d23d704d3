/**
 * What EVENTS holds of what it had acknowledged. A nats-server that loses power forgets what it had not yet written to its disk, and after a longer pause no server
 * knows the ids of what it holds: before a node is enriched from where it was, both are looked up here.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { EVENTS_PREFIX, NATS_SYNCED_AFTER_MS, parseEventHeaders, STREAMS, subjectToken, type StoredOutput } from '@tidegate/contracts';
import type { StreamReaders } from '@tidegate/runtime';

/** How far back ids are read: a place on disk is this old at most, when another one was needed since. */
const READ_BACK_MS = 3 * NATS_SYNCED_AFTER_MS;
/** Half of the time for which the server itself knows ids. */
const ID_TRUST_MS = STREAMS.events.duplicateWindowMs / 2;
const CATCH_UP_POLL_MS = 200;

export class StoredOutputs {
  readonly #readers: StreamReaders;
  #reading: Promise<ReadonlySet<string>> | undefined;
  #readAtMs = 0;

  constructor(readers: StreamReaders) {
    this.#readers = readers;
  }

  /** Whether EVENTS holds this message of the node, or held it until its limits discarded it. @throws {TidegateError} STREAM_UNAVAILABLE */
  async has(nodeToken: string, { streamSequence, boot, batch }: StoredOutput): Promise<boolean> {
    const untilMs = performance.now() + this.#readers.catchUpMs;
    for (;;) {
      const found = await this.#readers.message(STREAMS.events.name, `${EVENTS_PREFIX}.>`, { from: streamSequence });
      if (found) {
        if (found.streamSequence > streamSequence) return true;
        const headers = parseEventHeaders(name => found.headers?.get(name));
        return headers !== undefined && subjectToken(headers.node) === nodeToken && headers.boot === boot && headers.batch === batch;
      }
      if (performance.now() > untilMs) return false;
      await delay(CATCH_UP_POLL_MS);
    }
  }

  /** Whether the last messages are so old that the server may have forgotten their ids. @throws {TidegateError} STREAM_UNAVAILABLE */
  async mayBeForgotten(): Promise<boolean> {
    const { last, lastStoredAtMs, nowMs } = await this.#readers.bounds(STREAMS.events.name);
    return last > 0 && nowMs - lastStoredAtMs > ID_TRUST_MS;
  }

  /** Ids of the messages that EVENTS holds of the time before it was stopped. Read once for all nodes. @throws {TidegateError} STREAM_UNAVAILABLE */
  ids(): Promise<ReadonlySet<string>> {
    if (!this.#reading || performance.now() - this.#readAtMs > ID_TRUST_MS) {
      this.#readAtMs = performance.now();
      this.#reading = this.#read();
      this.#reading.catch(() => (this.#reading = undefined));
    }
    return this.#reading;
  }

  async #read(): Promise<ReadonlySet<string>> {
    const { lastStoredAtMs } = await this.#readers.bounds(STREAMS.events.name);
    const ids = new Set<string>();
    const reader = this.#readers.open({ stream: STREAMS.events.name, start: { timeMs: lastStoredAtMs - READ_BACK_MS }, headersOnly: true });
    try {
      for await (const { headers } of reader.read({ follow: false })) {
        const id = headers?.get('Nats-Msg-Id') ?? '';
        if (id !== '') ids.add(id);
      }
    } finally {
      reader.close();
    }
    return ids;
  }
}
