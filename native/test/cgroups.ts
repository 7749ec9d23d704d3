/** Cgroups for tests, made below one of the test's own and taken away again. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, rmdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cgroupRoot } from './sensor.ts';

export interface TestCgroups {
  /** The one all others are made in. */
  readonly top: string;
  /** Makes a cgroup, and those it lies in. */
  make(path: string): string;
  /** Takes folders away that something else made in one of these. */
  adopt(folder: string, path: string): void;
  remove(): void;
}

/** @param root where a hierarchy is mounted */
export function createCgroups(root: string = cgroupRoot()): TestCgroups {
  const top = join(root, `tidegate-test-${randomUUID()}`);
  mkdirSync(top);
  const made = [top];
  return {
    top,
    make(path) {
      const folder = join(top, path);
      const missing: string[] = [];
      for (let each = folder; !made.includes(each); each = dirname(each)) missing.push(each);
      for (const each of missing.reverse()) {
        mkdirSync(each);
        made.push(each);
      }
      return folder;
    },
    adopt(folder, path) {
      let each = folder;
      for (const name of path.split('/')) made.push((each = join(each, name)));
    },
    remove() {
      for (const folder of made.splice(0).reverse()) rmdirSync(folder);
    },
  };
}

/** Runs a program in the cgroup, as a runtime does: a process goes in, then loads the program. Its command line stands in no other's. */
export function runIn(cgroup: string, program: string): void {
  const env = { ...process.env, PROCS: `${cgroup}/cgroup.procs`, PROGRAM: program };
  const { status, stderr } = spawnSync('/bin/sh', ['-c', 'echo $$ > $PROCS && eval exec "$PROGRAM"'], { env });
  assert.equal(status, 0, stderr.toString());
}
