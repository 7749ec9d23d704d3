/**
 * Capture files (.tgcap): batches of RAW as they were stored. docs/capture-format.md has the format byte by byte.
 *
 * The first line says what the file is; all that follows is one zstd stream: a line of JSON about the recording, entries, and an end entry with
 * the totals, so that a file that ends too soon is told from a whole one.
 */
import { createReadStream, createWriteStream } from 'node:fs';
import { finished } from 'node:stream/promises';
import { constants, crc32, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { TidegateError } from '@tidegate/runtime';

const MAGIC = 'tidegate-capture 1\n';
/** u32 length of the JSON, u32 length of the payload, u32 CRC-32 of both; little-endian. */
const ENTRY_HEAD_BYTES = 12;
const MAX_META_BYTES = 64 * 1024;
/** As large as a NATS message may be. */
const MAX_PAYLOAD_BYTES = 8 * 1024 * 1024;
const COMPRESSION_LEVEL = 9;

/** About the recording as a whole. */
export interface CaptureHeader {
  /** RFC 3339: when recording began. */
  recordedAt: string;
  /** Version of the command that wrote it. */
  tidegate: string;
}

export interface CaptureEntry {
  /** RFC 3339: when RAW stored it. */
  time: string;
  subject: string;
  headers: Record<string, string>;
  payload: Buffer;
}

export interface CaptureTotals {
  entries: number;
  events: number;
}

export interface CaptureWriter {
  /** Resolves when there is room for the next one. */
  write(entry: CaptureEntry, events: number): Promise<void>;
  readonly totals: Readonly<CaptureTotals>;
  /** Writes the end entry; the file is whole after that. */
  close(): Promise<void>;
}

/** @throws the file system's error when the file exists or cannot be written */
export async function createCapture(file: string, header: CaptureHeader): Promise<CaptureWriter> {
  const output = createWriteStream(file, { flags: 'wx' });
  const compressor = createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: COMPRESSION_LEVEL } });
  await new Promise<void>((resolve, reject) => output.once('open', () => resolve()).once('error', reject));
  output.write(MAGIC);
  compressor.pipe(output);
  const done = finished(output);
  // Reported by write() or close(), whichever comes next.
  done.catch(() => compressor.destroy());
  compressor.on('error', error => output.destroy(error));
  const totals = { entries: 0, events: 0 };

  async function put(...chunks: Uint8Array[]): Promise<void> {
    let hasRoom = true;
    for (const chunk of chunks) hasRoom = compressor.write(chunk);
    if (!hasRoom) await Promise.race([new Promise(resolve => compressor.once('drain', resolve)), done]);
  }

  await put(Buffer.from(`${JSON.stringify(header)}\n`));
  return {
    totals,
    write({ payload, ...meta }, events) {
      totals.entries++;
      totals.events += events;
      return put(...encodedEntry(meta, payload));
    },
    async close() {
      await put(...encodedEntry({ end: true, ...totals }, Buffer.alloc(0)));
      compressor.end();
      await done;
    },
  };
}

export interface Capture {
  header: CaptureHeader;
  entries: AsyncIterable<CaptureEntry>;
}

/**
 * Opens a capture and reads it as its entries are asked for, so that a large file needs little memory.
 * @throws {TidegateError} CAPTURE_CORRUPT, also while entries are read; the file system's error
 */
export async function openCapture(file: string): Promise<Capture> {
  const reader = createByteReader(file);
  const header = parseJson(file, await reader.line(MAX_META_BYTES)) as Partial<CaptureHeader>;
  if (typeof header.recordedAt !== 'string' || typeof header.tidegate !== 'string')
    throw corrupt(file, 'header', 'recordedAt and tidegate', JSON.stringify(header));
  return { header: { recordedAt: header.recordedAt, tidegate: header.tidegate }, entries: readEntries(file, reader) };
}

async function* readEntries(file: string, reader: ByteReader): AsyncGenerator<CaptureEntry> {
  const found = { entries: 0 };
  try {
    for (;;) {
      const head = await reader.bytes(ENTRY_HEAD_BYTES);
      const metaBytes = head.readUInt32LE(0);
      const payloadBytes = head.readUInt32LE(4);
      const where = `entry ${found.entries + 1}`;
      if (metaBytes > MAX_META_BYTES || payloadBytes > MAX_PAYLOAD_BYTES)
        throw corrupt(file, where, `lengths up to ${MAX_META_BYTES} and ${MAX_PAYLOAD_BYTES}`, `${metaBytes} and ${payloadBytes}`);
      const body = await reader.bytes(metaBytes + payloadBytes);
      const checksum = crc32(body);
      if (checksum !== head.readUInt32LE(8)) throw corrupt(file, where, `CRC-32 ${head.readUInt32LE(8)}`, `${checksum}`);
      const meta = parseJson(file, body.subarray(0, metaBytes).toString());
      if (isEnd(meta)) {
        if (meta.entries !== found.entries) throw corrupt(file, 'end', `${meta.entries} entries`, `${found.entries}`);
        return;
      }
      if (!isEntryMeta(meta)) throw corrupt(file, where, 'time, subject and headers', JSON.stringify(meta));
      found.entries++;
      yield { ...meta, payload: body.subarray(metaBytes) };
    }
  } finally {
    reader.close();
  }
}

