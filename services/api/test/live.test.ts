import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import {
  BUCKETS,
  bytesCodec,
  LIVE_LINGER_MS,
  MAX_FOLLOWED_BATCHES_PER_SECOND,
  MAX_PACE_LEASE_MS,
  nodeKey,
  PACE_PREFIX,
  paceLeaseCodec,
  paceSubject,
} from '@tidegate/contracts';
import { createBuckets } from '@tidegate/runtime';
import { testLogger, waitFor } from '@tidegate/testkit';
import { WebSocket } from 'ws';
import { batchOf, interleavedBatch, publish, publishInsistently, publishInterleaved } from '@tidegate/testkit/event-messages';
import { FRAME_BYTES, MAX_QUEUE_BYTES, MAX_SOCKET_BYTES } from '../src/live-client.ts';
import { startFixture, type Fixture } from './fixture.ts';

interface Received {
  node: string;
  kind: string;
  sequence: number;
  loss?: { reason: string; count: number; from: string; to: string };
}

interface Client {
  socket: WebSocket;
  events: Received[];
  closed: Promise<{ code: number; reason: string }>;
  [Symbol.dispose](): void;
}

async function connect({ api }: Fixture, query = '', headers: Record<string, string> = {}): Promise<Client> {
  const socket = new WebSocket(`${api.url.replace('http', 'ws')}/api/v1/events/live${query}`, { headers });
  const events: Received[] = [];
  socket.on('message', data => {
    for (const line of String(data).trimEnd().split('\n')) events.push(JSON.parse(line) as Received);
  });
  const closed = new Promise<{ code: number; reason: string }>(resolve =>
    socket.once('close', (code, reason) => resolve({ code, reason: String(reason) })),
  );
  await new Promise<void>((resolve, reject) => {
    socket.once('open', () => resolve());
    socket.once('error', reject);
  });
  return { socket, events, closed, [Symbol.dispose]: () => socket.terminate() };
}

/** A client that follows from now on follows once the first event reaches it; until then events are published again and again. */
async function connectFollowing(fixture: Fixture, query = ''): Promise<Client> {
  const client = await connect(fixture, query);
  await waitFor(
    async () => {
      await publish(fixture.js, 'exit', batchOf('exit', [{ sequence: 0 }]));
      return client.events.length > 0;
    },
    { what: 'the first event' },
  );
  return client;
}

const sequencesOf = (events: readonly Received[]) => events.map(event => event.sequence).filter(sequence => sequence > 0);
const upTo = (count: number) => Array.from({ length: count }, (_, i) => i + 1);

/** The most that a TCP socket of this kernel holds in one direction. */
function kernelBufferBytes(setting: 'tcp_wmem' | 'tcp_rmem'): number {
  return Number(readFileSync(`/proc/sys/net/ipv4/${setting}`, 'utf8').trim().split(/\s+/)[2]);
}

test('sensors are asked for haste while somebody looks, and only those concerned', async () => {
  await using fixture = await startFixture();
  const leases: string[] = [];
  fixture.nc.subscribe(`${PACE_PREFIX}.>`, {
    callback: (_error, message) => {
      assert.deepEqual(paceLeaseCodec.decode(message.data), { lingerMs: LIVE_LINGER_MS, forMs: MAX_PACE_LEASE_MS });
      leases.push(message.subject);
    },
  });
  await fixture.nc.flush();
  {
    using _background = await connectFollowing(fixture, '?batch=true');
    assert.deepEqual(leases, []);
    using _all = await connect(fixture, '?pace=live');
    using _some = await connect(fixture, '?pace=live&node=worker-1,worker.2');
    using _others = await connect(fixture, '?pace=live&node=!worker-1');
    const expected = [paceSubject(), paceSubject('worker-1'), paceSubject('worker.2')];
    await waitFor(() => expected.every(subject => leases.filter(lease => lease === subject).length >= 2), {
      what: 'leases, and renewed ones',
    });
    assert.deepEqual(new Set(leases), new Set(expected));
  }
  // Nobody looks any more: what was asked for ends by itself.
  const renewMs = MAX_PACE_LEASE_MS / 3;
  let lastCount = -1;
  await waitFor(
    async () => {
      if (leases.length === lastCount) return true;
      lastCount = leases.length;
      await delay(renewMs * 1.5);
      return false;
    },
    { what: 'the end of the leases' },
  );
});

