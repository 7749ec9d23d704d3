import { decodeBatch, type Event, type Process } from '@tidegate/contracts';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildTestPrograms } from './test-programs.ts';

const SEED = 0x51ed2701;
const RECORDS = 3_000;
const BROKEN_RECORDS = 20_000;
const EXEC_BYTES = 288; // sizeof(struct tg_exec), data apart

/** Set where programs of another build are to run: sanitizer.test.ts. */
const PROGRAMS = process.env['TIDEGATE_NATIVE_TEST_PROGRAMS'] ?? buildTestPrograms();

/** Records as bpf/include/tidegate_event.h lays them out, with random content; the same every time. */
class RecordMaker {
  #state = SEED;

  random(bound: number): number {
    // xorshift32
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % bound;
  }

  /** A number of any magnitude. */
  number(maxBits: number): bigint {
    const bits = this.random(maxBits + 1);
    let value = 0n;
    for (let bit = 0; bit < bits; bit++) value = (value << 1n) | BigInt(this.random(2));
    return value;
  }

  bytes(length: number, notNul: boolean): Buffer {
    const ascii = this.random(2) === 0;
    return Buffer.from(Array.from({ length }, () => (ascii ? 32 + this.random(95) : notNul ? 1 + this.random(255) : this.random(256))));
  }

  header(size: number, type: number, pid: number): Buffer {
    const header = Buffer.alloc(56);
    header.writeUInt32LE(size, 0);
    header.writeUInt16LE(type, 4);
    header.writeBigUInt64LE(1_000_000_000n + this.number(50), 8); // ktime_ns
    header.writeBigUInt64LE(BigInt(pid), 16); // start_ktime_ns
    header.writeUInt32LE(pid, 32);
    header.writeUInt32LE(this.random(100_000), 48); // tid
    return header;
  }
}

function encode(records: Buffer[]): { events: Event[]; processes: Process[]; malformed: number } {
  const { stdout, stderr, status } = spawnSync(join(PROGRAMS, 'encode_records'), {
    input: Buffer.concat(records),
    maxBuffer: 1 << 28,
  });
  assert.equal(status, 0, stderr.toString());
  const [count, malformed] = stderr.toString().split(' ').map(Number);
  const { events, processes } = decodeBatch(stdout);
  assert.equal(events.length, count);
  assert.deepEqual(
    events.map(event => event.sequence),
    events.map((_, index) => index + 1),
  );
  return { events, processes, malformed: malformed ?? 0 };
}

/** As the schema says: each byte that is not part of valid UTF-8 becomes one U+FFFD. Written apart from the encoder's own way. */
function sanitise(bytes: Buffer): string {
  let text = '';
  for (let at = 0; at < bytes.length;) {
    const length = [1, 2, 3, 4].find(each =>
      Buffer.from(bytes.subarray(at, at + each).toString('utf8')).equals(bytes.subarray(at, at + each)),
    );
    text += length ? bytes.subarray(at, at + length).toString('utf8') : '\ufffd';
    at += length ?? 1;
  }
  return text;
}

