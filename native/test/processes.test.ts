import { ProcessOrigin } from '@tidegate/contracts';
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { compileProgram, findExec, sequencesAreWhole, skipReason, startSensor, type SeenEvent, type TestSensor } from './sensor.ts';

const ARGUMENTS_MAX_BYTES = 16_384;
const FUZZ_ROUNDS = 150;
const ANCESTORS_MAX = 32;
const PID_REUSE_TRIES = 200;

describe('processes', { skip: skipReason() }, () => {
  let sensor: TestSensor;
  let forms: string;
  let lineage: string;

  before(() => {
    sensor = startSensor();
    forms = compileProgram(sensor.folder, 'exec_forms');
    lineage = compileProgram(sensor.folder, 'lineage');
  });
  after(() => sensor.close());

  function exitOf(exec: SeenEvent): SeenEvent | undefined {
    return sensor.events.find(({ event, process }) => event.exit && process?.execId === exec.process?.execId);
  }

  async function seen(marker: string): Promise<SeenEvent> {
    await sensor.until(`exec and exit of ${marker}`, () => {
      const exec = findExec(sensor, marker);
      return exec !== undefined && exitOf(exec) !== undefined;
    });
    return findExec(sensor, marker)!;
  }

  test('every hook attaches', () => {
    assert.deepEqual(
      sensor.hooks.filter(hook => !hook.attached),
      [],
    );
    assert.ok(sensor.hooks.length >= 3);
  });

  test('of a long line of parents the nearest come, and the last of them says that there are more; that one, too, has its own', async () => {
    const marker = randomUUID();
    const file = join(sensor.folder, 'generations');
    const deepest = `read line; /bin/echo "$2-last" >/dev/null`;
    writeFileSync(file, `#!/bin/sh\nif [ "$1" -gt 0 ]; then "$0" $(($1 - 1)) "$2"; else ${deepest}; fi\nexit\n`, { mode: 0o755 });
    const top = spawn(file, [String(ANCESTORS_MAX + 5), marker], { stdio: ['pipe', 'ignore', 'inherit'] });
    await sensor.until('the last generation', () =>
      sensor.events.some(({ event, process }) => event.exec && process?.arguments?.slice(-2).join() === `0,${marker}`),
    );
    // One batch, in which the one that is the last of the deepest one's ancestors ends.
    sensor.reader.setLinger(60_000);
    top.stdin.end('\n');
    await once(top, 'exit');
    sensor.reader.setLinger(2);
    const { ancestors } = await seen(`${marker}-last`);
    assert.equal(ancestors.length, ANCESTORS_MAX);
    assert.deepEqual(
      ancestors.map(({ ancestorsCut = false }) => ancestorsCut),
      ancestors.map((_, i) => i === ANCESTORS_MAX - 1),
    );
    const last = ancestors.at(-1);
    await sensor.until('its end', () => sensor.events.some(({ event, process }) => event.exit && process?.execId === last?.execId));
    const end = sensor.events.find(({ event, process }) => event.exit && process?.execId === last?.execId);
    assert.ok(end!.ancestors.length > 5);
    assert.equal(end!.ancestors.at(-1)?.pid, 1);
  });

  test('a known tree of programs comes in order with the right parents, up to init', async () => {
    const marker = randomUUID();
    const script = `/bin/echo ${marker}-1 >/dev/null; /bin/sh -c '/bin/echo ${marker}-2 >/dev/null; exit 5'; true`;
    execFileSync('/bin/sh', ['-c', script, marker]);
    const shell = await seen(marker);
    const first = await seen(`${marker}-1`);
    const second = await seen(`${marker}-2`);
    const inner = sensor.events.find(({ event, process }) => event.exec && process?.execId === second.ancestors[0]?.execId);

    assert.equal(first.ancestors[0]?.execId, shell.process?.execId);
    assert.equal(second.ancestors[1]?.execId, shell.process?.execId);
    assert.equal(shell.ancestors[0]?.pid, process.pid);
    assert.equal(shell.ancestors[0]?.origin, ProcessOrigin.PROCESS_ORIGIN_RUNNING);
    for (const each of [shell, first, second]) assert.equal(each.ancestors.at(-1)?.pid, 1);

    const order = [shell, first, exitOf(first), inner, second, exitOf(second), exitOf(inner!), exitOf(shell)];
    const sequences = order.map(each => each?.event.sequence ?? 0);
    assert.deepEqual(
      sequences,
      sequences.toSorted((a, b) => a - b),
    );
    assert.equal(exitOf(inner!)?.event.exit?.code, 5);
    assert.ok(sequencesAreWhole(sensor.batches));
  });

  test('an exec tells who, where and what', async () => {
    const marker = randomUUID();
    execFileSync('/bin/sh', ['-c', `cd ${sensor.folder} && exec /bin/echo ${marker}`], { uid: 65_534, gid: 65_533 } as object);
    const { event, process: echo } = await seen(marker);
    const namespace = (name: string): number =>
      Number(/\d+/.exec(execFileSync('readlink', [`/proc/self/ns/${name}`], { encoding: 'utf8' }))?.[0]);
    assert.match(echo?.binary ?? '', /\/bin\/(echo|coreutils|busybox)$/);
    assert.deepEqual(echo?.arguments, ['/bin/echo', marker]);
    assert.equal(echo?.cwd, sensor.folder);
    assert.equal(echo?.uid, 65_534);
    assert.equal(event.exec?.credentials?.egid, 65_533);
    assert.equal(event.exec?.rawPath, '/bin/echo');
    assert.equal(event.exec?.comm, 'echo');
    assert.equal(event.exec?.namespaces?.mnt, namespace('mnt'));
    assert.equal(event.exec?.namespaces?.user, namespace('user'));
    assert.ok((event.exec?.file?.inode ?? 0) > 0);
    assert.equal(
      Buffer.from(echo?.execId ?? '', 'base64')
        .toString()
        .split(':')[0],
      'test-node',
    );
    assert.equal(event.tid, echo?.pid);
  });

  test('arguments: newlines, invalid UTF-8, empty, none, and more than are kept', async () => {
    const marker = randomUUID();
    const echo = join(sensor.folder, 'quiet');
    copyFileSync('/bin/true', echo);
    // A shell passes on the bytes that Node would not.
    writeFileSync(
      join(sensor.folder, 'bytes.sh'),
      Buffer.from(`exec ${echo} ${marker}-bytes 'a\nb' '' '\xff\xfe x \xc3' 'gr\xc3\xbc\xc3\x9f'`, 'latin1'),
    );
    execFileSync('/bin/sh', [join(sensor.folder, 'bytes.sh')]);
    const bytes = await seen(`${marker}-bytes`);
    assert.deepEqual(bytes.process?.arguments?.slice(2), ['a\nb', '', '\ufffd\ufffd x \ufffd', 'grüß']);
    const raw = Buffer.from(bytes.process?.rawArguments ?? []).toString('latin1');
    assert.equal(raw, `${echo}\0${marker}-bytes\0a\nb\0\0\xff\xfe x \xc3\0gr\xc3\xbc\xc3\x9f\0`);

    const long = 'ä'.repeat(50_000);
    spawnSync(echo, [`${marker}-long`, long, long]); // 200 KB
    const cut = await seen(`${marker}-long`);
    assert.equal(cut.process?.argumentsTruncated, true);
    assert.ok((cut.event.exec?.argumentsBytes ?? 0) > 200_000);
    const kept = cut.process?.arguments?.at(-1) ?? '';
    assert.match(kept, /^ä+$/);
    const keptBytes = Buffer.byteLength(cut.process?.arguments?.join('\0') ?? '');
    assert.ok(keptBytes > ARGUMENTS_MAX_BYTES - 4 && keptBytes <= ARGUMENTS_MAX_BYTES);
    assert.equal(cut.process?.rawArguments?.length ?? 0, 0);

    // Since 5.18 the kernel itself puts an empty string where there was no argument at all.
    spawnSync(forms, ['no-arguments', echo]);
    const bare = (): SeenEvent | undefined =>
      sensor.events.find(({ event, process }) => event.exec && process?.binary === echo && (process.arguments?.join('') ?? '') === '');
    await sensor.until('an exec without arguments', () => bare() !== undefined);
    assert.ok((bare()?.process?.arguments?.length ?? 0) <= 1);
  });

  test('random arguments arrive as they were given', async () => {
    // xorshift32, fixed seed.
    let state = 0x2545f491;
    const random = (bound: number): number => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return (state >>> 0) % bound;
    };
    const marker = randomUUID();
    const sent: string[][] = [];
    for (let round = 0; round < FUZZ_ROUNDS; round++) {
      const argument = (): string =>
        Array.from({ length: random(40) }, () =>
          String.fromCodePoint([1 + random(127), 128 + random(1920), 0x3040 + random(90), 0x1f300 + random(500)][random(4)]!),
        ).join('');
      sent.push([`${marker}-${round}`, ...Array.from({ length: random(8) }, argument)]);
    }
    for (const list of sent) spawnSync('/bin/true', list);
    for (const list of sent) {
      const exec = await seen(list[0]!);
      assert.deepEqual(exec.process?.arguments, ['/bin/true', ...list]);
    }
  });

  test('an exec by a thread that is not the leader, and one by the leader of several threads', async () => {
    for (const form of ['thread', 'leader']) {
      const marker = randomUUID();
      const { pid } = spawnSync(forms, [form, marker]);
      await sensor.until(form, () => sensor.events.some(({ event, process }) => event.exit && process?.pid === pid));
      const execs = sensor.events.filter(({ event, process }) => event.exec && process?.pid === pid);
      assert.deepEqual(
        execs.map(({ process }) => process?.arguments?.[0]),
        [forms, 'true'],
      );
      const exits = sensor.events.filter(({ event, process }) => event.exit && process?.pid === pid);
      assert.equal(exits.length, 1);
      assert.equal(exits[0]?.process?.execId, execs[1]?.process?.execId);
      assert.notEqual(execs[0]?.process?.execId, execs[1]?.process?.execId);
      assert.equal(execs[0]?.process?.startKtimeNs, execs[1]?.process?.startKtimeNs);
      assert.equal(execs[1]?.ancestors[0]?.pid, process.pid);
    }
  });

  test('a process exits once, with its code or its signal', async () => {
    for (const [form, code, signal] of [
      ['signal', 0, 9],
      ['threads-exit', 0, 0],
      ['else', 1, 0],
    ] as const) {
      const marker = randomUUID();
      spawnSync(forms, [form, marker]);
      const exit = exitOf(await seen(marker));
      assert.equal(exit?.event.exit?.code ?? 0, code, form);
      assert.equal(exit?.event.exit?.signal ?? 0, signal, form);
      assert.ok((exit?.event.exit?.durationNs ?? 0) > 0);
    }
    const ids = sensor.events.filter(({ event }) => event.exit).map(({ process }) => process?.execId);
    assert.equal(new Set(ids).size, ids.length);
  });

  test('a process that only forked has the image of its parent', async () => {
    const marker = randomUUID();
    spawnSync(forms, ['fork', marker]);
    const parent = await seen(marker);
    const child = sensor.events.find(({ event, ancestors }) => event.exit?.code === 7 && ancestors[0]?.execId === parent.process?.execId);
    assert.equal(child?.process?.origin, ProcessOrigin.PROCESS_ORIGIN_FORK);
    assert.deepEqual(child.process?.arguments, [forms, 'fork', marker]);
  });

  for (const form of ['double-fork', 'subreaper', 'clone-parent', 'thread', 'leader-ends'])
    test(`the parent is who forked, and the one that the kernel names is told beside it: ${form}`, async () => {
      const marker = randomUUID();
      const { stdout, pid: launcher } = spawnSync(lineage, [form, marker], { encoding: 'utf8' });
      const [middle, kernelParent] = stdout.split(' ').map(Number);
      const { process: last, ancestors } = await seen(`${marker}-last`);
      assert.deepEqual([ancestors[0]?.pid, ancestors[1]?.pid, ancestors[2]?.pid], [middle, launcher, process.pid]);
      assert.deepEqual(ancestors[0]?.arguments, [lineage, form, marker]);
      assert.equal(ancestors.at(-1)?.pid, 1);
      assert.equal(last?.kernelParentPid, kernelParent);
      if (form === 'subreaper' || form === 'clone-parent') {
        assert.equal(kernelParent, launcher);
        assert.equal(last?.kernelParentExecId, ancestors[1]?.execId);
      }
      const exit = exitOf(findExec(sensor, `${marker}-last`)!);
      assert.equal(exit?.ancestors[0]?.pid, middle);
      assert.equal(exit?.process?.kernelParentPid, kernelParent);
      // Where both are the same, nothing is said.
      assert.equal(ancestors[1]?.kernelParentPid ?? 0, 0);
    });

  test('memfd and deleted binaries are told', async () => {
    const marker = randomUUID();
    spawnSync(forms, ['memfd', `${marker}-memfd`]);
    const isFromMemory = ({ event, process }: SeenEvent) => event.exec?.file?.memfd && process?.arguments?.includes(`${marker}-memfd`);
    await sensor.until('memfd', () => sensor.events.some(isFromMemory));
    const doomed = join(sensor.folder, 'doomed');
    copyFileSync('/bin/true', doomed);
    execFileSync('/bin/sh', ['-c', `exec 3<${doomed}; rm ${doomed}; exec /proc/self/fd/3 ${marker}-deleted`]);
    const { event, process } = await seen(`${marker}-deleted`);
    assert.equal(event.exec?.file?.deleted, true);
    assert.equal(process?.binary, doomed);
  });

  test('a pid used again is another process', async () => {
    const wanted = spawnSync('/bin/true', [randomUUID()]).pid;
    const marker = randomUUID();
    // Others take pids too: try until this one is ours again.
    const script = `for i in $(seq ${PID_REUSE_TRIES}); do echo ${wanted - 1} > /proc/sys/kernel/ns_last_pid; /bin/true ${marker} & p=$!; wait $p; [ $p = ${wanted} ] && exit 0; done; exit 9`;
    assert.equal(spawnSync('/bin/sh', ['-c', script]).status, 0, 'could not take the pid again');
    const again = (): SeenEvent[] => sensor.events.filter(({ event, process }) => event.exec && process?.pid === wanted);
    await sensor.until('the second use', () => again().some(({ process }) => process?.arguments?.includes(marker)));
    const [first, second] = again();
    assert.notEqual(first?.process?.execId, second?.process?.execId);
    await sensor.until('both exits', () => exitOf(first!) !== undefined && exitOf(second!) !== undefined);
  });
});
