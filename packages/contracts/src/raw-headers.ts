/** Headers of a message on RAW: what a reader needs without decoding the payload. */
export const RawHeader = {
  /** `<first>-<last>`: the node's sequence numbers this batch accounts for, both included. */
  sequences: 'Tidegate-Sequences',
  /** Number of events in it. */
  events: 'Tidegate-Events',
  /** `zstd`; absent: not compressed. */
  encoding: 'Tidegate-Encoding',
} as const;
export type RawHeader = (typeof RawHeader)[keyof typeof RawHeader];

/** Nats-Msg-Id of a batch on RAW. */
export function rawMessageId(node: string, boot: string, batch: number): string {
  return `${node}:${boot}:${batch}`;
}

export function formatSequences(first: number, last: number): string {
  return `${first}-${last}`;
}

/** undefined when the text is not `<first>-<last>`. */
export function parseSequences(text: string): { first: number; last: number } | undefined {
  const match = /^(\d{1,16})-(\d{1,16})$/.exec(text);
  if (!match) return undefined;
  const first = Number(match[1]);
  const last = Number(match[2]);
  return first <= last && Number.isSafeInteger(last) ? { first, last } : undefined;
}
