import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { waitFor } from '@tidegate/testkit';
import { publishInterleaved } from '@tidegate/testkit/event-messages';
import { startFixture } from './fixture.ts';

const EXAMPLE = fileURLToPath(new URL('../../../docs/examples/consumer/to-sqlite.js', import.meta.url));
const NODES = ['n1', 'n2', 'n3'];
const KILLS = 100;
/** Batches of each node between two kills. */
const BATCHES = 8;

/** Ids in the database, and how many rows they have. */
function idsIn(file: string): { rows: number; ids: Set<string> } {
  if (!existsSync(file)) return { rows: 0, ids: new Set() };
  const db = new DatabaseSync(file, { timeout: 10_000 });
  try {
    const rows = db.prepare('SELECT id FROM events').all() as { id: string }[];
    return { rows: rows.length, ids: new Set(rows.map(({ id }) => id)) };
  } finally {
    db.close();
  }
}

test(
  `the consumer of docs/consuming.md is killed ${KILLS} times under load: it has each event, and each once`,
  { timeout: 600_000 },
  async () => {
    await using fixture = await startFixture();
    const folder = await mkdtemp(join(tmpdir(), 'tidegate-consumer-'));
    const file = join(folder, 'events.db');
    try {
      let expected = 0;
      let isOver = false;
      const writing = (async () => {
        for (let round = 0; !isOver; round++) {
          expected +=
            NODES.length *
            (await publishInterleaved(fixture.js, NODES, BATCHES, {
              firstBatch: 1 + round * BATCHES,
              firstSequence: 1 + expected / NODES.length,
            }));
          await delay(20);
        }
      })();
      for (let kills = 0; kills < KILLS; kills++) {
        const before = idsIn(file).rows;
        const child = spawn(process.execPath, [EXAMPLE, fixture.server.url, file], { stdio: ['ignore', 'inherit', 'inherit'] });
        const exited = once(child, 'exit');
        // Amid its work, at another moment each time.
        await waitFor(() => child.exitCode !== null || idsIn(file).rows > before, { what: 'the consumer to work', timeoutMs: 30_000 });
        await delay((kills * 7) % 20);
        child.kill('SIGKILL');
        assert.deepEqual(await exited, [null, 'SIGKILL']);
      }
      isOver = true;
      await writing;
      const child = spawn(process.execPath, [EXAMPLE, fixture.server.url, file], { stdio: ['ignore', 'inherit', 'inherit'] });
      await waitFor(() => idsIn(file).rows >= expected, { what: 'the rest', timeoutMs: 60_000 });
      child.kill('SIGTERM');
      await once(child, 'exit');
      const { rows, ids } = idsIn(file);
      assert.equal(rows, expected);
      assert.equal(ids.size, expected);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
);
