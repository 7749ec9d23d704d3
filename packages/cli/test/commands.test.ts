/** The commands as a user runs them, on a real nats-server and the real API. */
import assert from 'node:assert/strict';
import { symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  BUCKETS,
  EventBatch,
  nodeKey,
  sensorStatusCodec,
  STREAMS,
  decodeBatch,
  eventSubject,
  Kind,
  LossReason,
  encodeBatch,
  type EventJson,
  type SensorStatus,
} from '@tidegate/contracts';
import {
  createBuckets,
  createPublisher,
  createStreamReaders,
  connectNats,
  ensureBuckets,
  ensureStreams,
  type Publisher,
  type StreamMessage,
} from '@tidegate/runtime';
import type { NatsConnection } from '@nats-io/nats-core';
import { createHost, startNatsServer, testLogger, waitFor, type Host } from '@tidegate/testkit';
import { enricherHeaders } from '@tidegate/testkit/event-messages';
import { REPOSITORY, cleanEnvironment, freePorts, runCommand, startCommand, startProgram } from './command-runner.ts';
import { execId, rawMessage, sampleBatch, type SampleBatch } from './sample-batches.ts';
import { holdsText } from '../src/commands/status.ts';

interface Bench {
  host: Host;
  nc: NatsConnection;
  raw: Publisher;
  events: Publisher;
  natsUrl: string;
  [Symbol.asyncDispose](): Promise<void>;
}

async function createBench(): Promise<Bench> {
  const host = createHost();
  const server = await startNatsServer();
  host.defer(() => server.stop());
  const nc = await connectNats({ url: server.url, name: 'test', logger: host.logger });
  host.defer(() => nc.close());
  await ensureStreams(nc, Object.values(STREAMS));
  await ensureBuckets(nc, Object.values(BUCKETS));
  const raw = createPublisher(nc, { stream: STREAMS.raw.name, logger: host.logger });
  const events = createPublisher(nc, { stream: STREAMS.events.name, logger: host.logger });
  host.defer(() => raw.close());
  host.defer(() => events.close());
  return { host, nc, raw, events, natsUrl: server.url, [Symbol.asyncDispose]: () => host[Symbol.asyncDispose]() };
}

async function readStream(nc: NatsConnection, stream: string, subjects: readonly string[] = []): Promise<StreamMessage[]> {
  const reader = (await createStreamReaders(nc)).open({ stream, subjects, start: { streamSequence: 1 } });
  const messages: StreamMessage[] = [];
  for await (const message of reader.read({ follow: false })) messages.push(message);
  reader.close();
  return messages;
}

/** What an enricher makes of it: a message for each kind. */
async function enrich(events: Publisher, batch: SampleBatch): Promise<void> {
  const decoded = decodeBatch(batch.payload);
  const kinds = [Kind.KIND_EXEC, Kind.KIND_EXIT].filter(kind => decoded.events.some(event => event.kind === kind));
  for (const [i, kind] of kinds.entries()) {
    const payload = EventBatch.encode({ ...decoded, cluster: 'c1', events: decoded.events.filter(event => event.kind === kind) }).finish();
    await events.publish({
      subject: eventSubject(kind, '_host', batch.node),
      payload,
      messageId: `${batch.node}:${batch.boot}:${batch.batch}:${kind}`,
      headers: enricherHeaders(payload, { part: i + 1, parts: kinds.length }),
    });
  }
}

async function startApi({ host, natsUrl }: Bench, port: number) {
  const env = cleanEnvironment({ TIDEGATE_NATS_URL: natsUrl, TIDEGATE_API_PORT: String(port), TIDEGATE_LOG_LEVEL: 'silent' });
  const child = host.spawn(process.execPath, [join(REPOSITORY, 'services/api/dist/main.js')], { env, stdio: 'ignore' });
  const url = `http://127.0.0.1:${port}`;
  await waitFor(async () => (await fetch(`${url}/readyz`)).ok, { what: 'the API' });
  return { child, url };
}

