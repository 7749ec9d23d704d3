/** Helm for tests of the chart: from PATH, else built once with Go into the cache. */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { acquireLock } from './kubernetes/lock.ts';
import { findProgram } from './kubernetes/programs.ts';

const HELM_VERSION = '3.22.0';
/** On two cores about two minutes, and tests of several files wait for the one that builds. */
const BUILD_TIMEOUT_MS = 15 * 60_000;
const OUTPUT_MAX_BYTES = 16 * 1024 * 1024;

const execute = promisify(execFile);

/** @returns the program's path, or why there is none, for a test's `skip` */
export async function provideHelm(): Promise<{ path: string; unavailable?: undefined } | { path?: undefined; unavailable: string }> {
  const installed = findProgram('helm');
  if (installed !== undefined) return { path: installed };
  const path = join(cacheFolder(), `helm-${HELM_VERSION}`);
  if (existsSync(path)) return { path };
  if (findProgram('go') === undefined) return { unavailable: 'the chart needs helm in PATH, or Go to build it' };
  const release = await acquireLock('helm-build', BUILD_TIMEOUT_MS);
  try {
    if (!existsSync(path)) await build(path);
  } finally {
    await release();
  }
  return { path };
}

/** Where what takes long to make is kept for later runs. */
export function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'tidegate');
}

async function build(path: string): Promise<void> {
  process.stderr.write(`testkit: building helm ${HELM_VERSION}, once: about two minutes\n`);
  mkdirSync(cacheFolder(), { recursive: true });
  const folder = mkdtempSync(join(cacheFolder(), 'go-'));
  try {
    await execute('go', ['install', `helm.sh/helm/v3/cmd/helm@v${HELM_VERSION}`], {
      env: { ...process.env, GOBIN: folder },
      timeout: BUILD_TIMEOUT_MS,
      maxBuffer: OUTPUT_MAX_BYTES,
    });
    renameSync(join(folder, 'helm'), path);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