test('many nodes are not asked for more batches together than the servers carry', async () => {
  await using fixture = await startFixture();
  const buckets = await createBuckets({ nc: fixture.nc, logger: testLogger() });
  const sensors = buckets.open(BUCKETS.sensors, bytesCodec);
  const nodes = 200;
  await Promise.all(Array.from({ length: nodes }, (_, i) => sensors.put(nodeKey(`worker-${i}`), Buffer.from('{}'))));
  buckets.close();
  const asked = new Map<string, number>();
  fixture.nc.subscribe(`${PACE_PREFIX}.>`, {
    callback: (_error, message) => void asked.set(message.subject, paceLeaseCodec.decode(message.data).lingerMs),
  });
  await fixture.nc.flush();
  using _all = await connect(fixture, '?pace=live');
  using _one = await connect(fixture, '?pace=live&node=worker-1');
  await waitFor(() => asked.size === 2, { what: 'leases' });
  assert.equal(asked.get(paceSubject('worker-1')), LIVE_LINGER_MS);
  assert.ok((nodes * 1000) / asked.get(paceSubject())! <= MAX_FOLLOWED_BATCHES_PER_SECOND);
});

test('what happens is sent to all that follow, each with its filters', async () => {
  await using fixture = await startFixture();
  using all = await connectFollowing(fixture);
  using some = await connectFollowing(fixture, '?binary=/usr/bin/curl,/usr/bin/true');
  using batched = await connectFollowing(fixture, '?batch=true');
  for (let i = 1; i <= 50; i++) {
    await publish(
      fixture.js,
      'exec',
      batchOf('exec', [
        { sequence: i * 2 - 1, binary: '/usr/bin/curl' },
        { sequence: i * 2, binary: '/bin/sh' },
      ]),
    );
  }
  for (const client of [all, some, batched]) {
    const expected = client === some ? upTo(100).filter(sequence => sequence % 2 === 1) : upTo(100);
    await waitFor(() => sequencesOf(client.events).length >= expected.length, { what: 'all events' });
    assert.deepEqual(sequencesOf(client.events), expected);
  }
});

for (const version of ['new', 'debian'] as const) {
  test(`replay goes over into following without a gap or a duplicate, while events arrive (${version} server)`, async () => {
    await using fixture = await startFixture({ version });
    const total = 3000;
    let next = 1;
    const publishSome = async (count: number) => {
      for (let i = 0; i < count; i++) {
        const kind = next % 3 === 0 ? 'exit' : 'exec';
        await publish(fixture.js, kind, batchOf(kind, [{ sequence: next++ }]));
      }
    };
    await publishSome(1000);
    const writing = publishSome(total - 1000);
    using all = await connect(fixture, '?from=-1h');
    using exits = await connect(fixture, '?from=-1h&kind=exit');
    await waitFor(() => next > 1500, { what: 'the writer to be half done' });
    using late = await connect(fixture, '?from=-1h&batch=true');
    await writing;
    const isDone = () => [all, late].every(client => client.events.length >= total) && exits.events.length >= total / 3;
    await waitFor(isDone, { what: 'all events' });
    assert.deepEqual(sequencesOf(all.events), upTo(total));
    assert.deepEqual(sequencesOf(late.events), upTo(total));
    assert.deepEqual(
      sequencesOf(exits.events),
      upTo(total).filter(sequence => sequence % 3 === 0),
    );
    // And they follow on.
    await publish(fixture.js, 'exit', batchOf('exit', [{ sequence: total + 1 }]));
    await waitFor(() => [all, late, exits].every(client => client.events.at(-1)?.sequence === total + 1), { what: 'one more event' });
    assert.match(await (await fetch(`${fixture.api.url}/metrics`)).text(), /tidegate_api_live_clients 3/);
  });
}