test('every fault of a command line is told at once, and the exit status is 2', async () => {
  const { code, stderr, stdout } = await runCommand([
    'events',
    '--since',
    'abc',
    '--kind',
    'foo',
    '--pid',
    '0',
    '--nonsense',
    '-o',
    'xml',
    '--api',
    'x',
  ]);
  assert.equal(code, 2);
  assert.equal(stdout, '');
  for (const field of ['--since', '--kind', '--pid', '--nonsense', '--output', '--api'])
    assert.match(stderr, new RegExp(`${field}: expected .*, got `));
  const told: [args: string[], text: string][] = [
    [['play'], '<file>, expected a file that `tidegate capture` wrote, got nothing'],
    [['play', '/nowhere/a.tgcap'], 'got "/nowhere/a.tgcap: no such file or directory"'],
    [['play', '--speed', '0', '/'], '\n  <file>: expected a file that `tidegate capture` wrote, got "/: a folder"'],
    [['capture', '/nowhere/a.tgcap'], 'got "/nowhere/a.tgcap: its folder: no such file or directory"'],
    [['capture', fileURLToPath(import.meta.url)], ': it exists"'],
    [['up', '--play', '/nowhere/a.tgcap', '--api-port', 'x'], '\n  --play: expected a file that'],
    [['evnts'], "tidegate: unknown command 'evnts'\n(Did you mean events?)\n`tidegate --help` lists commands"],
    [['node', 'rmove'], "tidegate: unknown command 'rmove'"],
    [['help', 'nonsense'], "tidegate: unknown command 'nonsense'"],
    [['--nonsense'], "tidegate: unknown option '--nonsense'"],
    [['events', '--pid'], "tidegate: option '--pid <pid>' argument missing"],
  ];
  for (const [args, text] of told) {
    const result = await runCommand(args);
    assert.deepEqual([result.code, result.stdout], [2, ''], args.join(' '));
    assert.ok(result.stderr.includes(text), `${args.join(' ')}: ${result.stderr}`);
  }
});

