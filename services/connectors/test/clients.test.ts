/** The feed as other languages hear it: their own NATS clients, no sign-in, no schema. */
import assert from 'node:assert/strict';
import { execFile, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { test } from 'node:test';
import { createHost, waitFor, type Host } from '@tidegate/testkit';
import { publishInterleaved } from '@tidegate/testkit/event-messages';
import { NODES, startStage } from './stage.ts';

const run = promisify(execFile);
const CLIENTS = fileURLToPath(new URL('./clients', import.meta.url));
const INSTALL_TIMEOUT_MS = 180_000;

interface Client {
  language: string;
  /** Gets the language's client from its registry. Returns what starts the program; its arguments are the url and the subject. */
  prepare(folder: string): Promise<{ command: string[]; env?: NodeJS.ProcessEnv }>;
}

const clients: Client[] = [
  {
    language: 'Python (nats-py)',
    async prepare(folder) {
      const options = ['--quiet', '--disable-pip-version-check', '--break-system-packages', '--target', folder];
      await run('python3', ['-m', 'pip', 'install', ...options, 'nats-py==2.16.0'], { timeout: INSTALL_TIMEOUT_MS });
      return { command: ['python3', join(CLIENTS, 'listen.py')], env: { PYTHONPATH: folder } };
    },
  },
  {
    language: 'Go (nats.go)',
    async prepare(folder) {
      const program = join(folder, 'listen');
      await run('go', ['build', '-o', program, '.'], { cwd: join(CLIENTS, 'go'), timeout: INSTALL_TIMEOUT_MS });
      return { command: [program] };
    },
  },
];

for (const { language, prepare } of clients) {
  test(`a client in ${language} hears every event, without sign-in`, async t => {
    await using host = createHost();
    let prepared;
    try {
      prepared = await prepare(host.folder());
    } catch (error) {
      // What is missing is a language or its registry, not a part of the feed.
      return t.skip(`${language} cannot be had here: ${(error as Error).message.trim().split('\n').at(-1)}`);
    }
    const stage = await startStage(host);
    await stage.startConnectors();
    const [program, ...args] = [...prepared.command, stage.server.url, 'tidegate.feed.>'];
    const lines = linesOf(
      host,
      host.spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...prepared.env } }),
    );
    await waitFor(() => lines().includes('listening'), { what: 'the client to listen', timeoutMs: 30_000 });
    await waitFor(() => stage.isAwake(), { what: 'the feed to wake up', timeoutMs: 20_000 });
    const expected = (await publishInterleaved(stage.js, NODES, 20)) * NODES.length;
    await waitFor(() => lines().length > expected, { what: `${expected} events`, timeoutMs: 30_000 });
    const heard = lines().slice(1);
    assert.equal(heard.length, expected);
    assert.equal(new Set(heard).size, expected);
    for (const line of heard) assert.match(line, /^(c\S*:n[12]:\d+) \w+ \1$/);
  });
}

function linesOf(host: Host, child: ChildProcess): () => string[] {
  let output = '';
  child.stdout!.on('data', (chunk: Buffer) => (output += chunk.toString()));
  host.defer(() => void child.kill('SIGKILL'));
  return () => output.split('\n').slice(0, -1);
}
