/** The processes that a pid may mean, newest first. A pid is used again and again, and on every node. */
import { ProcessField, STREAMS, WireType, tagOf, type CandidatePage, type ProcessCandidate } from '@tidegate/contracts';
import type { StreamReaders } from '@tidegate/runtime';
import { Order, selects, WorkMeter, type History, type Selection } from '@tidegate/events';

export interface CandidateQuery {
  pid: number;
  /** Left out: all nodes. */
  node?: Selection<string> | undefined;
  /** The search ends with the message that holds the last of so many. */
  limit: number;
  /** Of an answer: goes on where its search ended. */
  cursor?: number | undefined;
}

export interface ProcessCandidates {
  /** @throws {TidegateError} STREAM_UNAVAILABLE */
  find(query: CandidateQuery, signal: AbortSignal): Promise<CandidatePage>;
}

export function createProcessCandidates(history: History, readers: StreamReaders): ProcessCandidates {
  async function find({ pid, node, limit, cursor }: CandidateQuery, signal: AbortSignal): Promise<CandidatePage> {
    const { first, last } = await readers.bounds(STREAMS.events.name);
    const start = Math.min(cursor ?? last, last);
    const work = new WorkMeter();
    const needle = encodedPid(pid);
    const found = new Map<string, ProcessCandidate>();
    const query = { order: Order.newest, filter: {}, first, last, place: { start, given: new Map<string, number>() } };
    for await (const message of history.messages(query, signal)) {
      work.count(message);
      // Most messages need not be decoded to see that none of their processes has the pid.
      const batch = message.includes(needle) ? message.batch : undefined;
      if (batch && batch.events.length > 0 && selects(node, each => each === batch.node)) {
        for (const process of batch.processes) {
          const execId = process.execId ?? '';
          if (process.pid !== pid || found.has(execId)) continue;
          const { container, pod, process: json } = message.reader!.toJson({ process: process.id ?? 0 });
          const { time } = message.event(batch.events.length - 1);
          found.set(execId, { node: batch.node, seen_at: time, process: json!, ...(container && { container }), ...(pod && { pod }) });
        }
      }
      const isAtFirst = message.sequence <= first;
      if ((found.size >= limit || work.isSpent) && !isAtFirst)
        return { processes: [...found.values()], cursor: String(message.sequence - 1), complete: false };
    }
    return { processes: [...found.values()], cursor: null, complete: true };
  }

  return { find };
}

/** The field as every encoder writes it. */
function encodedPid(pid: number): Buffer {
  const bytes = [tagOf(ProcessField.pid, WireType.varint)];
  for (; pid >= 0x80; pid >>>= 7) bytes.push((pid & 0x7f) | 0x80);
  return Buffer.from([...bytes, pid]);
}
