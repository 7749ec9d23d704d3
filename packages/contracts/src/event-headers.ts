/** Headers of a message on EVENTS: what a reader needs to put a node's events in order and to know what is missing, without decoding the payload. */
import { formatSequences, parseSequences } from './raw-headers.ts';
import { subjectToken, tokenName } from './subjects.ts';

export const EventHeader = {
  /** Version of this contract and of the payload's schema: SCHEMA_VERSION. A reader goes on with a higher one: fields are only ever added. */
  schema: 'Tidegate-Schema',
  /** The cluster's name, as a subject token. */
  cluster: 'Tidegate-Cluster',
  /** The node's name, as a subject token. */
  node: 'Tidegate-Node',
  /** `<boot>:<batch>`: the batch of the node's sensor that the events came in; batch 0: of none, a loss that an enricher found. */
  batch: 'Tidegate-Batch',
  /** `<i>/<n>`: the i-th of the n messages that the batch became, in the order in which they are stored. */
  part: 'Tidegate-Part',
  /** `<first>-<last>`: lowest and highest sequence number in the message; absent: none of its events has one. */
  sequences: 'Tidegate-Sequences',
  /** Number of events in it. */
  events: 'Tidegate-Events',
} as const;
export type EventHeader = (typeof EventHeader)[keyof typeof EventHeader];

export const SCHEMA_VERSION = 1;

/** What the headers say. */
export interface EventHeaders {
  schema: number;
  cluster: string;
  node: string;
  boot: string;
  batch: number;
  /** From 1. */
  part: number;
  parts: number;
  /** 0 and 0: no event has a number. */
  firstSequence: number;
  lastSequence: number;
  events: number;
}

/** More parts than any batch can become: each holds an event at least. */
const MAX_PARTS = 1 << 20;

export function formatEventHeaders(headers: EventHeaders): Record<string, string> {
  return {
    [EventHeader.schema]: String(headers.schema),
    [EventHeader.cluster]: subjectToken(headers.cluster),
    [EventHeader.node]: subjectToken(headers.node),
    [EventHeader.batch]: `${headers.boot}:${headers.batch}`,
    [EventHeader.part]: `${headers.part}/${headers.parts}`,
    ...(headers.firstSequence > 0 && { [EventHeader.sequences]: formatSequences(headers.firstSequence, headers.lastSequence) }),
    [EventHeader.events]: String(headers.events),
  };
}

/**
 * @param get the value of a header, '' or undefined where there is none
 * @returns undefined when the headers are not those of a message of EVENTS
 */
export function parseEventHeaders(get: (name: string) => string | undefined): EventHeaders | undefined {
  const schema = count(get(EventHeader.schema));
  const batch = /^(.{0,128}):(\d{1,16})$/.exec(get(EventHeader.batch) ?? '');
  const part = /^(\d{1,7})\/(\d{1,7})$/.exec(get(EventHeader.part) ?? '');
  const events = count(get(EventHeader.events));
  const node = get(EventHeader.node);
  if (schema === undefined || !batch || !part || events === undefined || !node) return undefined;
  const sequencesText = get(EventHeader.sequences);
  const sequences = sequencesText ? parseSequences(sequencesText) : { first: 0, last: 0 };
  const [number, parts] = [Number(part[1]), Number(part[2])];
  if (!sequences || number < 1 || number > parts || parts > MAX_PARTS) return undefined;
  return {
    schema,
    cluster: tokenName(get(EventHeader.cluster) ?? '='),
    node: tokenName(node),
    boot: batch[1]!,
    batch: Number(batch[2]),
    part: number,
    parts,
    firstSequence: sequences.first,
    lastSequence: sequences.last,
    events,
  };
}

function count(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}