test("a node's events come in the order of their numbers: live, replayed, and where one goes over into the other", async () => {
  await using fixture = await startFixture();
  const nodes = ['n1', 'n2', 'n3'];
  using live = await connectFollowing(fixture, '?node=n1,n2,n3,worker-1');
  using exits = await connectFollowing(fixture, '?kind=exit');
  using rest = await connectFollowing(fixture, '?kind=!exec&node=!n1');
  const publishing = publishInterleaved(fixture.js, nodes, 40);
  await waitFor(() => live.events.length > 200, { what: 'the first events' });
  using replayed = await connect(fixture, '?from=-1h&node=n1,n2,n3');
  const count = await publishing;
  const of = ({ events }: Client, node: string) => events.filter(event => event.node === node).map(({ sequence }) => sequence);
  const isDone = (client: Client, share: number) => nodes.every(node => of(client, node).length >= count * share);
  await waitFor(() => isDone(live, 1) && isDone(replayed, 1) && isDone(exits, 0.5) && rest.events.length >= count, { what: 'all events' });
  for (const node of nodes) {
    assert.deepEqual(of(live, node), upTo(count));
    assert.deepEqual(of(replayed, node), upTo(count));
    assert.deepEqual(of(rest, node), node === 'n1' ? [] : of(exits, node));
    assert.deepEqual(
      of(exits, node),
      upTo(count).filter(sequence => sequence % 2 === 0),
    );
  }
});

test('a batch of which a part is missing, as where events were lost, is not held back for long', async () => {
  await using fixture = await startFixture();
  using client = await connectFollowing(fixture);
  const [execs, exits] = interleavedBatch(7, 1, 10, ['web']);
  await publish(fixture.js, 'exec', execs!.payload('n1'), 'shop', 'web');
  await waitFor(() => sequencesOf(client.events).length === 10, { what: 'the execs alone' });
  await publish(fixture.js, 'exit', exits!.payload('n1'), 'shop', 'web');
  await waitFor(() => sequencesOf(client.events).length === 20, { what: 'the exits' });
  assert.deepEqual(sequencesOf(client.events), [...execs!.sequences, ...exits!.sequences]);
});

test('parts of a batch that are delayed, repeated or never come', { timeout: 60_000 }, async () => {
  await using fixture = await startFixture();
  using client = await connectFollowing(fixture);
  using exits = await connectFollowing(fixture, '?kind=exit');
  const parts = interleavedBatch(1, 1, 5, ['web']);
  const [execs, ends] = parts;
  await publish(fixture.js, 'exec', execs!.payload('n1'), 'shop', 'web', execs!.part);
  // Other nodes do not wait for it.
  await publish(fixture.js, 'exec', batchOf('exec', [{ sequence: 100 }], { node: 'n2' }));
  await waitFor(() => sequencesOf(client.events).includes(100), { what: 'the other node' });
  await publish(fixture.js, 'exec', execs!.payload('n1'), 'shop', 'other', execs!.part);
  await publish(fixture.js, 'exit', ends!.payload('n1'), 'shop', 'web', ends!.part);
  await waitFor(() => sequencesOf(client.events).length === 11, { what: 'the batch' });
  assert.deepEqual(sequencesOf(client.events), [100, ...upTo(10)]);
  // A last part that never comes: the node's next batch says so, or else time.
  const [second] = interleavedBatch(2, 11, 5, ['web']);
  await publish(fixture.js, 'exec', second!.payload('n1'), 'shop', 'web', second!.part);
  await publish(fixture.js, 'exec', batchOf('exec', [{ sequence: 21 }], { node: 'n1' }));
  await waitFor(() => sequencesOf(client.events).at(-1) === 21, { what: 'the next batch' });
  const [third] = interleavedBatch(3, 22, 5, ['web']);
  await publish(fixture.js, 'exec', third!.payload('n1'), 'shop', 'web', third!.part);
  await waitFor(() => sequencesOf(client.events).length === 22, { what: 'the batch without its last part', timeoutMs: 30_000 });
  assert.deepEqual(sequencesOf(client.events).slice(11), [...second!.sequences, 21, ...third!.sequences]);
  assert.deepEqual(sequencesOf(exits.events), ends!.sequences);
});