test('help and version are no failures, and without arguments there is help with examples', async () => {
  for (const args of [
    [],
    ['--help'],
    ['node', '--help'],
    ['node', 'remove', '--help'],
    ['events', '--help'],
    ['up', '--help'],
    ['audit', '--help'],
    ['help', 'node', 'remove'],
    ['help'],
  ]) {
    const { code, stdout } = await runCommand(args);
    assert.equal(code, 0);
    assert.match(stdout, /Examples:\n {2}\$ tidegate /);
  }
  assert.match((await runCommand(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/);
});

test('where nothing answers, the command says so and ends with 2', async () => {
  const port = await freePorts(1);
  const api = await runCommand(['events', '--api', `http://127.0.0.1:${port}`]);
  assert.deepEqual([api.code, /no API answers at .*tidegate up/.test(api.stderr)], [2, true]);
  const nats = await runCommand(['audit', '--nats', `nats://127.0.0.1:${port}`]);
  assert.deepEqual([nats.code, /no NATS server answers/.test(nats.stderr)], [2, true]);
});

test('commands look where the same settings make `up` listen, and run from any folder', async () => {
  await using host = createHost();
  const port = await freePorts(2);
  const env = { TIDEGATE_API_PORT: String(port), TIDEGATE_NATS_PORT: String(port + 1) };
  const link = join(host.folder(), 'tidegate');
  symlinkSync(join(REPOSITORY, 'bin/tidegate'), link);
  for (const args of [['events'], ['status'], ['tree', '1']]) {
    const { ended, stderr } = startProgram(link, args, { env, cwd: '/' });
    assert.equal(await ended, 2);
    assert.match(stderr(), new RegExp(`no API answers at http://127.0.0.1:${port};`));
  }
  for (const args of [['audit'], ['capture', join(host.folder(), 'x')]]) {
    const { ended, stderr } = startProgram(link, args, { env, cwd: '/' });
    assert.equal(await ended, 2);
    assert.match(stderr(), new RegExp(`no NATS server answers.*:${port + 1}`));
  }
});

test('audit: clean, then a duplicate, then a gap', async () => {
  await using bench = await createBench();
  const { events, natsUrl } = bench;
  const audit = async (...args: string[]) => {
    const result = await runCommand(['audit', '--nats', natsUrl, '-o', 'json', ...args]);
    return {
      ...result,
      report: JSON.parse(result.stdout) as {
        nodes: { node: string; events: number; duplicates: number; gapNumbers: number; lost: object }[];
      },
    };
  };
  assert.equal((await audit()).code, 2, 'nothing to audit is no proof');
  for (let batch = 1; batch <= 20; batch++) await enrich(events, sampleBatch('a', 'x', batch, batch * 10 - 9, 10));
  const loss = { reason: LossReason.LOSS_REASON_RING_FULL, count: 5, firstSequence: 201, lastSequence: 205 };
  await events.publish({
    subject: eventSubject(Kind.KIND_LOSS, '_host', 'a'),
    payload: encodeBatch({ node: 'a', boot: 'x', batch: 21, events: [{ kind: Kind.KIND_LOSS, sequence: 206, loss }] }),
    messageId: 'loss',
  });
  const clean = await audit('--from', '1h');
  assert.equal(clean.code, 0, clean.stdout);
  assert.deepEqual(
    clean.report.nodes.map(({ node, events: count, lost }) => [node, count, lost]),
    [['a', 201, { ring_full: 5 }]],
  );
  assert.match((await runCommand(['audit', '--nats', natsUrl])).stdout, /^clean {2}a\n/);
  assert.equal((await audit('--node', 'other')).code, 2);

  await enrich(events, { ...sampleBatch('a', 'x', 20, 191, 10), boot: 'again' });
  const doubled = await audit();
  assert.deepEqual([doubled.code, doubled.report.nodes[0]!.duplicates], [1, 10]);

  await enrich(events, sampleBatch('b', 'y', 1, 1, 10));
  await enrich(events, sampleBatch('b', 'y', 2, 14, 10));
  await enrich(events, sampleBatch('b', 'y', 3, 24, 1));
  const broken = await runCommand(['audit', '--nats', natsUrl, '--node', 'b']);
  assert.equal(broken.code, 1);
  assert.match(broken.stdout, /NOT CLEAN {2}b\n.*gaps {8}3 number\(s\) that no loss covers\n {14}11\.\.13\n/s);
});

test('audit: a window that begins and ends amid batches is clean', async () => {
  await using bench = await createBench();
  for (let batch = 1; batch <= 6; batch++) await enrich(bench.events, sampleBatch('a', 'x', batch, batch * 10 - 9, 10));
  // The second message of batch 2, and the first one of batch 5.
  const times = (await readStream(bench.nc, STREAMS.events.name)).map(message => Math.floor(message.timeNs / 1e6));
  const window = ['--from', new Date(times[3]!).toISOString(), '--to', new Date(Math.max(times[8]!, times[3]! + 1)).toISOString()];
  const { code, stdout } = await runCommand(['audit', '--nats', bench.natsUrl, ...window]);
  assert.equal(code, 0, stdout);
});

test('what is captured is played again under another name, marked as recorded, with every event', async () => {
  await using bench = await createBench();
  const { host, raw, nc, natsUrl } = bench;
  const file = join(host.folder(), 'a.tgcap');
  const capture = startCommand(['capture', '--nats', natsUrl, '--events', '100', file]);
  await waitFor(() => capture.stderr().includes('recording'), { what: 'the recording to begin' });
  for (let batch = 1; batch <= 12; batch++) await raw.publish(rawMessage(sampleBatch('a', 'x', batch, batch * 10 - 9, 10)));
  assert.equal(await capture.ended, 0, capture.stderr());
  assert.match(capture.stdout(), /100 events in 10 batches/);
  assert.equal((await runCommand(['capture', '--nats', natsUrl, '--events', '1', file])).code, 2, 'an existing file is kept');

  const startMs = Date.now();
  const played = await runCommand(['play', '--nats', natsUrl, '--speed', 'max', file]);
  assert.equal(played.code, 0, played.stderr);
  const batches = (await readStream(nc, STREAMS.raw.name, ['tidegate.raw.a-recorded'])).map(message => decodeBatch(message.data));
  assert.deepEqual(
    batches.map(batch => [batch.node, batch.batch, batch.recorded, batch.events.length]),
    Array.from({ length: 10 }, (_, i) => ['a-recorded', i + 1, true, 10]),
  );
  assert.deepEqual(
    batches.flatMap(batch => batch.events.map(event => event.sequence)),
    Array.from({ length: 100 }, (_, i) => i + 1),
  );
  assert.ok(batches.every(batch => batch.boot !== 'x' && batch.boot === batches[0]!.boot));
  const eventMs = Number(batches.at(-1)!.wallOffsetNs) / 1e6;
  assert.ok(eventMs > startMs - 5_000 && eventMs < Date.now() + 5_000, 'times are moved to now');
});

test('a damaged capture is refused before anything of it is played', async () => {
  await using bench = await createBench();
  const { host, nc, natsUrl } = bench;
  const file = join(host.folder(), 'a.tgcap');
  const { createCapture } = await import('../src/capture-file.ts');
  const { captureEntry } = await import('./sample-batches.ts');
  const writer = await createCapture(file, { recordedAt: new Date().toISOString(), tidegate: '0.1.0' });
  await writer.write(captureEntry(sampleBatch('a', 'x', 1, 1, 10), new Date()), 10);
  await writer.write({ ...captureEntry(sampleBatch('a', 'x', 2, 11, 10), new Date()), payload: Buffer.from([0xff, 0xff]) }, 10);
  await writer.close();
  const { code, stderr } = await runCommand(['play', '--nats', natsUrl, file]);
  assert.equal(code, 2);
  assert.match(stderr, /CAPTURE_CORRUPT/);
  assert.deepEqual(await readStream(nc, STREAMS.raw.name), []);
});

test('events: history, filters and formats', async () => {
  await using bench = await createBench();
  const { url } = await startApi(bench, await freePorts(1));
  for (let batch = 1; batch <= 3; batch++)
    await enrich(bench.events, sampleBatch('a', 'x', batch, batch * 10 - 9, 10, { arguments: ['ls', '\u001b[2J'] }));
  const events = (...args: string[]) => runCommand(['events', '--api', url, '--no-follow', '--since', '1h', ...args]);
  const all = await events('-o', 'ndjson');
  const parsed = all.stdout
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as EventJson);
  assert.equal(parsed.length, 30);
  assert.ok(!all.stdout.includes('\u001b'));
  assert.equal(parsed[0]!.process?.arguments[1], '\u001b[2J');
  const compact = await events('--kind', 'exec', '--pid', '1002');
  assert.equal(compact.stdout.trimEnd().split('\n').length, 5);
  assert.match(compact.stdout, /exec {4}_host\/a {2}bash\(231\) → \/usr\/bin\/ls \$'\\e\[2J'/);
  assert.match((await events('-o', 'json', '--kind', 'exit', '--pid', '1003')).stdout, /^\{\n {2}"id": "c1:a:22"/);
  assert.equal((await events('-n', 'shop')).stdout, '');
  assert.equal((await events('--exec-id', execId('a', 21_000_000, 1003))).stdout.trimEnd().split('\n').length, 10);
});

test('events: follows over a killed API without a gap or a repetition, and Ctrl-C is a good end', async () => {
  await using bench = await createBench();
  const port = await freePorts(1);
  const first = await startApi(bench, port);
  const follow = startCommand(['events', '--api', first.url, '--since', '1h', '-o', 'ndjson']);
  bench.host.defer(() => void follow.child.kill('SIGKILL'));
  const ids = () =>
    follow
      .stdout()
      .split('\n')
      .slice(0, -1)
      .map(line => (JSON.parse(line) as EventJson).sequence);
  const publish = async (from: number, to: number) => {
    for (let batch = from; batch <= to; batch++) await enrich(bench.events, sampleBatch('a', 'x', batch, batch * 10 - 9, 10));
  };
  await publish(1, 10);
  await waitFor(() => ids().length === 100, { what: 'the first events' });
  first.child.kill('SIGKILL');
  await waitFor(() => follow.stderr().includes('connecting again'), { what: 'the lost connection' });
  await publish(11, 20);
  await startApi(bench, port);
  await publish(21, 30);
  await waitFor(() => ids().length >= 300, { what: 'the events after it', timeoutMs: 30_000 });
  assert.deepEqual(
    ids().toSorted((a, b) => a - b),
    Array.from({ length: 300 }, (_, i) => i + 1),
  );
  follow.child.kill('SIGINT');
  assert.equal(await follow.ended, 0);
});

test('events: filters leave out what has a ! before it, and a limit ends it', async () => {
  await using bench = await createBench();
  const { url } = await startApi(bench, await freePorts(1));
  for (let batch = 1; batch <= 150; batch++) await enrich(bench.events, sampleBatch('a', 'x', batch, batch * 10 - 9, 10));
  const numbers = async (...args: string[]) => {
    const { code, stdout, stderr } = await runCommand(['events', '--api', url, '-o', 'ndjson', ...args]);
    assert.equal(code, 0, stderr);
    return stdout
      .split('\n')
      .slice(0, -1)
      .map(line => (JSON.parse(line) as EventJson).sequence);
  };
  const range = (first: number, count: number, step = 1) => Array.from({ length: count }, (_, i) => first + i * step);
  assert.deepEqual(await numbers('--no-follow', '--limit', '20'), range(1481, 20), 'the newest, as they happened');
  assert.deepEqual(await numbers('--no-follow', '--limit', '1200'), range(301, 1200));
  assert.deepEqual(await numbers('--no-follow', '--limit', '5000'), range(1, 1500));
  assert.deepEqual(await numbers('--no-follow', '--kind', '!exec', '--limit', '5'), range(1492, 5, 2));
  assert.deepEqual(await numbers('--no-follow', '--binary', '!/usr/bin/*'), []);
  assert.deepEqual(await numbers('--no-follow', '--pid', '!1150', '--container', '!web', '--limit', '3'), range(1488, 3));
  assert.deepEqual(await numbers('--no-follow', '--entered', 'exec,debug'), []);
  assert.deepEqual(await numbers('--no-follow', '--entered', '!probe', '--limit', '3'), range(1498, 3));
  assert.deepEqual(await numbers('--since', '1h', '--kind', '!exit', '--limit', '15'), range(1, 15, 2), 'the first when following');
  const { code, stderr } = await runCommand([
    'events',
    '--api',
    url,
    '--kind',
    '!dance',
    '--pid',
    '!0',
    '--container',
    'web,!',
    '--entered',
    'exec,yes',
    '--limit',
    '0',
  ]);
  assert.equal(code, 2);
  for (const field of ['--kind', '--pid', '--container', '--entered', '--limit'])
    assert.match(stderr, new RegExp(`${field}: expected .*, got `));
});

test('events: a reader that goes away ends it quietly', async () => {
  await using bench = await createBench();
  const { url } = await startApi(bench, await freePorts(1));
  for (let batch = 1; batch <= 200; batch++) await enrich(bench.events, sampleBatch('a', 'x', batch, batch * 10 - 9, 10));
  const command = startCommand(['events', '--api', url, '--since', '1h']);
  command.child.stdout!.once('data', () => command.child.stdout!.destroy());
  assert.equal(await command.ended, 0);
  assert.equal(command.stderr(), '');
});

test('tree: by exec_id and by pid, with what it started', async () => {
  await using bench = await createBench();
  const { url } = await startApi(bench, await freePorts(1));
  await enrich(bench.events, sampleBatch('a', 'x', 1, 1, 2));
  for (const argument of ['1001', execId('a', 1_000_000, 1001)]) {
    const { code, stdout, stderr } = await runCommand(['tree', '--api', url, argument]);
    assert.equal(code, 0, stderr);
    assert.match(
      stdout,
      /^node a\ninit\(1\) \/sbin\/init\n└─ bash\(231\) \/usr\/bin\/bash\n {3}└─ ls\(1001\) \/usr\/bin\/ls -la \/tmp \(uid 0\) {3}\[code 0 after 2\.0 ms\]\n/,
    );
  }
  const unknown = await runCommand(['tree', '--api', url, '4000000']);
  assert.deepEqual([unknown.code, /no process with this pid/.test(unknown.stderr)], [2, true]);
});

test('node: lists nodes, removes one that is silent, and says why it does not remove others', { timeout: 60_000 }, async () => {
  await using bench = await createBench();
  const { url } = await startApi(bench, await freePorts(1));
  const buckets = await createBuckets({ nc: bench.nc, logger: testLogger() });
  const time = new Date().toISOString();
  const spool = { bytes: 0, batches: 0, maxBytes: 0 };
  const counts = { events: 9, lastSequence: 1_234, lost: {}, spool, hooks: [], recorded: false };
  const status = { node: 'old', boot: 'b', version: '1', kernel: '6', startedAt: time, reportedAt: time, ...counts };
  await buckets.open(BUCKETS.sensors, sensorStatusCodec).put(nodeKey('old'), status);

  const list = await runCommand(['node', 'list', '--api', url]);
  assert.deepEqual([list.code, list.stdout.trimEnd()], [0, 'old  up        1,234 events']);
  const busy = await runCommand(['node', 'remove', 'old', '--api', url]);
  assert.equal(busy.code, 2);
  assert.match(busy.stderr, /the sensor of this node reported at .*409 NODE_REPORTING/);
  const unknown = await runCommand(['node', 'remove', 'no such/node', '--api', url]);
  assert.equal(unknown.code, 2);
  assert.match(unknown.stderr, /no node no such\/node is known .*404 NODE_NOT_FOUND/);
  const wrong = await runCommand(['node', 'remove', '--nonsense', '--api', 'x']);
  assert.equal(wrong.code, 2);
  for (const field of ['--nonsense', '<name>', '--api']) assert.match(wrong.stderr, new RegExp(`${field}[,:] expected .*, got `));

  const removed = await waitFor(
    async () => {
      const done = await runCommand(['node', 'remove', 'old', '--api', url]);
      return done.code === 0 && done;
    },
    { what: 'the node to be silent', timeoutMs: 30_000 },
  );
  assert.equal(removed.stdout, 'old has left; a node of this name would go on behind number 1234\n');
  assert.equal((await runCommand(['node', 'list', '--api', url])).stdout, '');
  const all = JSON.parse((await runCommand(['node', 'list', '--all', '--api', url, '-o', 'json'])).stdout) as {
    node: string;
    state: string;
  }[];
  assert.deepEqual(
    all.map(({ node, state }) => [node, state]),
    [['old', 'left']],
  );
  assert.match((await runCommand(['status', '--api', url])).stdout, /no sensor has reported/);
});

test('status tells how many hours the configured bytes hold', () => {
  assert.equal(holdsText(16 * 1024 ** 3, 40 * 3_600), 'at this rate 16.0 GiB hold 40 h, 1 GiB 2.5 h');
  assert.equal(holdsText(16 * 1024 ** 3, 600), 'at this rate 16.0 GiB hold 10 min 0 s, 1 GiB 37.5 s');
});

test('status sums up the sensors of many nodes, and lists those with which something is amiss', async () => {
  await using bench = await createBench();
  const { url } = await startApi(bench, await freePorts(1));
  const buckets = await createBuckets({ nc: bench.nc, logger: testLogger() });
  const sensors = buckets.open(BUCKETS.sensors, sensorStatusCodec);
  const time = new Date().toISOString();
  const spool = { bytes: 0, batches: 0, maxBytes: 0 };
  const sensor = { boot: 'b', version: '1', kernel: '6', startedAt: time, reportedAt: time, events: 10, lastSequence: 10, recorded: false };
  const hook = { hook: 'sched_process_exec', program: 'p', attached: true };
  const amiss: Record<string, Partial<SensorStatus>> = {
    'node-3': { lost: { ring_full: 7 } },
    'node-4': { hooks: [{ ...hook, attached: false, error: 'EPERM' }] },
    'node-5': { spool: { bytes: 10, batches: 2, maxBytes: 100 } },
  };
  for (let i = 0; i < 60; i++) {
    const node = `node-${i}`;
    await sensors.put(nodeKey(node), { ...sensor, node, lost: {}, spool, hooks: [hook], ...amiss[node] });
  }
  buckets.close();
  const { stdout } = await runCommand(['status', '--api', url]);
  assert.match(stdout, /^ {2}57 up with all hooks, events 570, lost 0, not yet enriched 0$/m);
  assert.deepEqual(
    [...stdout.matchAll(/^ {2}(node-\d+) {2}up for/gm)].map(([, node]) => node),
    Object.keys(amiss),
  );
});

test('status: 1 and the reasons when something is wrong', async () => {
  await using bench = await createBench();
  const { url } = await startApi(bench, await freePorts(1));
  const { code, stdout } = await runCommand(['status', '--api', url]);
  assert.equal(code, 1);
  assert.match(stdout, /! no sensor has reported/);
  assert.match(stdout, /EVENTS/);
  const json = await runCommand(['status', '--api', url, '-o', 'json']);
  assert.ok((JSON.parse(json.stdout) as { problems: string[] }).problems.length > 0);
});
