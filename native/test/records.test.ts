import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { cgroupRoot, OBJECT_FILE, skipReason } from './sensor.ts';

const FOLDER = fileURLToPath(new URL('..', import.meta.url));
const STAIN_FILE = fileURLToPath(new URL('../../bpf/build/test_stain.bpf.o', import.meta.url));

test('every field of every record is set, whatever the ring held before', { skip: skipReason() }, t => {
  execFileSync('make', ['-s', '-C', FOLDER, 'test-programs']);
  const cgroup = join(cgroupRoot(), `tidegate-test-${randomUUID()}`);
  mkdirSync(cgroup);
  t.after(() => {
    rmdirSync(cgroup);
  });
  const { status, stderr } = spawnSync(join(FOLDER, 'build/test/ring_fields'), [OBJECT_FILE, STAIN_FILE, cgroup], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});