function encodedEntry(meta: object, payload: Buffer): Uint8Array[] {
  const json = Buffer.from(JSON.stringify(meta));
  const head = Buffer.alloc(ENTRY_HEAD_BYTES);
  head.writeUInt32LE(json.length, 0);
  head.writeUInt32LE(payload.length, 4);
  head.writeUInt32LE(crc32(payload, crc32(json)), 8);
  return [head, json, payload];
}

type EntryMeta = Omit<CaptureEntry, 'payload'>;

function isEnd(meta: unknown): meta is { end: true; entries: number } {
  return typeof meta === 'object' && meta !== null && 'end' in meta && meta.end === true;
}

function isEntryMeta(meta: unknown): meta is EntryMeta {
  const { time, subject, headers } = (meta ?? {}) as Partial<EntryMeta>;
  return (
    typeof time === 'string' &&
    !Number.isNaN(Date.parse(time)) &&
    typeof subject === 'string' &&
    typeof headers === 'object' &&
    headers !== null &&
    Object.values(headers).every(value => typeof value === 'string')
  );
}

function parseJson(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new TidegateError('CAPTURE_CORRUPT', `${file} is damaged`, { field: 'JSON', got: text.slice(0, 80), cause: error });
  }
}

function corrupt(file: string, field: string, expected: string, got: string): TidegateError {
  return new TidegateError('CAPTURE_CORRUPT', `${file} is damaged`, { field, expected, got });
}

interface ByteReader {
  bytes(count: number): Promise<Buffer>;
  line(maxBytes: number): Promise<string>;
  close(): void;
}

/** Reads the first line, then what is decompressed after it. */
function createByteReader(file: string): ByteReader {
  const chunks = decompressed(file);
  let buffered: Buffer = Buffer.alloc(0);

  async function more(field: string, expected: string): Promise<void> {
    let result: IteratorResult<Buffer>;
    try {
      result = await chunks.next();
    } catch (error) {
      // The file system's own errors name the system call; the rest are the decompressor's.
      if (error instanceof Error && !('syscall' in error))
        throw new TidegateError('CAPTURE_CORRUPT', `${file} is damaged`, { field: 'compressed data', got: error.message, cause: error });
      throw error;
    }
    if (result.done) throw corrupt(file, field, expected, 'the end of the file');
    buffered = buffered.length === 0 ? result.value : Buffer.concat([buffered, result.value]);
  }

  return {
    async bytes(count) {
      while (buffered.length < count) await more('entries', 'an end entry');
      const taken = buffered.subarray(0, count);
      buffered = buffered.subarray(count);
      return taken;
    },
    async line(maxBytes) {
      for (;;) {
        const end = buffered.indexOf(0x0a);
        if (end >= 0) {
          const text = buffered.subarray(0, end).toString();
          buffered = buffered.subarray(end + 1);
          return text;
        }
        if (buffered.length > maxBytes) throw corrupt(file, 'header', `a line of at most ${maxBytes} bytes`, 'a longer one');
        await more('header', 'a line of JSON');
      }
    },
    close: () => void chunks.return(undefined),
  };
}

async function* decompressed(file: string): AsyncGenerator<Buffer> {
  const magic = await firstBytes(file, MAGIC.length);
  if (magic !== MAGIC)
    throw new TidegateError('CAPTURE_CORRUPT', `${file} is not a capture of this version`, {
      field: 'first line',
      expected: JSON.stringify(MAGIC),
      got: JSON.stringify(magic),
    });
  const input = createReadStream(file, { start: MAGIC.length });
  const decompressor = createZstdDecompress();
  input.once('error', error => decompressor.destroy(error));
  try {
    for await (const chunk of input.pipe(decompressor)) yield chunk as Buffer;
  } finally {
    input.destroy();
    decompressor.destroy();
  }
}

async function firstBytes(file: string, count: number): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of createReadStream(file, { end: count - 1 })) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('latin1');
}
