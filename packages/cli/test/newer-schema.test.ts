/** Sensors of a later version: what they send goes through an enricher, the stream, and every reader of this version. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  BUCKETS,
  CLUSTER_KEY,
  clusterSettingCodec,
  decodeBatch,
  nodeKey,
  sensorStatusCodec,
  STREAMS,
  type EventJson,
} from '@tidegate/contracts';
import { only, openEvents, Order } from '@tidegate/events';
import { configuredCluster, connectNats, createBuckets, createPublisher, ensureBuckets, ensureStreams } from '@tidegate/runtime';
import { createHost, startNatsServer, waitFor } from '@tidegate/testkit';
import protobuf from 'protobufjs';
import { cleanEnvironment, freePorts, REPOSITORY, runCommand } from './command-runner.ts';
import { rawMessage, sampleBatch } from './sample-batches.ts';

/** Fields beyond those of this version, wherever one may be added; their numbers are far from the next free ones. */
const NEWER: readonly (readonly [RegExp, string])[] = [
  [/reserved \d+ to 47;/, 'repeated NewerTable newer_files = 46; repeated NewerTable newer_hooks = 47; string newer_kernel = 900;'],
  [/KIND_UNSPECIFIED = 0;/, '$& KIND_NEWER = 900; KIND_LAST = 1023;'],
  [/oneof detail {/, '$& Newer newer = 910; Newer last = 1033;'],
  [/message Event {/, '$& uint32 newer_file = 800; string newer_note = 2000;'],
  [/message Process {/, '$& uint32 newer_file = 900; repeated uint64 newer_numbers = 1000;'],
  [/message Exec {/, 'message NewerTable { uint32 id = 1; bytes value = 2; }\nmessage Newer { string name = 1; }\n$& string newer = 900;'],
];

function newerBatch(): protobuf.Type {
  let proto = readFileSync(join(REPOSITORY, 'packages/contracts/proto/tidegate/v1/events.proto'), 'utf8');
  for (const [known, newer] of NEWER) {
    assert.match(proto, known);
    proto = proto.replace(known, newer);
  }
  return protobuf.parse(proto).root.lookupType('tidegate.v1.EventBatch');
}

const NODE = 'a';
const EVENTS = 10;

/** A batch of this version, and the same with everything of a newer one added; its last two events are of new kinds. */
function batches(EventBatch: protobuf.Type, batch: number, first: number, tableBytes: number) {
  const plain = sampleBatch(NODE, 'x', batch, first, EVENTS);
  const content = EventBatch.toObject(EventBatch.decode(plain.payload)) as Record<string, Record<string, unknown>[]>;
  for (const process of content['processes']!) Object.assign(process, { newerFile: 1, newerNumbers: [1, 2 ** 52] });
  for (const event of content['events']!)
    Object.assign(event, { newerFile: 1, newerNote: 'n'.repeat(50), ...(event['exec'] ? { exec: { ...event['exec'], newer: 'x' } } : {}) });
  const common = content['events']!.at(-1)!;
  const ofKind = (kind: number, i: number, detail: object) => ({
    kind,
    process: common['process'],
    sequence: first + i,
    ktimeNs: common['ktimeNs'],
    newerFile: 1,
    ...detail,
  });
  content['events']!.splice(
    -2,
    2,
    ofKind(900, EVENTS - 2, { newer: { name: 'example.com' } }),
    ofKind(1023, EVENTS - 1, { last: { name: 'last' } }),
  );
  const value = Buffer.alloc(tableBytes, 7);
  Object.assign(content, {
    newerFiles: [{ id: 1, value }, { id: 2 }],
    newerHooks: [{ id: 1, value: Buffer.from('hook') }],
    newerKernel: '9.9',
  });
  return { plain, newer: { ...plain, payload: EventBatch.encode(EventBatch.fromObject(content)).finish() } };
}

test(
  'a newer schema: what is known stays exact, unknown kinds pass and are shown, tables that are too large are left out and counted',
  { timeout: 120_000 },
  async () => {
    await using host = createHost();
    const server = await startNatsServer();
    host.defer(() => server.stop());
    const nc = await connectNats({ url: server.url, name: 'test', logger: host.logger });
    host.defer(() => nc.close());
    await ensureStreams(nc, Object.values(STREAMS));
    await ensureBuckets(nc, Object.values(BUCKETS));
    const buckets = await createBuckets({ nc, logger: host.logger });
    host.defer(() => buckets.close());
    await buckets.open(BUCKETS.settings, clusterSettingCodec).put(CLUSTER_KEY, configuredCluster('c1'));
    const time = new Date().toISOString();
    await buckets.open(BUCKETS.sensors, sensorStatusCodec).put(nodeKey(NODE), {
      ...{ node: NODE, boot: 'x', version: '9', kernel: '9', startedAt: time, reportedAt: time },
      ...{ events: 0, lastSequence: 0, lost: {}, spool: { bytes: 0, batches: 0, maxBytes: 0 }, hooks: [], recorded: false },
    });
    const ports = await freePorts(2);
    const [apiUrl, enricherUrl] = [ports, ports + 1].map(port => `http://127.0.0.1:${port}`);
    const common = { TIDEGATE_NATS_URL: server.url, TIDEGATE_LOG_LEVEL: 'silent' };
    for (const [service, env] of [
      ['enricher', { TIDEGATE_HEALTH_PORT: String(ports + 1) }],
      ['api', { TIDEGATE_API_PORT: String(ports) }],
    ] as const)
      host.spawn(process.execPath, [join(REPOSITORY, `services/${service}/dist/main.js`)], {
        env: cleanEnvironment({ ...common, ...env }),
        stdio: 'ignore',
      });
    await waitFor(async () => (await fetch(`${apiUrl}/readyz`)).ok && (await fetch(`${enricherUrl}/readyz`)).ok, { what: 'the services' });

    const EventBatch = newerBatch();
    const small = batches(EventBatch, 1, 1, 1_000);
    const large = batches(EventBatch, 2, 1 + EVENTS, 100_000);
    const raw = createPublisher(nc, { stream: STREAMS.raw.name, logger: host.logger });
    host.defer(() => raw.close());
    for (const { newer } of [small, large]) await raw.publish(rawMessage(newer));

    const events = await openEvents(nc, { logger: host.logger });
    host.defer(() => events.close());
    const list = async () => ((await (await fetch(`${apiUrl}/api/v1/events?order=oldest`)).json()) as { events: EventJson[] }).events;
    await waitFor(async () => (await list()).length >= 2 * EVENTS, { what: 'all events' });
    const consumed: EventJson[] = [];
    const payloads: { batch: number; payload: Uint8Array }[] = [];
    for await (const batch of events.consume({ from: 'beginning', follow: false })) {
      consumed.push(...batch.events());
      for (const payload of new Set(batch.places().map(({ message }) => message.payload)))
        payloads.push({ batch: decodeBatch(payload).batch, payload });
    }
    // packages/events: in order, the known ones as if an old sensor had sent them.
    assert.deepEqual(
      consumed.map(({ id }) => id),
      Array.from({ length: 2 * EVENTS }, (_, i) => `c1:${NODE}:${i + 1}`),
    );
    for (const [i, { kind, ...event }] of consumed.entries()) {
      const at = i % EVENTS;
      assert.equal(kind, at === 8 ? 'kind-900' : at === 9 ? 'kind-1023' : at % 2 === 0 ? 'exec' : 'exit');
      assert.equal(event.process!.binary, '/usr/bin/ls');
      assert.equal(event.ancestors![0]!.binary, '/sbin/init');
      if (kind === 'exec') assert.equal(event.exec!.raw_path, 'ls');
      if (kind === 'exit') assert.equal(event.exit!.duration_ns, '2000000');
    }
    // A reader of the newer version gets back what its sensor wrote, in each of the messages.
    for (const { batch, payload } of payloads) {
      const content = EventBatch.toObject(EventBatch.decode(payload)) as Record<
        string,
        { id: number; value?: Uint8Array; newerFile: number }[]
      >;
      assert.equal(String(content['newerKernel']), '9.9');
      for (const entry of [...content['events']!, ...content['processes']!]) assert.equal(entry.newerFile, 1);
      assert.deepEqual(
        content['newerFiles']?.map(({ id, value }) => [id, value?.length ?? 0]),
        batch === 1
          ? [
              [1, 1_000],
              [2, 0],
            ]
          : undefined,
      );
      assert.equal(content['newerHooks']?.length, batch === 1 ? 1 : undefined);
    }
    const metrics = await (await fetch(`${enricherUrl}/metrics`)).text();
    const dropped = Number(/^tidegate_enricher_dropped_table_bytes_total (\d+)$/m.exec(metrics)?.[1]);
    assert.ok(dropped > 100_000 && dropped < 100_100, String(dropped));

    // The API and the command line say the same, and an unknown kind can be asked for.
    const listed = await list();
    assert.deepEqual(listed, JSON.parse(JSON.stringify(consumed)));
    const cli = async (...args: string[]) => runCommand(['events', '--api', apiUrl!, '--no-follow', '--since', '1h', ...args]);
    const lines = (await cli('-o', 'ndjson')).stdout.trimEnd().split('\n');
    assert.deepEqual(
      lines.map(line => JSON.parse(line) as EventJson),
      listed,
    );
    const compact = await cli('--kind', 'kind-1023');
    assert.equal(compact.code, 0, compact.stderr);
    assert.equal(compact.stdout.trimEnd().split('\n').length, 2);
    assert.match(compact.stdout, /kind-1023 +_host\/a {2}.*ls/);
    const query = await events.history.resolve(Order.newest, { kind: only('kind-900') }, 0);
    assert.equal((await events.history.page(query, 10, new AbortController().signal)).events.length, 2);
    const audit = await runCommand(['audit', '--nats', server.url]);
    assert.equal(audit.code, 0, audit.stdout + audit.stderr);
    assert.equal((await fetch(`${apiUrl}/api/v1/status`)).status, 200);
  },
);