test('history that ends with a part that the filter does not show is sent at once, also when nothing follows', async () => {
  await using fixture = await startFixture();
  const [execs, ends] = interleavedBatch(1, 1, 5, ['web']);
  await publish(fixture.js, 'exec', execs!.payload('n1'), 'shop', 'web', execs!.part);
  await publish(fixture.js, 'exit', ends!.payload('n1'), 'shop', 'web', ends!.part);
  using client = await connect(fixture, '?from=-1h&kind=exec');
  await waitFor(() => client.events.length === 5, { what: 'the first part', timeoutMs: 5_000 });
  assert.deepEqual(sequencesOf(client.events), execs!.sequences);
});

/** Follows over one lost connection after another, going on at the cursor of the frame received last. */
async function followTorn(fixture: Fixture, query: string, isDone: (events: readonly Received[]) => boolean): Promise<Received[]> {
  const events: Received[] = [];
  let cursor = '';
  for (let connections = 0; !isDone(events); connections++) {
    const socket = new WebSocket(
      `${fixture.api.url.replace('http', 'ws')}/api/v1/events/live?${query}&cursors=true${cursor && `&cursor=${cursor}`}`,
    );
    let framesLeft = [2, 4, 1, 9][connections % 4]!;
    await new Promise<void>((resolve, reject) => {
      socket.on('error', reject);
      socket.on('close', () => resolve());
      socket.on('message', data => {
        if (socket.readyState !== WebSocket.OPEN) return;
        const lines = String(data).trimEnd().split('\n');
        ({ cursor } = JSON.parse(lines.pop()!) as { cursor: string });
        events.push(...lines.map(line => JSON.parse(line) as Received));
        if (--framesLeft === 0 || isDone(events)) socket.terminate();
      });
    });
  }
  return events;
}

test(
  'a client that goes on at its cursor misses nothing and gets nothing twice, however often it is torn off',
  { timeout: 120_000 },
  async () => {
    await using fixture = await startFixture();
    const nodes = ['n1', 'n2', 'n3'];
    // Larger than a frame: connections end amid a batch, too.
    const size = 1_000;
    const large = Array.from({ length: size }, (_, i) => ({ sequence: i + 1 }));
    await publish(fixture.js, 'exit', batchOf('exit', large, { node: 'large' }));
    let total = Infinity;
    const publishing = publishInterleaved(fixture.js, nodes, 60).then(count => (total = count));
    const follow = (query: string, isWanted: (node: string, sequence: number) => boolean) => {
      const expected = () =>
        [...nodes, 'large'].map(node => upTo(node === 'large' ? size : total).filter(sequence => isWanted(node, sequence)));
      return followTorn(fixture, `${query}from=-1h`, events => total < Infinity && events.length >= expected().flat().length).then(events =>
        assert.deepEqual(
          [...nodes, 'large'].map(node => events.filter(event => event.node === node).map(({ sequence }) => sequence)),
          expected(),
          query,
        ),
      );
    };
    await Promise.all([
      publishing,
      follow('', () => true),
      follow('kind=exit&', (node, sequence) => node === 'large' || sequence % 2 === 0),
      follow('node=n2,large&', node => node === 'n2' || node === 'large'),
    ]);
  },
);