test('texts that are nearly JSON do no harm', () => {
  const { status, stderr } = spawnSync(join(PROGRAMS, 'json_texts'), { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});

test('no name makes a container of what is none, however cgroups are called', () => {
  const { status, stderr } = spawnSync(join(PROGRAMS, 'container_paths'), { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});

test('the tables keep their bounds and forget nothing that is needed', () => {
  const { status, stderr } = spawnSync(join(PROGRAMS, 'table_bounds'), { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});

test('random execs decode to what they were made of', () => {
  const maker = new RecordMaker();
  const expected: { binary: string; cwd: string; rawPath: string; tty: string; arguments: string[]; uids: number[]; caps: bigint }[] = [];
  const records = Array.from({ length: RECORDS }, (_, index) => {
    const binary = maker.bytes(maker.random(60), true);
    const cwd = maker.bytes(maker.random(200), true);
    const rawPath = maker.bytes(maker.random(40), true);
    const list = Array.from({ length: maker.random(6) }, () => maker.bytes(maker.random(maker.random(8) === 0 ? 2000 : 20), true));
    const argv = Buffer.concat(list.map(argument => Buffer.concat([argument, Buffer.of(0)])));
    const size = EXEC_BYTES + binary.length + cwd.length + rawPath.length + argv.length;
    const fixed = Buffer.alloc(EXEC_BYTES - 56);
    const uids = Array.from({ length: 8 }, () => Number(maker.number(32)));
    uids.forEach((uid, field) => fixed.writeUInt32LE(uid, 24 + 4 * field));
    const caps = maker.number(41);
    fixed.writeBigUInt64LE(caps, 24 + 40);
    const sizes = 24 + 80 + 40 + 8 + 16 + 4;
    [binary, cwd, rawPath, argv].forEach((part, field) => fixed.writeUInt16LE(part.length, sizes + 2 * field));
    const tty = maker.bytes(maker.random(33), true);
    tty.copy(fixed, sizes + 12);
    expected.push({
      binary: sanitise(binary),
      cwd: sanitise(cwd),
      rawPath: sanitise(rawPath),
      tty: sanitise(tty),
      arguments: list.map(sanitise),
      uids,
      caps,
    });
    return Buffer.concat([maker.header(size, 1, index + 1), fixed, binary, cwd, rawPath, argv]);
  });
  const { events, processes, malformed } = encode(records);
  assert.equal(malformed, 0);
  assert.equal(events.length, RECORDS);
  events.forEach(({ exec, process: id }, index) => {
    const process = processes[(id ?? 0) - 1];
    const credentials = exec?.credentials;
    assert.deepEqual(
      {
        binary: process?.binary ?? '',
        cwd: process?.cwd ?? '',
        rawPath: exec?.rawPath ?? '',
        tty: exec?.tty ?? '',
        arguments: process?.arguments ?? [],
        uids: [
          credentials?.uid,
          credentials?.gid,
          credentials?.euid,
          credentials?.egid,
          credentials?.suid,
          credentials?.sgid,
          credentials?.fsuid,
          credentials?.fsgid,
        ].map(uid => uid ?? 0),
        caps: BigInt(credentials?.capPermitted ?? 0),
      },
      expected[index],
    );
    assert.equal(process?.pid, index + 1);
  });
});

test('random sockets and exits decode to what they were made of', () => {
  const maker = new RecordMaker();
  const types = [2, 3, 4, 6, 7];
  const checks: ((event: Event) => void)[] = [];
  const records = Array.from({ length: RECORDS }, (_, index) => {
    const type = types[maker.random(types.length)]!;
    const header = maker.header(type === 2 ? 104 : 136, type, index + 1);
    if (type === 2) {
      const body = Buffer.alloc(48);
      const [user, status] = [maker.number(50), maker.random(65_536)];
      body.writeBigUInt64LE(user, 24);
      body.writeUInt32LE(status, 40);
      checks.push(({ exit }) => {
        assert.deepEqual(
          [exit?.code ?? 0, exit?.signal ?? 0, exit?.coreDumped ?? false, BigInt(exit?.userNs ?? 0)],
          [status >> 8, status & 0x7f, (status & 0x80) !== 0, user],
        );
      });
      return Buffer.concat([header, body]);
    }
    const body = Buffer.alloc(80);
    const sent = maker.number(53);
    body.writeBigUInt64LE(sent, 8);
    const address = maker.bytes(4, false);
    address.copy(body, 32);
    const port = maker.random(65_536);
    body.writeUInt16LE(port, 64);
    body.writeUInt16LE(2, 68); // AF_INET
    checks.push(event => {
      const socket = event.connect ?? event.accept ?? event.listen ?? event.close;
      assert.deepEqual([socket?.sourceIp, socket?.sourcePort ?? 0], [address.join('.'), port]);
      if (event.close) assert.equal(event.close.bytesSent ?? 0, Number(sent));
    });
    return Buffer.concat([header, body]);
  });
  const { events } = encode(records);
  assert.equal(events.length, RECORDS);
  events.forEach((event, index) => {
    checks[index]?.(event);
    assert.equal(event.kind, records[index]?.readUInt16LE(4));
  });
});

test('records that are not what they should be are counted and left out', () => {
  const maker = new RecordMaker();
  const records = Array.from({ length: BROKEN_RECORDS }, () => {
    const record = maker.bytes(4 + maker.random(400), false);
    record.writeUInt32LE(record.length, 0);
    if (record.length >= 8 && maker.random(2) === 0) record.writeUInt16LE(1 + maker.random(7), 4);
    return record;
  });
  const { events, malformed } = encode(records);
  assert.equal(events.length + malformed, BROKEN_RECORDS);
  assert.ok(events.length > 0 && malformed > 0);
});
