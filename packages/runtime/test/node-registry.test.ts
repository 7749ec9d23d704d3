import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  BUCKETS,
  RemovedBy,
  clusterNodeCodec,
  leftNodeKey,
  nodeKey,
  sensorStatusCodec,
  type ClusterNode,
  type SensorStatus,
} from '@tidegate/contracts';
import { createHost, startNatsServer, testLogger } from '@tidegate/testkit';
import { createBuckets, type Bucket } from '../src/bucket.ts';
import { connectNats } from '../src/nats.ts';
import { SENSOR_SILENT_MS, createNodeRegistry, type NodeRegistry } from '../src/node-registry.ts';
import { ensureBuckets } from '../src/stream-setup.ts';

interface Scene {
  registry: NodeRegistry;
  sensors: Bucket<SensorStatus>;
  clusterNodes: Bucket<ClusterNode>;
  [Symbol.asyncDispose](): Promise<void>;
}

async function setScene(): Promise<Scene> {
  const host = createHost();
  const server = await startNatsServer();
  host.defer(() => server.stop());
  const nc = await connectNats({ url: server.url, name: 'test', logger: testLogger() });
  host.defer(() => nc.close());
  await ensureBuckets(nc, [BUCKETS.sensors, BUCKETS.nodes]);
  const buckets = await createBuckets({ nc, logger: testLogger() });
  host.defer(async () => buckets.close());
  return {
    registry: createNodeRegistry(buckets),
    sensors: buckets.open(BUCKETS.sensors, sensorStatusCodec),
    clusterNodes: buckets.open(BUCKETS.nodes, clusterNodeCodec),
    [Symbol.asyncDispose]: () => host[Symbol.asyncDispose](),
  };
}

function status(node: string, boot: string, lastSequence: number): SensorStatus {
  const time = new Date().toISOString();
  const spool = { bytes: 0, batches: 0, maxBytes: 1 };
  return {
    node,
    boot,
    version: '1',
    kernel: '6',
    startedAt: time,
    reportedAt: time,
    hooks: [],
    events: 1,
    lastSequence,
    lost: {},
    spool,
    recorded: false,
  };
}

const clusterNode = (name: string): ClusterNode => ({
  name,
  addresses: [],
  labels: {},
  architecture: '',
  osImage: '',
  kernelVersion: '',
  kubeletVersion: '',
  containerRuntimeVersion: '',
});

const states = (nodes: Awaited<ReturnType<NodeRegistry['list']>>) =>
  nodes.map(({ node, sensor, cluster, left, isSilent }) =>
    [node, sensor && 'sensor', isSilent && 'silent', cluster && 'cluster', left && `left ${left.lastSequence}`].filter(Boolean).join(' '),
  );

test('nodes are those that report and those of the cluster; one that leaves keeps its last number, over any number of lives', async () => {
  await using scene = await setScene();
  const { registry, sensors, clusterNodes } = scene;
  await sensors.put(nodeKey('a.example'), status('a.example', 'boot-1', 100));
  await clusterNodes.put(nodeKey('b'), clusterNode('b'));
  assert.deepEqual(states(await registry.list()), ['a.example sensor', 'b cluster']);

  const left = await registry.remove('a.example', RemovedBy.administrator);
  assert.deepEqual([left?.lastSequence, left?.boot, left?.removedBy], [100, 'boot-1', 'administrator']);
  assert.equal((await sensors.get(nodeKey('a.example'))).value, undefined);
  assert.deepEqual(states(await registry.list()), ['b cluster']);
  assert.deepEqual(states(await registry.list({ all: true })), ['a.example left 100', 'b cluster']);
  assert.equal((await registry.remove('a.example', RemovedBy.kubernetes))?.removedBy, 'administrator', 'it has left already');
  assert.equal(await registry.remove('b', RemovedBy.kubernetes), undefined, 'no sensor, nothing to keep');
  assert.equal(await registry.find('c'), undefined);

  // Another machine of that name; a number that was known once is never forgotten.
  await sensors.put(nodeKey('a.example'), status('a.example', 'boot-2', 7));
  assert.deepEqual(states(await registry.list({ all: true })), ['a.example sensor', 'b cluster']);
  assert.equal((await registry.remove('a.example', RemovedBy.kubernetes))?.lastSequence, 100);
});

test('a sensor that still runs when its node leaves is there until it is silent, and then no problem of anyone', async t => {
  await using scene = await setScene();
  const { registry, sensors } = scene;
  const own = status('a', 'boot-1', 100);
  await sensors.put(nodeKey('a'), own);
  await registry.remove('a', RemovedBy.kubernetes);
  await sensors.put(nodeKey('a'), { ...own, lastSequence: 120 });
  assert.deepEqual(states(await registry.list()), ['a sensor']);
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() + SENSOR_SILENT_MS + 1_000 });
  assert.deepEqual(states(await registry.list()), []);
  assert.equal((await registry.remove('a', RemovedBy.kubernetes))?.lastSequence, 120);
  // A new one that falls silent is missed.
  t.mock.timers.reset();
  await sensors.put(nodeKey('a'), status('a', 'boot-2', 130));
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() + SENSOR_SILENT_MS + 1_000 });
  assert.deepEqual(states(await registry.list()), ['a sensor silent']);
});

test('whoever removes a node while its sensor reports loses no number', async () => {
  await using scene = await setScene();
  const { registry, sensors } = scene;
  await sensors.put(nodeKey('a'), status('a', 'boot-1', 1));
  let last = 1;
  const reporting = (async () => {
    for (last = 2; last <= 200; last++) await sensors.put(nodeKey('a'), status('a', 'boot-1', last));
  })();
  const removed = await Promise.all(Array.from({ length: 3 }, () => registry.remove('a', RemovedBy.administrator).catch(() => undefined)));
  await reporting;
  await registry.remove('a', RemovedBy.administrator);
  assert.ok(removed.length === 3);
  assert.equal((await registry.find('a'))?.left?.lastSequence, 200);
  assert.equal(leftNodeKey('a'), 'left.a');
});