test('a cursor of what the stream discarded, or of a stream that was made anew, goes on where there is something, and says so', async () => {
  await using fixture = await startFixture();
  const manager = await fixture.js.jetstreamManager();
  for (let sequence = 1; sequence <= 5; sequence++) await publish(fixture.js, 'exec', batchOf('exec', [{ sequence }]));
  let cursor = '';
  const connectAt = async (query: string): Promise<Client> => {
    const client = await connect(fixture, `?cursors=true&${query}`);
    client.socket.on('message', data => ({ cursor } = JSON.parse(String(data).trimEnd().split('\n').pop()!) as { cursor: string }));
    return client;
  };
  const seen = ({ events }: Client) =>
    events.filter(({ kind }) => kind !== undefined).map(({ kind, sequence }) => (kind === 'loss' ? 'loss' : sequence));
  const go = async (query: string, expected: (string | number)[]) => {
    using client = await connectAt(query);
    await waitFor(() => seen(client).length >= expected.length, { what: String(expected) });
    assert.deepEqual(seen(client), expected);
  };
  await go('from=-1h', [1, 2, 3, 4, 5]);
  const first = cursor;
  for (let sequence = 6; sequence <= 9; sequence++) await publish(fixture.js, 'exec', batchOf('exec', [{ sequence }]));
  await manager.streams.purge('EVENTS', { seq: 8 });
  await go(`cursor=${first}`, ['loss', 8, 9]);
  const second = cursor;
  const { config } = await manager.streams.info('EVENTS');
  await manager.streams.delete('EVENTS');
  await manager.streams.add(config);
  // More than there were.
  for (let sequence = 1; sequence <= 12; sequence++) await publish(fixture.js, 'exec', batchOf('exec', [{ sequence }]));
  await go(`cursor=${second}`, ['loss', ...upTo(12)]);
  for (const query of [`cursor=${second}&kind=exit`, 'cursor=x', 'cursors=true&batch=false']) {
    const refusal = new WebSocket(`${fixture.api.url.replace('http', 'ws')}/api/v1/events/live?${query}`);
    refusal.on('error', () => undefined);
    assert.equal(
      await new Promise(resolve => refusal.on('unexpected-response', (_request, response) => resolve(response.statusCode))),
      400,
    );
  }
});

test('a NATS server that is killed and restarted leaves no gap and no duplicate', async () => {
  await using fixture = await startFixture();
  using client = await connectFollowing(fixture);
  using replaying = await connect(fixture, '?from=-1h&kind=exec');
  const total = 200;
  for (let i = 1; i <= total; i++) {
    if (i === 100) {
      await fixture.nats.kill();
      await fixture.nats.restart();
    }
    await publishInsistently(fixture.js, 'exec', batchOf('exec', [{ sequence: i }]), `message-${i}`);
  }
  await waitFor(() => client.events.at(-1)?.sequence === total && replaying.events.at(-1)?.sequence === total, {
    timeoutMs: 30_000,
    what: 'the last event',
  });
  assert.deepEqual(sequencesOf(client.events), upTo(total));
  assert.deepEqual(sequencesOf(replaying.events), upTo(total));
});

