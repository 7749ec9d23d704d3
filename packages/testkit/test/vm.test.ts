import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { prepareVm, runInVm, type KernelSeries } from '../src/vm.ts';

const KERNELS: readonly KernelSeries[] = ['6.1', '6.12'];
const OBJECTS = ['tidegate', 'bench_storm', 'test_stain'];
const bpfFolder = new URL('../../../bpf/', import.meta.url).pathname;

for (const kernel of KERNELS) {
  const skip = (await prepareVm(kernel)) ?? false;

  describe(`a VM with Linux ${kernel}`, { skip }, () => {
    test('runs a command in the repository and gives back its output and exit code', async () => {
      const run = await runInVm(`uname -r; pwd; printf '%s\\n' "$WORD"; tty; echo trouble >&2; exit 7`, { kernel, env: { WORD: `it's` } });
      const [release, folder, ...rest] = run.output.split('\n');
      assert.ok(release?.startsWith(`${kernel}.`), release);
      assert.equal(join(folder!, 'bpf/'), bpfFolder);
      assert.deepEqual(rest, [`it's`, 'not a tty', 'trouble', '']);
      assert.equal(run.exitCode, 7);
    });

    test('runs the Node of the repository, as root, and cannot write to the machine', async () => {
      const run = await runInVm(`node_modules/.bin/node -p 'process.getuid()' && touch "$PWD/written"`, { kernel });
      assert.match(run.output, /^0\n.*Read-only file system/s);
      assert.notEqual(run.exitCode, 0);
    });

    test('is killed when it takes too long, and leaves nothing behind', async () => {
      const before = await leftovers();
      await assert.rejects(runInVm('sleep 600', { kernel, timeoutMs: 4_000 }), /did not finish/);
      assert.deepEqual(await leftovers(), before);
    });

    const bpftool = ['/usr/sbin/bpftool', '/usr/bin/bpftool'].find(path => existsSync(path));
    const loadSkip = bpftool === undefined ? 'bpftool is not installed' : false;
    test('its verifier accepts every BPF program', { skip: loadSkip }, async () => {
      execFileSync('make', ['--silent', '-C', bpfFolder]);
      const load = OBJECTS.map(name => `${bpftool} prog loadall bpf/build/${name}.bpf.o /sys/fs/bpf/${name}`).join(' && ');
      const run = await runInVm(load, { kernel });
      assert.equal(run.exitCode, 0, run.output);
    });
  });
}

async function leftovers(): Promise<string[]> {
  return (await readdir(tmpdir())).filter(name => name.startsWith('tidegate-vm-')).sort();
}
