import assert from 'node:assert/strict';
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  createHost,
  endChild,
  findNatsServer as findTestServer,
  startNatsServer as startTestServer,
  testLogger,
  waitFor,
} from '@tidegate/testkit';
import { hasErrorCode } from '../src/errors.ts';
import { findNatsServer, startNatsServer } from '../src/nats-server.ts';
import { connectNats } from '../src/nats.ts';

const logger = testLogger();
const runtimeUrl = new URL('../dist/index.js', import.meta.url).href;

test('TIDEGATE_NATS_SERVER goes before PATH, and must be a nats-server that is new enough', async () => {
  await using host = createHost();
  const { path, version } = await findTestServer();
  const cacheFolder = host.folder();
  assert.deepEqual(await findNatsServer({ env: { TIDEGATE_NATS_SERVER: path, PATH: '' }, cacheFolder }), {
    path,
    version,
    source: 'TIDEGATE_NATS_SERVER',
  });
  const old = join(cacheFolder, 'nats-server');
  writeFileSync(old, '#!/bin/sh\necho nats-server: v2.8.4\n');
  chmodSync(old, 0o755);
  assert.equal(await findNatsServer({ env: { PATH: cacheFolder }, cacheFolder }), undefined);
  for (const named of [old, join(cacheFolder, 'missing')]) {
    await assert.rejects(findNatsServer({ env: { TIDEGATE_NATS_SERVER: named }, cacheFolder }), error =>
      hasErrorCode(error, 'NATS_SERVER_MISSING'),
    );
  }
});

test('a server that cannot start says why', async () => {
  await using host = createHost();
  const program = await findTestServer();
  await assert.rejects(
    startNatsServer({ program, storeFolder: host.folder(), config: { jetstream: 'perhaps' }, logger }),
    error => hasErrorCode(error, 'NATS_SERVER_EXITED') && /perhaps/.test(error.message),
  );
});

test('a killed server comes back on its port', async () => {
  await using host = createHost();
  await using server = await startTestServer();
  const { url, pid } = server;
  await server.kill();
  await server.restart();
  assert.equal(server.url, url);
  assert.notEqual(server.pid, pid);
  const nc = await connectNats({ url, name: 'test', logger });
  host.defer(() => nc.close());
  await nc.flush();
});

test('a server does not outlive a parent that was killed', async t => {
  if (!existsSync('/usr/bin/setpriv')) return t.skip('util-linux is not there');
  await using host = createHost();
  const program = await findTestServer();
  const options = JSON.stringify({ program, storeFolder: host.folder() });
  const script = `import { createLogger, startNatsServer } from ${JSON.stringify(runtimeUrl)};
    const server = await startNatsServer({ ...${options}, logger: createLogger({ name: 'test', level: 'silent' }) });
    console.log(server.pid); setInterval(() => {}, 1000);`;
  const parent = host.spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  parent.stdout!.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const pid = Number(await waitFor(() => /\d+/.exec(output)?.[0], { what: 'the server to start' }));
  assert.ok(isAlive(pid));
  await endChild(parent);
  await waitFor(() => !isAlive(pid), { what: 'the server to end' });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
