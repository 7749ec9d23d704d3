// Keeps every start and end of a program in a database, each once, whatever is killed when:
//   npx node docs/examples/consumer/to-sqlite.js nats://127.0.0.1:7422 events.db
import { DatabaseSync } from 'node:sqlite';
import { connectEvents, only } from '@tidegate/events';

const [url, file] = process.argv.slice(2);
const db = new DatabaseSync(file, { timeout: 10_000 });
db.exec('PRAGMA journal_mode = WAL');
db.exec('CREATE TABLE IF NOT EXISTS events (id TEXT, json TEXT)');
db.exec('CREATE TABLE IF NOT EXISTS position (id INTEGER PRIMARY KEY, json TEXT)');
const insert = db.prepare('INSERT INTO events VALUES (?, ?)');
const move = db.prepare('REPLACE INTO position VALUES (1, ?)');
const position = { load: async () => JSON.parse(db.prepare('SELECT json FROM position').get()?.json ?? 'null') ?? undefined };

const events = await connectEvents(url);
for await (const batch of events.consume({ filter: { kind: only('exec', 'exit') }, from: 'beginning', position })) {
  db.exec('BEGIN');
  for (const event of batch.events()) insert.run(event.id, JSON.stringify(event));
  // The work and the position in one step: what is there is never done again.
  move.run(JSON.stringify(batch.position));
  db.exec('COMMIT');
}
