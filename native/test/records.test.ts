import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { cgroupRoot, OBJECT_FILE, skipReason } from './sensor.ts';
import { buildTestPrograms } from './test-programs.ts';

const STAIN_FILE = fileURLToPath(new URL('../../bpf/build/test_stain.bpf.o', import.meta.url));

test('every field of every record is set, whatever the ring held before', { skip: skipReason() }, t => {
  const programs = buildTestPrograms();
  const cgroup = join(cgroupRoot(), `tidegate-test-${randomUUID()}`);
  mkdirSync(cgroup);
  t.after(() => {
    rmdirSync(cgroup);
  });
  const { status, stderr } = spawnSync(join(programs, 'ring_fields'), [OBJECT_FILE, STAIN_FILE, cgroup], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});
