import { execFile } from 'node:child_process';
import { statfs } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Here pins lie unless TIDEGATE_PIN_DIRECTORY says otherwise. */
export const BPFFS = '/sys/fs/bpf';
const BPFFS_MAGIC = 0xcafe4a11;

/**
 * Mounts a bpffs for the sensor's pins, as systemd does at boot, where there is none and this is root. Resolves to whether it did; where it cannot, the
 * sensor's probe says what is lost.
 */
export async function provideBpffs(env: NodeJS.ProcessEnv): Promise<boolean> {
  const isElsewhere = env.TIDEGATE_PIN_DIRECTORY !== undefined && !env.TIDEGATE_PIN_DIRECTORY.startsWith(`${BPFFS}/`);
  if (process.platform !== 'linux' || process.getuid?.() !== 0 || isElsewhere) return false;
  try {
    if ((await statfs(BPFFS)).type === BPFFS_MAGIC) return false;
    await run('mount', ['-t', 'bpf', 'bpf', BPFFS]);
    return true;
  } catch {
    return false;
  }
}
