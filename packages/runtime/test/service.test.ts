import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { createHost, testLogger, waitFor, type Host } from '@tidegate/testkit';
import { startHealthServer } from '../src/health.ts';
import { createMetrics } from '../src/metrics.ts';
import { connectNats } from '../src/nats.ts';
import { hasErrorCode } from '../src/errors.ts';

const runtimeUrl = new URL('../src/index.ts', import.meta.url).href;

/** Runs a service whose `start` has this body, and gives the process and what it printed. */
function service(host: Host, body: string) {
  const file = join(host.folder(), 'main.ts');
  writeFileSync(
    file,
    `import { runService } from ${JSON.stringify(runtimeUrl)};\nvoid runService('example', async context => {\n${body}\n});\n`,
  );
  const child = host.spawn(process.execPath, ['--experimental-transform-types', '--no-warnings', file], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = { stdout: '', stderr: '' };
  child.stdout!.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr!.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()));
  return { child, output, exit: once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]> };
}

const holdOpen = `setInterval(() => {}, 1000);`;

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
  test(`${signal} closes the service once and exits 0`, async () => {
    await using host = createHost();
    const { child, output, exit } = service(host, `${holdOpen} console.log('up'); return { close: async () => console.log('closed') };`);
    await waitFor(() => output.stdout.includes('up'), { what: 'the service to start' });
    child.kill(signal);
    assert.deepEqual(await exit, [0, null]);
    assert.equal(output.stdout, 'up\nclosed\n');
  });

test('a second signal exits at once', async () => {
  await using host = createHost();
  const { child, output, exit } = service(
    host,
    `${holdOpen} console.log('up'); return { close: () => { console.log('closing'); return new Promise(() => {}); } };`,
  );
  await waitFor(() => output.stdout.includes('up'), { what: 'the service to start' });
  child.kill('SIGINT');
  await waitFor(() => output.stdout.includes('closing'), { what: 'close to begin' });
  child.kill('SIGINT');
  assert.deepEqual(await exit, [1, null]);
});

test('an unhandled error is logged, the service closed, and the exit status 1', async () => {
  await using host = createHost();
  const { output, exit } = service(
    host,
    `setImmediate(() => { void Promise.reject(new Error('forgotten')); }); return { close: async () => console.log('closed') };`,
  );
  assert.deepEqual(await exit, [1, null]);
  assert.match(output.stderr, /forgotten/);
  assert.equal(output.stdout, 'closed\n');
});

test('a failed start exits 1 with its message', async () => {
  await using host = createHost();
  const { output, exit } = service(host, `throw new Error('no luck');`);
  assert.deepEqual(await exit, [1, null]);
  assert.match(output.stderr, /no luck/);
});

test('health, readiness and metrics are served on loopback', async () => {
  await using host = createHost();
  const metrics = createMetrics('node-sensor');
  const batches = metrics.counter('batches_published', 'Batches stored in RAW.');
  let lost = 0;
  metrics.observedCounter('events_lost', 'Events lost.', () => lost);
  const reasons: string[] = [];
  const health = await startHealthServer({ port: 0, readiness: () => reasons, registry: metrics.registry });
  host.defer(() => health.close());
  batches.inc(3);
  lost = 2;
  assert.equal((await fetch(`${health.url}/healthz`)).status, 200);
  assert.equal((await fetch(`${health.url}/readyz`)).status, 200);
  reasons.push('no connection to NATS');
  const notReady = await fetch(`${health.url}/readyz`);
  assert.equal(notReady.status, 503);
  assert.deepEqual(await notReady.json(), { ready: false, reasons: ['no connection to NATS'] });
  const text = await (await fetch(`${health.url}/metrics`)).text();
  assert.match(text, /^tidegate_node_sensor_batches_published_total 3$/m);
  assert.match(text, /^tidegate_node_sensor_events_lost_total 2$/m);
  assert.equal((await fetch(`${health.url}/other`)).status, 404);
  assert.equal((await fetch(`${health.url}/metrics`, { method: 'POST' })).status, 405);
});

test('waiting for a NATS that never comes can be stopped', async () => {
  const stop = new AbortController();
  const connecting = connectNats({ url: 'nats://127.0.0.1:1', name: 'test', logger: testLogger(), signal: stop.signal });
  stop.abort();
  await assert.rejects(connecting, error => hasErrorCode(error, 'NATS_UNREACHABLE'));
});
