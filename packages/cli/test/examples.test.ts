/** What docs/consuming.md says to type, typed: in a copy of the example, with the Node.js of this machine and not the pinned one. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { test } from 'node:test';
import { EventBatch, Kind, STREAMS, decodeBatch, eventSubject } from '@tidegate/contracts';
import { connectNats, ensureStreams } from '@tidegate/runtime';
import { createHost, startNatsServer, testLogger, waitFor } from '@tidegate/testkit';
import { REPOSITORY, cleanEnvironment } from './command-runner.ts';
import { sampleBatch } from './sample-batches.ts';

const run = promisify(execFile);
const PATH = (process.env.PATH ?? '')
  .split(':')
  .filter(folder => folder !== dirname(process.execPath) && !folder.includes('node_modules'))
  .join(':');

/** Command lines of the block under this heading. */
function commandsOf(heading: string): string[] {
  const docs = readFileSync(join(REPOSITORY, 'docs/consuming.md'), 'utf8');
  return /```\n([^`]+)```/
    .exec(docs.slice(docs.indexOf(heading)))![1]!
    .trim()
    .split('\n');
}

test('the TypeScript example runs on the Node.js that the README allows', async t => {
  await using host = createHost();
  const root = host.folder();
  const [cd, install, consume] = commandsOf('**TypeScript**');
  const folder = join(root, cd!.replace('cd ', ''));
  mkdirSync(folder, { recursive: true });
  for (const name of ['consume.ts', 'package.json']) cpSync(join(REPOSITORY, cd!.replace('cd ', ''), name), join(folder, name));
  symlinkSync(join(REPOSITORY, 'packages'), join(root, 'packages'));
  const env = cleanEnvironment({ PATH });
  try {
    await run('/bin/sh', ['-c', install!], { cwd: folder, env });
  } catch (error) {
    // Everything else needs nothing from outside once this checkout is set up.
    return t.skip(`no npm registry: ${(error as Error).message.split('\n')[1] ?? ''}`);
  }

  await using server = await startNatsServer();
  const nc = await connectNats({ url: server.url, name: 'test', logger: testLogger() });
  host.defer(() => nc.close());
  await ensureStreams(nc, [STREAMS.events]);
  const batch = decodeBatch(sampleBatch('node-a', 'x', 1, 1, 1).payload);
  nc.publish(eventSubject(Kind.KIND_EXEC, '_host', 'node-a'), EventBatch.encode(batch).finish());

  // A group of its own: npx, tsx and the program end together.
  const example = host.spawn('/bin/sh', ['-c', consume!.replace(/nats:\S+/, server.url)], {
    cwd: folder,
    env,
    detached: true,
    stdio: 'pipe',
  });
  host.defer(() => void process.kill(-example.pid!, 'SIGKILL'));
  let stdout = '';
  let stderr = '';
  example.stdout!.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  example.stderr!.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const line = await waitFor(() => stdout.split('\n')[0] || undefined, { what: 'an event', timeoutMs: 60_000 }).catch((error: unknown) => {
    throw new Error(stderr, { cause: error });
  });
  assert.match(line, /exec node-a \/usr\/bin\/bash → \["ls","-la","\/tmp"\] \(pid 1001\)/);
});
