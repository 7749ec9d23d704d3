/** The set-up with programs that only say that they were called. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const NOBODY = '65534';
const skip = process.platform !== 'linux' || process.getuid() !== 0 ? 'becoming another user needs root' : false;

/** A checkout that is set up, except for BPF programs and addon; its `make` leaves a mark. */
function fakeCheckout() {
  const root = mkdtempSync(join(tmpdir(), 'tidegate-test-'));
  chmodSync(root, 0o755);
  const file = (path, text = '', mode = 0o644) => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text, { mode });
  };
  const setup = readFileSync(join(ROOT, 'scripts/setup.js'), 'utf8');
  file('scripts/setup.js', setup);
  file('package.json', '{ "type": "module" }');
  file('package-lock.json', '{}');
  file('node_modules/.tidegate-lock', createHash('sha256').update('{}').digest('hex'));
  file('node_modules/.bin/node');
  file('node_modules/.bin/tsc', '#!/bin/sh\necho called tsc >&2\n', 0o755);
  for (const name of ['proto/tidegate/v1/events.proto', 'generate.js', 'generator/event-details.js', 'generator/exact-codecs.js'])
    file(`packages/contracts/${name}`);
  for (const name of ['events.js', 'events.d.ts', 'details.js', 'details.d.ts', 'numbers.js', 'numbers.d.ts', 'numbers.h'])
    file(`packages/contracts/generated/${name}`);
  file('tools/make', '#!/bin/sh\necho called make "$@" >&2\n', 0o755);
  // Not the one of this checkout: another user may not be able to reach it.
  copyFileSync(process.execPath, join(root, 'tools/node'));
  chmodSync(join(root, 'tools/node'), 0o755);
  return root;
}

function setUp(root, user, args) {
  const command = ['node', 'scripts/setup.js', ...args];
  const become = user === undefined ? [] : ['setpriv', `--reuid=${user}`, `--regid=${user}`, '--clear-groups', '--inh-caps=-all'];
  const [program, ...rest] = [...become, ...command];
  const PATH = user === undefined ? `${join(root, 'tools')}:${process.env.PATH}` : `${join(root, 'tools')}:/usr/bin:/bin`;
  return spawnSync(program, rest, { cwd: root, encoding: 'utf8', env: { ...process.env, PATH } });
}

test('whoever cannot use the kernel starts without what reads it, and is told; root and tests get everything', { skip }, () => {
  const root = fakeCheckout();
  try {
    const ordinary = setUp(root, NOBODY, ['--to-run']);
    assert.equal(ordinary.status, 0, ordinary.stderr);
    assert.match(ordinary.stderr, /called tsc/);
    assert.match(ordinary.stderr, /not built: using them needs root/);
    assert.doesNotMatch(ordinary.stderr, /called make|system packages/);
    for (const all of [setUp(root, undefined, ['--to-run', '--build-only']), setUp(root, NOBODY, ['--build-only'])]) {
      assert.equal(all.status, 0, all.stderr);
      assert.match(all.stderr, /called make -s -C bpf\n[^]*called make -s -C native\n/);
    }
  } finally {
    rmSync(root, { recursive: true });
  }
});
