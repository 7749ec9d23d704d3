import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { skipReason } from './sensor.ts';

const TEST_FOLDER = fileURLToPath(new URL('.', import.meta.url));
const NATIVE_FOLDER = join(TEST_FOLDER, '..');
const LIBRARIES = ['libasan.so', 'libubsan.so'].map(name => execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim());
const missing = LIBRARIES.find(library => !existsSync(library));

/** The addon and its parts, built with the address and undefined-behaviour sanitizers, under tests of this folder: each again a process of its own. */
describe('sanitizers', { skip: missing ? `${missing} is missing` : false }, () => {
  before(() => {
    const jobs = `-j${availableParallelism()}`;
    execFileSync('make', ['-s', jobs, '-C', NATIVE_FOLDER, 'asan', 'asan-test-programs']);
  });

  function runUnderSanitizers(testFile: string, environment: NodeJS.ProcessEnv): void {
    // A test file that is started by a test runner does not report by itself.
    const { NODE_TEST_CONTEXT: _, ...inherited } = process.env;
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--test', join(TEST_FOLDER, testFile)], {
      env: { ...inherited, ...environment },
      encoding: 'utf8',
    });
    assert.equal(status, 0, stdout + stderr);
  }

  test('tables, ring and encoder', () => {
    runUnderSanitizers('encoder.test.ts', { TIDEGATE_NATIVE_TEST_PROGRAMS: join(NATIVE_FOLDER, 'build/asan/test') });
  });

  test('the life of a reader', { skip: skipReason() }, () => {
    runUnderSanitizers('reader.test.ts', {
      TIDEGATE_NATIVE_ADDON: join(NATIVE_FOLDER, 'build/asan/tidegate.node'),
      LD_PRELOAD: LIBRARIES.join(' '),
      ASAN_OPTIONS: 'detect_leaks=0', // Node.js itself does not free all it has at its end
    });
  });
});
