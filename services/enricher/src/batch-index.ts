/** Where everything stands in one encoded RAW batch. Arrays of numbers, used again for every batch: nothing is made per event. */
import {
  BatchError,
  BatchField,
  ContainerField,
  EventField,
  fieldOf,
  FIRST_TABLE_FIELD,
  KIND_LIMIT,
  LAST_TABLE_FIELD,
  leadingNumbers,
  ProcessField,
  WireCursor,
  WireType,
  wireTypeOf,
} from '@tidegate/contracts';

/** More than any sensor puts into a batch of 1 MiB; a batch beyond is malformed. */
const MAX_EVENTS = 1 << 18;
const MAX_PROCESSES = 1 << 16;
const MAX_CONTAINERS = 1 << 14;
/** Node, boot, numbers and fields of a newer schema that are no tables: copied into each output, so they must stay small. */
const MAX_HEADER_BYTES = 4_096;

const KNOWN_FIELDS: ReadonlySet<number> = new Set(Object.values(BatchField));
/** The known fields that are neither text nor tables. */
const OWN_NUMBERS: ReadonlySet<number> = new Set([
  BatchField.batch,
  BatchField.wallOffsetNs,
  BatchField.recorded,
  BatchField.conflict,
  BatchField.timeDoubtful,
]);

/** In place of an index: the entry is referred to by nothing (number 0), or by a number that is not in the table. */
export const NONE = -1;
export const DANGLING = -2;

const INITIAL_CAPACITY = 4_096;

export class BatchIndex {
  bytes: Buffer = Buffer.alloc(0);
  node = '';
  boot = '';
  batch = 0;
  recorded = false;
  /** Nothing but the fields a sensor writes: no pods, destinations or cluster, which it may not claim. */
  isPlain = true;

  events = 0;
  eventStart = new Int32Array(INITIAL_CAPACITY);
  /** Where the event's own bytes begin, after tag and length. */
  eventBody = new Int32Array(INITIAL_CAPACITY);
  eventEnd = new Int32Array(INITIAL_CAPACITY);
  eventKind = new Uint16Array(INITIAL_CAPACITY);
  /** Index into the process arrays, NONE or DANGLING. */
  eventProcess = new Float64Array(INITIAL_CAPACITY);
  /** 0: has none. */
  eventSequence = new Float64Array(INITIAL_CAPACITY);

  /** The kinds that occur, and where each stands among them (NONE: does not occur). */
  readonly kinds: number[] = [];
  readonly kindSlot = new Int16Array(KIND_LIMIT).fill(NONE);

  processes = 0;
  processStart = new Int32Array(INITIAL_CAPACITY);
  processEnd = new Int32Array(INITIAL_CAPACITY);
  /** Indexes, NONE or DANGLING. */
  processParent = new Float64Array(INITIAL_CAPACITY);
  processContainer = new Float64Array(INITIAL_CAPACITY);

  containers = 0;
  containerStart = new Int32Array(INITIAL_CAPACITY);
  containerBody = new Int32Array(INITIAL_CAPACITY);
  containerEnd = new Int32Array(INITIAL_CAPACITY);

  /** Ranges of the header fields: start, end, start, end… */
  readonly headerRanges: number[] = [];
  headerBytes = 0;
  /** The same of entries of tables that this version does not know. */
  readonly unknownTableRanges: number[] = [];
  unknownTableBytes = 0;

  /** What events, processes and containers begin with, at their field numbers. */
  readonly #numbers = new Float64Array(Math.max(EventField.sequence, ProcessField.container, ContainerField.id) + 1);
  readonly #processIds = new Map<number, number>();
  readonly #containerIds = new Map<number, number>();

