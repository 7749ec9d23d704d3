import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BUCKETS, STREAMS } from '@tidegate/contracts';
import { jetstream } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { createHost, startNatsServer, testLogger, type Host, type TestNatsServer } from '@tidegate/testkit';
import { hasErrorCode } from '../src/errors.ts';
import { NatsRole, roleInboxPrefix, rolePermissions } from '../src/nats-permissions.ts';
import { connectNats } from '../src/nats.ts';
import { createPublisher } from '../src/publisher.ts';
import { ensureBuckets, ensureStreams } from '../src/stream-setup.ts';

const logger = testLogger();
const node = 'node-1.example';
const users = Object.values(NatsRole).map(role => ({
  user: role,
  password: `${role}-password`,
  permissions: rolePermissions(role, role === 'sensor' ? node : undefined),
}));

async function connectAs(host: Host, server: TestNatsServer, role: NatsRole) {
  const nc = await connectNats({
    url: server.url,
    name: role,
    user: role,
    password: `${role}-password`,
    inboxPrefix: roleInboxPrefix(role, role === 'sensor' ? node : undefined),
    logger,
  });
  host.defer(() => nc.close());
  return nc;
}

for (const version of ['new', 'debian'] as const) {
  test(`${version} server: each role can do its work and no other`, async () => {
    await using host = createHost();
    await using server = await startNatsServer({ version, users });
    const admin = await connectAs(host, server, 'admin');
    await ensureStreams(admin, Object.values(STREAMS));
    await ensureBuckets(admin, Object.values(BUCKETS));

    const sensor = await connectAs(host, server, 'sensor');
    const publisher = createPublisher(sensor, { stream: 'RAW', logger });
    const message = (subject: string) => ({ subject, payload: Buffer.from('x'), messageId: subject });
    assert.equal((await publisher.publish(message('tidegate.raw.node-1_example'))).sequence, 1);
    await assert.rejects(publisher.publish(message('tidegate.raw.node-2')), error => hasErrorCode(error, 'PUBLISH_DENIED'));
    await assert.rejects((await new Kvm(sensor).open(BUCKETS.pods.name)).get('n1.uid'), 'a sensor reads no bucket');
    const statusOf = (token: string) => sensor.request(`$JS.API.DIRECT.GET.KV_sensors.$KV.sensors.${token}`, undefined, { timeout: 500 });
    assert.equal((await statusOf('node-1_example')).headers?.code, 404);
    await assert.rejects(statusOf('node-2'), "a sensor reads no other sensor's state");
    const leftOf = (token: string) => sensor.request(`$JS.API.DIRECT.GET.KV_nodes.$KV.nodes.left.${token}`, undefined, { timeout: 500 });
    assert.equal((await leftOf('node-1_example')).headers?.code, 404);
    await assert.rejects(leftOf('node-2'), 'nor what another node left');
    await publisher.close();

    const enricher = await connectAs(host, server, 'enricher');
    const events = createPublisher(enricher, { stream: 'EVENTS', logger });
    assert.equal((await events.publish(message('tidegate.events.exec._host.n1'))).sequence, 1);
    await assert.rejects(events.publish(message('tidegate.raw.node-1_example')), error => hasErrorCode(error, 'PUBLISH_DENIED'));
    await events.close();
    const manager = await jetstream(enricher).jetstreamManager();
    await manager.consumers.add('RAW', {
      durable_name: 'enricher-n1',
      ack_policy: 'explicit',
      filter_subject: 'tidegate.raw.node-1_example',
    });
    const consumer = await jetstream(enricher).consumers.get('RAW', 'enricher-n1');
    const received = await consumer.next({ expires: 5_000 });
    assert.equal(received?.seq, 1);
    assert.equal(await received?.ackAck(), true);
    await new Kvm(enricher).open(BUCKETS.pods.name).then(async pods => (await pods.watch()).stop());

    const gateway = await connectAs(host, server, 'gateway');
    await (await new Kvm(gateway).open(BUCKETS.pods.name)).put('n1.uid', 'x');
    const api = await connectAs(host, server, 'api');
    assert.equal((await (await new Kvm(api).open(BUCKETS.pods.name)).get('n1.uid'))?.string(), 'x');
    await assert.rejects((await new Kvm(api).open(BUCKETS.pods.name)).put('n1.uid', 'y', { timeout: 500 }), 'the API writes no pods');
  });
}
