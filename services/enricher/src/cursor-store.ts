/** How far each node is enriched, and by whom: KV `enrichers`, keys `cursor.<node token>`. */
import { BUCKETS } from '@tidegate/contracts';
import { bucketPrefix, bucketStream } from '@tidegate/runtime';
import { JetStreamApiError, type JetStreamClient, type JetStreamManager } from '@nats-io/jetstream';

export interface Cursor {
  /** Of RAW: all outputs of this message and of those before are stored. */
  streamSequence: number;
  /** Of the node's last batch. */
  batch: number;
  boot: string;
  /** Last of the node's sequence numbers that is accounted for. */
  lastSequence: number;
  /** Id of the enricher that has the node; empty: none. */
  owner: string;
}

/** A cursor as KV has it. Revision 0: there is none. */
export interface StoredCursor {
  cursor: Cursor | undefined;
  revision: number;
}

/** Somebody else wrote the cursor. */
export class CursorConflict extends Error {
  readonly code = 'CURSOR_CONFLICT';
}

/** JetStream error codes: no message found; wrong last sequence, in its two forms. */
const NO_MESSAGE = 10037;
const WRONG_LAST_SEQUENCE: ReadonlySet<number> = new Set([10071, 10164]);
const TIMEOUT_MS = 5_000;

export class CursorStore {
  readonly #client: JetStreamClient;
  readonly #manager: JetStreamManager;
  readonly #prefix = `${bucketPrefix(BUCKETS.enrichers.name)}cursor.`;

  constructor(client: JetStreamClient, manager: JetStreamManager) {
    this.#client = client;
    this.#manager = manager;
  }

  async read(nodeToken: string): Promise<StoredCursor> {
    try {
      const message = await this.#manager.streams.getMessage(bucketStream(BUCKETS.enrichers.name), {
        last_by_subj: this.#prefix + nodeToken,
      });
      return message === null ? { cursor: undefined, revision: 0 } : { cursor: parseCursor(message.data), revision: message.seq };
    } catch (error) {
      if (error instanceof JetStreamApiError && error.code === NO_MESSAGE) return { cursor: undefined, revision: 0 };
      throw error;
    }
  }

  /** Returns the new revision. @throws {CursorConflict} when the cursor is not at `revision` any more */
  async write(nodeToken: string, cursor: Cursor, revision: number): Promise<number> {
    try {
      const ack = await this.#client.publish(this.#prefix + nodeToken, JSON.stringify(cursor), {
        expect: { lastSubjectSequence: revision },
        timeout: TIMEOUT_MS,
      });
      return ack.seq;
    } catch (error) {
      if (error instanceof JetStreamApiError && WRONG_LAST_SEQUENCE.has(error.code)) {
        throw new CursorConflict(`the cursor of ${nodeToken} is not at revision ${revision} any more`, { cause: error });
      }
      throw error;
    }
  }
}

/** undefined for what is no cursor: a deleted key, or a value that somebody broke. */
function parseCursor(value: Uint8Array): Cursor | undefined {
  let json: unknown;
  try {
    json = JSON.parse(Buffer.from(value).toString());
  } catch {
    return undefined;
  }
  if (typeof json !== 'object' || json === null) return undefined;
  const { streamSequence, batch, boot, lastSequence, owner } = json as Record<string, unknown>;
  return isCount(streamSequence) && isCount(batch) && isCount(lastSequence) && typeof boot === 'string' && typeof owner === 'string'
    ? { streamSequence, batch, boot, lastSequence, owner }
    : undefined;
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