  /**
   * @param payload an encoded EventBatch, not compressed; must stay unchanged while the index is in use
   * @throws {BatchError} when it is none
   */
  read(payload: Uint8Array): void {
    this.#reset(payload);
    const cursor = new WireCursor(this.bytes);
    while (cursor.offset < cursor.end) {
      const start = cursor.offset;
      const tag = cursor.varint();
      const wireType = wireTypeOf(tag);
      const field = fieldOf(tag);
      if (wireType !== WireType.length) {
        this.#readNumber(cursor, field, wireType, start);
        continue;
      }
      const length = cursor.length();
      const body = cursor.offset;
      const end = body + length;
      if (field === BatchField.events) this.#readEvent(cursor, start, body, end);
      else if (field === BatchField.processes) this.#readProcess(cursor, start, body, end);
      else if (field === BatchField.containers) this.#readContainer(cursor, start, body, end);
      else this.#readText(field, start, body, end);
      cursor.offset = end;
    }
    resolve(this.eventProcess, this.events, this.#processIds);
    resolve(this.processParent, this.processes, this.#processIds);
    resolve(this.processContainer, this.processes, this.#containerIds);
  }

  #reset(payload: Uint8Array): void {
    this.bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
    this.node = '';
    this.boot = '';
    this.batch = 0;
    this.recorded = false;
    this.isPlain = true;
    this.events = 0;
    this.processes = 0;
    this.containers = 0;
    for (const kind of this.kinds) this.kindSlot[kind] = NONE;
    this.kinds.length = 0;
    this.headerRanges.length = 0;
    this.headerBytes = 0;
    this.unknownTableRanges.length = 0;
    this.unknownTableBytes = 0;
    this.#processIds.clear();
    this.#containerIds.clear();
  }

  #readNumber(cursor: WireCursor, field: number, wireType: number, start: number): void {
    const isOurs = OWN_NUMBERS.has(field);
    if (field === 0 || (KNOWN_FIELDS.has(field) && !isOurs)) throw new BatchError(`field ${field} has wire type ${wireType}`, start);
    if (isOurs) {
      if (wireType !== WireType.varint) throw new BatchError(`field ${field} has wire type ${wireType}`, start);
      const value = cursor.varint();
      if (field === BatchField.batch) this.batch = value;
      else if (field === BatchField.recorded) this.recorded = value !== 0;
    } else cursor.skip(wireType);
    this.#keepHeader(start, cursor.offset);
  }

  #readText(field: number, start: number, body: number, end: number): void {
    if (field === BatchField.pods || field === BatchField.destinations || field === BatchField.cluster) {
      this.isPlain = false;
      return;
    }
    // Of a newer schema: events may refer to them, so that all of them go with each message.
    if (field >= FIRST_TABLE_FIELD && field <= LAST_TABLE_FIELD) {
      addRange(this.unknownTableRanges, start, end);
      this.unknownTableBytes += end - start;
      return;
    }
    if (field === BatchField.node) this.node = this.bytes.toString('utf8', body, end);
    else if (field === BatchField.boot) this.boot = this.bytes.toString('utf8', body, end);
    else if (KNOWN_FIELDS.has(field)) throw new BatchError(`field ${field} is not a message`, start);
    this.#keepHeader(start, end);
  }

