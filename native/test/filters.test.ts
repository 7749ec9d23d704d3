import { Kind } from '@tidegate/contracts';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, realpathSync, rmdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Filters } from '../src/index.ts';
import { compileProgram, findExec, skipReason, startSensor, cgroupRoot, type TestSensor } from './sensor.ts';

const NOBODY = 65_534;

describe('filters', { skip: skipReason() }, () => {
  let sensor: TestSensor;
  let forms: string;

  before(() => {
    sensor = startSensor();
    forms = compileProgram(sensor.folder, 'exec_forms');
  });
  after(() => sensor.close());

  /** Runs programs with the filters in force, then one without; tells which of them were seen. */
  async function seenOf(filters: Filters, runs: ((marker: string) => void)[]): Promise<boolean[]> {
    const markers = runs.map(() => randomUUID());
    sensor.reader.setFilters(filters);
    runs.forEach((run, index) => {
      run(markers[index]!);
    });
    sensor.reader.setFilters({});
    const last = randomUUID();
    spawnSync('/bin/true', [last]);
    await sensor.until('the end', () => findExec(sensor, last) !== undefined);
    return markers.map(marker => findExec(sensor, marker) !== undefined);
  }

  const runTrue = (marker: string): void => void spawnSync('/bin/true', [marker]);
  const runForms = (marker: string): void => void spawnSync(forms, ['', marker]);
  const runAsNobody = (marker: string): void => void spawnSync('/bin/true', [marker], { uid: NOBODY });

  test('kinds', async () => {
    assert.deepEqual(await seenOf({ kinds: [Kind.KIND_EXIT] }, [runTrue]), [false]);
    assert.deepEqual(await seenOf({ kinds: [Kind.KIND_EXEC] }, [runTrue]), [true]);
    assert.ok((sensor.reader.counters().filteredByKind[Kind.KIND_EXIT] ?? 0) > 0);
  });

  test('uids', async () => {
    assert.deepEqual(await seenOf({ allow: { uids: [NOBODY] } }, [runTrue, runAsNobody]), [false, true]);
    assert.deepEqual(await seenOf({ deny: { uids: [NOBODY] } }, [runTrue, runAsNobody]), [true, false]);
  });

  test('prefixes of the binary: the more specific one does not undo the less specific', async () => {
    assert.deepEqual(await seenOf({ deny: { binaries: [sensor.folder] } }, [runTrue, runForms]), [true, false]);
    assert.deepEqual(await seenOf({ allow: { binaries: [sensor.folder] } }, [runTrue, runForms]), [false, true]);
    const both = { allow: { binaries: [forms] }, deny: { binaries: [sensor.folder] } };
    assert.deepEqual(await seenOf(both, [runTrue, runForms]), [false, false]);
  });

  test('cgroups', async () => {
    const cgroup = join(cgroupRoot(), `tidegate-test-${randomUUID()}`);
    mkdirSync(cgroup);
    const runInside = (marker: string): void => {
      const env = { PROCS: `${cgroup}/cgroup.procs`, MARKER: marker };
      spawnSync('/bin/sh', ['-c', 'echo $$ > $PROCS && exec /bin/true $MARKER'], { env });
    };
    const cgroups = [statSync(cgroup).ino];
    assert.deepEqual(await seenOf({ allow: { cgroups } }, [runTrue, runInside]), [false, true]);
    assert.deepEqual(await seenOf({ deny: { cgroups } }, [runTrue, runInside]), [true, false]);
    rmdirSync(cgroup);
  });

  test('namespaces', async () => {
    const namespaces = [statSync('/proc/self/ns/uts').ino];
    const runUnshared = (marker: string): void => void spawnSync('unshare', ['--uts', '/bin/true', marker]);
    const inside = (marker: string): boolean =>
      sensor.events.some(({ event, process }) => event.exec?.comm === 'true' && process?.arguments?.includes(marker));
    const markers = [randomUUID(), randomUUID()] as const;
    await seenOf({ deny: { namespaces } }, [() => runTrue(markers[0]), () => runUnshared(markers[1])]);
    assert.deepEqual(markers.map(inside), [false, true]);
  });

  test('a process that a filter hides is still the parent of those it starts', async () => {
    const marker = randomUUID();
    const hiddenMarker = randomUUID();
    const run = (): void => void spawnSync('/bin/sh', ['-c', `echo ${marker} | xargs -r /bin/true; :`, hiddenMarker]);
    await seenOf({ allow: { binaries: [realpathSync('/bin/true')] } }, [run]);
    assert.equal(findExec(sensor, hiddenMarker), undefined);
    const { ancestors } = findExec(sensor, marker)!;
    assert.match(ancestors[0]?.binary ?? '', /xargs/);
    assert.match(ancestors[1]?.binary ?? '', /sh$/);
    assert.equal(ancestors.at(-1)?.pid, 1);
  });

  test('wrong filters are told, and the old ones stay', () => {
    const wrong: Filters = { kinds: [77], allow: { uids: [-1] }, deny: { binaries: [''] } };
    assert.throws(
      () => {
        sensor.reader.setFilters(wrong);
      },
      { code: 'NATIVE_FILTERS_INVALID', message: /kinds.*77.*uids.*-1.*binaries/ },
    );
  });
});
