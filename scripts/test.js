/**
 * Everything that has to hold before a commit lands: lint, format, types of the tests, then every test file. Arguments narrow the test files: `npm test -- enricher` runs
 * those whose path contains one of them (and skips lint). The closing line counts tests.
 */
import { spawnSync } from 'node:child_process';
import { globSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const BIN = join(ROOT, 'node_modules', '.bin');
/** A test file that takes longer hangs. */
const TEST_TIMEOUT_MS = 20 * 60_000;
/** Most of the time a test waits for servers. */
const TEST_FILES_AT_ONCE = 2;
/** Start whole clusters, and look whether anything at all is left of them on the machine. */
const NEEDS_THE_MACHINE = /^packages\/testkit\/test\/(kubernetes|deploy|identity)/;

process.chdir(ROOT);
process.env.PATH = `${BIN}:${process.env.PATH}`;
const wanted = process.argv.slice(2);
const files = globSync('{packages,services}/*/test/**/*.test.ts')
  .concat(globSync('{native,scripts,loadtest}/test/**/*.test.{ts,js}'))
  .filter(file => wanted.length === 0 || wanted.some(part => file.includes(part)))
  .sort();
if (files.length === 0) {
  process.stderr.write(`no test file has a path with ${wanted.join(' or ')}\n`);
  process.exit(1);
}

const checks = [
  ['eslint', ['.']],
  ['prettier', ['--check', '--log-level=warn', '.']],
  ['tsc', ['-p', 'tsconfig.test.json']],
];
const failedChecks =
  wanted.length > 0 ? [] : checks.filter(([command, args]) => spawnSync(join(BIN, command), args, { stdio: 'inherit' }).status !== 0);

const counts = { passed: 0, failed: 0, skipped: 0 };
await runFiles(
  files.filter(file => !NEEDS_THE_MACHINE.test(file)),
  TEST_FILES_AT_ONCE,
);
await runFiles(
  files.filter(file => NEEDS_THE_MACHINE.test(file)),
  1,
);

for (const [command] of failedChecks) console.log(`check failed: ${command}`);
console.log(`${counts.passed} passed, ${counts.failed + failedChecks.length} failed, ${counts.skipped} skipped`);
process.exit(counts.failed + failedChecks.length === 0 ? 0 : 1);

async function runFiles(some, concurrency) {
  if (some.length === 0) return;
  const stream = run({ files: some, concurrency, timeout: TEST_TIMEOUT_MS });
  stream.on('test:pass', test => {
    if (test.details.type === 'suite') return;
    if (test.skip === undefined && test.todo === undefined) counts.passed++;
    else counts.skipped++;
  });
  stream.on('test:fail', test => {
    if (test.details.type !== 'suite') counts.failed++;
  });
  const output = stream.compose(new spec());
  output.pipe(process.stdout, { end: false });
  await new Promise(resolve => output.on('end', resolve));
}