  #keepHeader(start: number, end: number): void {
    addRange(this.headerRanges, start, end);
    this.headerBytes += end - start;
    if (this.headerBytes > MAX_HEADER_BYTES) throw new BatchError(`more than ${MAX_HEADER_BYTES} bytes outside of the tables`, start);
  }

  #readEvent(cursor: WireCursor, start: number, body: number, end: number): void {
    const i = this.events;
    if (i === this.eventStart.length) this.#growEvents(start);
    const numbers = this.#numbers;
    leadingNumbers(cursor, body, end, numbers);
    const kind = numbers[EventField.kind]!;
    if (kind === 0 || kind >= KIND_LIMIT)
      throw new BatchError(`event does not begin with its kind, or kind ${kind} is out of range`, start);
    this.eventStart[i] = start;
    this.eventBody[i] = body;
    this.eventEnd[i] = end;
    this.eventKind[i] = kind;
    if (this.kindSlot[kind] === NONE) this.kindSlot[kind] = this.kinds.push(kind) - 1;
    this.eventProcess[i] = numbers[EventField.process]!;
    this.eventSequence[i] = numbers[EventField.sequence]!;
    this.events = i + 1;
  }

  #readProcess(cursor: WireCursor, start: number, body: number, end: number): void {
    const i = this.processes;
    if (i === this.processStart.length) this.#growProcesses(start);
    const numbers = this.#numbers;
    leadingNumbers(cursor, body, end, numbers);
    const id = numbers[ProcessField.id]!;
    if (id === 0) throw new BatchError('process does not begin with its id', start);
    this.#processIds.set(id, i);
    this.processStart[i] = start;
    this.processEnd[i] = end;
    this.processParent[i] = numbers[ProcessField.parent]!;
    this.processContainer[i] = numbers[ProcessField.container]!;
    this.processes = i + 1;
  }

  #readContainer(cursor: WireCursor, start: number, body: number, end: number): void {
    const i = this.containers;
    if (i === this.containerStart.length) this.#growContainers(start);
    const numbers = this.#numbers;
    leadingNumbers(cursor, body, end, numbers);
    const id = numbers[ContainerField.id]!;
    if (id === 0) throw new BatchError('container does not begin with its id', start);
    this.#containerIds.set(id, i);
    this.containerStart[i] = start;
    this.containerBody[i] = body;
    this.containerEnd[i] = end;
    this.containers = i + 1;
  }

  #growEvents(offset: number): void {
    const capacity = grown(this.events, MAX_EVENTS, 'events', offset);
    this.eventStart = extended(this.eventStart, new Int32Array(capacity));
    this.eventBody = extended(this.eventBody, new Int32Array(capacity));
    this.eventEnd = extended(this.eventEnd, new Int32Array(capacity));
    this.eventKind = extended(this.eventKind, new Uint16Array(capacity));
    this.eventProcess = extended(this.eventProcess, new Float64Array(capacity));
    this.eventSequence = extended(this.eventSequence, new Float64Array(capacity));
  }

  #growProcesses(offset: number): void {
    const capacity = grown(this.processes, MAX_PROCESSES, 'processes', offset);
    this.processStart = extended(this.processStart, new Int32Array(capacity));
    this.processEnd = extended(this.processEnd, new Int32Array(capacity));
    this.processParent = extended(this.processParent, new Float64Array(capacity));
    this.processContainer = extended(this.processContainer, new Float64Array(capacity));
  }

  #growContainers(offset: number): void {
    const capacity = grown(this.containers, MAX_CONTAINERS, 'containers', offset);
    this.containerStart = extended(this.containerStart, new Int32Array(capacity));
    this.containerBody = extended(this.containerBody, new Int32Array(capacity));
    this.containerEnd = extended(this.containerEnd, new Int32Array(capacity));
  }
}

/** Appends a range; ranges side by side become one. */
function addRange(ranges: number[], start: number, end: number): void {
  if (ranges.length > 0 && ranges[ranges.length - 1] === start) ranges[ranges.length - 1] = end;
  else ranges.push(start, end);
}

/** Turns the numbers by which entries refer to a table into indexes. Events of one process come in runs: the last answer is kept. */
function resolve(references: Float64Array, count: number, indexes: ReadonlyMap<number, number>): void {
  let lastReference = 0;
  let lastIndex = NONE;
  for (let i = 0; i < count; i++) {
    const reference = references[i]!;
    if (reference !== lastReference) {
      lastReference = reference;
      lastIndex = reference === 0 ? NONE : (indexes.get(reference) ?? DANGLING);
    }
    references[i] = lastIndex;
  }
}

function grown(count: number, max: number, what: string, offset: number): number {
  if (count >= max) throw new BatchError(`more than ${max} ${what}`, offset);
  return count * 2;
}

function extended<Numbers extends Int32Array | Uint16Array | Float64Array>(from: Numbers, to: Numbers): Numbers {
  to.set(from);
  return to;
}
