import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { BUCKETS, gatewayKey, gatewayStatusCodec, type GatewayStatus } from '@tidegate/contracts';
import { createBuckets, ensureBuckets, rolePermissions } from '@tidegate/runtime';
import { connectAs, endChild, prepareCluster, startNatsServer, waitFor } from '@tidegate/testkit';
import type { V1Pod } from '@kubernetes/client-node';
import { LINGER_MS, podTemplate, startFixture, type Fixture, type GatewayProcess } from './fixture.ts';

const skip = (await prepareCluster('control-plane')) ?? false;
/** Kinds that a gateway watches. */
const WATCHED_KINDS = 6;
const ADMIN = { user: 'admin', password: 'admin', permissions: rolePermissions('admin') };

describe('a gateway that something happens to', { skip }, () => {
  let fixture: Fixture;
  before(async () => {
    fixture = await startFixture();
  });
  after(() => fixture[Symbol.asyncDispose]());

  test('killed and started again: what went meanwhile lingers and goes, what came is there, nothing else is written', async () => {
    const { core } = fixture;
    const namespace = 'killed';
    await fixture.createNamespace(namespace);
    const pods = await Promise.all(['stays', 'goes'].map(name => createPod(fixture, namespace, name)));
    const [stays, goes] = [pods[0]!, pods[1]!];
    const first = await fixture.startGateway();
    await waitFor(async () => (await Promise.all(pods.map(pod => fixture.podEntry(pod)))).every(Boolean), { what: 'both pods' });

    await endChild(first.child);
    await core.deleteNamespacedPod({ name: 'goes', namespace });
    const comes = await createPod(fixture, namespace, 'comes');
    const second = await fixture.startGateway();
    await waitFor(() => fixture.podEntry(comes), { what: 'the new pod' });
    assert.ok(await fixture.podEntry(goes), 'late events of a pod that is gone still find it');
    assert.equal(await second.metric('entries_written_total'), 1);
    await waitFor(async () => (await fixture.podEntry(goes)) === undefined, { what: 'the gone pod to go', timeoutMs: LINGER_MS + 10_000 });
    assert.ok(await fixture.podEntry(stays));
    await stop(second.child);
  });

  test('two replicas: one leads and writes; asked to stop it hands over at once, killed it is followed within seconds', async () => {
    const namespace = 'replicas';
    await fixture.createNamespace(namespace);
    const a = await fixture.startGateway();
    const b = await fixture.startGateway({ leads: false });
    assert.equal(await b.isLeader(), false);
    await waitFor(() => createAndFind(fixture, namespace, 'one'), { what: 'the pod' });
    assert.equal(await b.metric('entries_written_total'), 0);

    await stop(a.child);
    await waitFor(() => b.isLeader(), { what: 'the other replica to lead', timeoutMs: 5_000 });
    await waitFor(() => createAndFind(fixture, namespace, 'two'), { what: 'the pod' });

    const c = await fixture.startGateway({ leads: false });
    await endChild(b.child);
    await createPod(fixture, namespace, 'three');
    await waitFor(() => c.isLeader(), { what: 'the last replica to lead', timeoutMs: 12_000 });
    await waitFor(async () => fixture.podEntry(await fixture.core.readNamespacedPod({ namespace, name: 'three' })), {
      what: 'the pod made while nobody led',
    });
    await stop(c.child);
  });

  test('a gateway of another installation says who holds the Lease, and takes over when that ends', async () => {
    const { cluster, host } = fixture;
    const [first, replica] = [await fixture.startGateway(), await fixture.startGateway({ leads: false })];
    const nats = await startNatsServer({
      users: [{ user: 'gateway', password: 'gateway', permissions: rolePermissions('gateway') }, ADMIN],
    });
    host.defer(() => nats.stop());
    const nc = await connectAs('admin', nats.url, host);
    await ensureBuckets(nc, Object.values(BUCKETS));
    const buckets = await createBuckets({ nc, logger: host.logger });
    host.defer(() => buckets.close());
    const reports = buckets.open(BUCKETS.gateways, gatewayStatusCodec);
    const report = async () => (await reports.get(gatewayKey(second.identity))).value;
    const reportOf = (isIt: (status: GatewayStatus) => boolean, what: string) =>
      waitFor(
        async () => {
          const status = await report();
          return status !== undefined && isIt(status) && status;
        },
        { what, timeoutMs: 30_000 },
      );
    const second = await fixture.startGateway({ env: { TIDEGATE_NATS_URL: nats.url }, leads: false });

    const waiting = await reportOf(({ holder }) => holder !== undefined, 'the holder');
    assert.deepEqual([waiting.leads, waiting.holder?.identity, waiting.faults], [false, first.identity, []]);
    assert.ok(Math.abs(Date.now() - Date.parse(waiting.holder!.since!)) < 60_000);
    const said = (gateway: GatewayProcess, text: string) =>
      gateway.log.filter(line => line.includes(text) && line.includes(first.identity));
    await waitFor(() => said(second, 'a gateway of another installation holds the Lease').length === 1, { what: 'the warning' });
    await waitFor(() => said(replica, 'another replica leads').length === 1, { what: "the replica's word" });

    await cluster.stopPart('kube-apiserver');
    const cut = await reportOf(({ faults }) => faults.length > 0, 'the fault');
    assert.match(cut.faults.join(), /ECONNREFUSED|ECONNRESET|socket hang up|aborted|terminated/);
    await cluster.startPart('kube-apiserver');
    await reportOf(({ faults }) => faults.length === 0, 'the fault to go');

    await Promise.all([stop(first.child), stop(replica.child)]);
    await reportOf(({ leads }) => leads, 'it to take over');
    await stop(second.child);
    assert.equal(await report(), undefined, 'who has ended takes its report back');
  });

  test('a replica that cannot reach the API server stops leading, and leads again', async () => {
    const { cluster } = fixture;
    const namespace = 'restarted';
    await fixture.createNamespace(namespace);
    const gateway = await fixture.startGateway();
    const pod = await createPod(fixture, namespace, 'before');
    await waitFor(() => fixture.podEntry(pod), { what: 'the pod' });
    await cluster.stopPart('kube-apiserver');
    await waitFor(async () => !(await gateway.isLeader()), { what: 'it to stop leading' });
    await cluster.startPart('kube-apiserver');
    await waitFor(() => createAndFind(fixture, namespace, 'after'), { what: 'a pod made after the restart', timeoutMs: 30_000 });
    assert.ok(await gateway.isLeader());
    assert.ok(await fixture.podEntry(pod));
    // A server that starts afresh has forgotten older places; then each kind is read once more, from its cache, and never again.
    assert.ok((await gateway.metric('lists_total')) <= 2 * WATCHED_KINDS, `${await gateway.metric('lists_total')} lists`);
    await stop(gateway.child);
  });

  test('a place in history that the API server has forgotten: everything is read again, and what was missed comes right', async () => {
    const { cluster, core } = fixture;
    const namespace = 'forgotten';
    await fixture.createNamespace(namespace);
    const gone = await createPod(fixture, namespace, 'gone');
    const gateway = await fixture.startGateway();
    await waitFor(() => fixture.podEntry(gone), { what: 'the pod' });
    const listsBefore = await gateway.metric('lists_total');

    // Stopped, it hears nothing; etcd then forgets the past and a new API server knows only what etcd does.
    gateway.child.kill('SIGSTOP');
    await core.deleteNamespacedPod({ name: 'gone', namespace });
    const came = await createPod(fixture, namespace, 'came');
    await compact(cluster.etcdUrl);
    await cluster.stopPart('kube-apiserver');
    await cluster.startPart('kube-apiserver');
    gateway.child.kill('SIGCONT');

    await waitFor(() => fixture.podEntry(came), { what: 'the pod that came', timeoutMs: 30_000 });
    await waitFor(async () => (await fixture.podEntry(gone)) === undefined, { what: 'the pod that went to go', timeoutMs: 30_000 });
    const lists = (await gateway.metric('lists_total')) - listsBefore;
    assert.ok(lists >= 1 && lists <= WATCHED_KINDS, `${lists} lists`);
    await stop(gateway.child);
  });

  test('nats-server killed: what changes meanwhile is in the buckets when it is back', async () => {
    const { nats, core } = fixture;
    const namespace = 'broker';
    await fixture.createNamespace(namespace);
    const gone = await createPod(fixture, namespace, 'gone');
    const gateway = await fixture.startGateway();
    await waitFor(() => fixture.podEntry(gone), { what: 'the pod' });
    await nats.kill();
    const came = await createPod(fixture, namespace, 'came');
    await core.deleteNamespacedPod({ name: 'gone', namespace });
    await nats.restart();
    await waitFor(() => fixture.podEntry(came), { what: 'the pod that came', timeoutMs: 30_000 });
    await waitFor(async () => (await fixture.podEntry(gone)) === undefined, { what: 'the pod that went to go', timeoutMs: 30_000 });
    await stop(gateway.child);
  });

  test('an entry that somebody else wrote is put right by the next leader', async () => {
    const { nc } = fixture;
    await nc.request(`$KV.${BUCKETS.pods.name}.node-x.not-a-pod`, 'nonsense');
    const gateway = await fixture.startGateway();
    await waitFor(async () => (await fixture.entry(BUCKETS.pods.name, 'node-x.not-a-pod')) === undefined, { what: 'the entry to go' });
    await stop(gateway.child);
  });
});

async function createPod({ core }: Fixture, namespace: string, name: string): Promise<V1Pod> {
  return core.createNamespacedPod({ namespace, body: { metadata: { name }, spec: podTemplate({}).spec! } });
}

/** Creates the pod unless it is there, and looks for its entry. */
async function createAndFind(fixture: Fixture, namespace: string, name: string): Promise<boolean> {
  const pod = await fixture.core.readNamespacedPod({ namespace, name }).catch(() => createPod(fixture, namespace, name));
  return (await fixture.podEntry(pod)) !== undefined;
}

async function stop(child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit') as Promise<[number | null]>;
  child.kill('SIGTERM');
  assert.deepEqual((await exited)[0], 0);
}

/** Through etcd's HTTP gateway: first where history is, then away with it. */
async function compact(etcdUrl: string): Promise<void> {
  const ask = async (path: string, body: object) => {
    const response = await fetch(`${etcdUrl}/v3/kv/${path}`, { method: 'POST', body: JSON.stringify(body) });
    assert.ok(response.ok, await response.clone().text());
    return (await response.json()) as { header: { revision: string } };
  };
  const { header } = await ask('range', { key: Buffer.from('x').toString('base64') });
  await ask('compaction', { revision: header.revision, physical: true });
}