test('a client that does not read loses events, is told how many, and costs bounded memory', async () => {
  await using fixture = await startFixture();
  using quick = await connectFollowing(fixture);
  using slow = await connectFollowing(fixture);
  slow.socket.pause();
  const perMessage = 400;
  let sequence = 1;
  /** Events that may wait for a client: the queue and one message, JSON in the socket, and what the kernel takes on both ends. */
  let most = Infinity;
  // Half as many again.
  while (sequence < most * 1.5) {
    const events = Array.from({ length: perMessage }, () => ({ sequence: sequence++, binary: `/usr/bin/${'x'.repeat(200)}` }));
    const payload = batchOf('exec', events);
    await publish(fixture.js, 'exec', payload);
    await waitFor(() => sequencesOf(quick.events).length === sequence - 1, { what: 'the quick client' });
    const jsonBytes = Buffer.byteLength(JSON.stringify(quick.events.at(-1)));
    const socketBytes = MAX_SOCKET_BYTES + FRAME_BYTES + kernelBufferBytes('tcp_wmem') + kernelBufferBytes('tcp_rmem');
    most = (MAX_QUEUE_BYTES / payload.length + 1) * perMessage + socketBytes / jsonBytes;
  }
  const total = sequence - 1;
  assert.deepEqual(sequencesOf(quick.events), upTo(total));
  slow.socket.resume();
  await waitFor(() => slow.events.at(-1)?.sequence === total, { what: 'the slow client' });
  const losses = slow.events.flatMap(event => event.loss ?? []);
  assert.ok(losses.length > 0);
  for (const { reason, from, to } of losses) {
    assert.equal(reason, 'slow_client');
    assert.ok(from <= to);
  }
  const lost = losses.reduce((sum, { count }) => sum + count, 0);
  const got = sequencesOf(slow.events);
  assert.equal(got.length + lost, total);
  assert.ok(got.length <= most, `${got.length} of ${total} events waited, at most ${most} may`);
  assert.deepEqual(
    got,
    got.toSorted((a, b) => a - b),
  );
  // The loss stands where events are missing.
  const at = slow.events.findIndex(event => event.kind === 'loss');
  assert.equal(slow.events[at + 1]!.sequence - slow.events[at - 1]!.sequence - 1, losses[0]!.count);
});

test('one client too many is asked to try later, and bad parameters are refused before the upgrade', async () => {
  await using fixture = await startFixture({ maxLiveClients: 1 });
  using first = await connectFollowing(fixture);
  using second = await connect(fixture);
  assert.equal((await second.closed).code, 1013);
  assert.equal(first.socket.readyState, WebSocket.OPEN);
  const refusal = new WebSocket(`${fixture.api.url.replace('http', 'ws')}/api/v1/events/live?kind=dance&limit=1`);
  const status = await new Promise<number | undefined>(resolve => {
    refusal.on('unexpected-response', (_request, response) => resolve(response.statusCode));
    refusal.on('error', () => undefined);
  });
  assert.equal(status, 400);
  const plain = await fixture.get('/api/v1/events/live');
  assert.equal(plain.status, 426);
});

test('closing the API ends WebSockets with 1001', async () => {
  await using fixture = await startFixture();
  using client = await connectFollowing(fixture);
  using replaying = await connect(fixture, '?from=-1h');
  await fixture.api.close();
  assert.equal((await client.closed).code, 1001);
  assert.equal((await replaying.closed).code, 1001);
});

test('a page of another site gets neither a WebSocket nor, by a rebound name, an answer', async () => {
  await using fixture = await startFixture();
  await assert.rejects(connect(fixture, '', { origin: 'https://evil.example' }), /403/);
  await assert.rejects(connect(fixture, '', { host: 'evil.example:7400' }), /421/);
  using same = await connect(fixture, '', { origin: fixture.api.url });
  assert.equal(same.socket.readyState, WebSocket.OPEN);
});

test('a stream that discards what was not read yet is reported in band', async () => {
  await using fixture = await startFixture();
  using client = await connectFollowing(fixture);
  const manager = await fixture.js.jetstreamManager();
  await manager.streams.update('EVENTS', { max_msgs: 1 });
  const payload = batchOf('exec', [{ sequence: 1 }]);
  const loss = await waitFor(
    async () => {
      await Promise.all(Array.from({ length: 200 }, () => publish(fixture.js, 'exec', payload)));
      return client.events.find(event => event.kind === 'loss')?.loss;
    },
    { what: 'a loss event' },
  );
  assert.equal(loss.reason, 'events_discarded');
});
