/** Asks the sensor whether the kernel can be used here. The command itself does not load native code. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { servicePath } from './service-path.ts';

/** On an emulated machine Node.js alone takes ten seconds. */
const PROBE_TIMEOUT_MS = 60_000;
const run = promisify(execFile);

export interface KernelProbe {
  ok: boolean;
  /** One sentence for each thing that is missing. */
  missing: string[];
  /** What works, but less well. */
  limits: string[];
}

export async function probeKernel(env: NodeJS.ProcessEnv): Promise<KernelProbe> {
  try {
    const { stdout } = await run(process.execPath, [servicePath('node-sensor', 'probe')], { env, timeout: PROBE_TIMEOUT_MS });
    const report = JSON.parse(stdout) as { ok: boolean; missing: { message: string }[]; limits: { message: string }[] };
    return { ok: report.ok, missing: report.missing.map(fault => fault.message), limits: report.limits.map(fault => fault.message) };
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    const reason = stderr
      ?.split('\n')
      .find(line => /Error/.test(line))
      ?.trim();
    return { ok: false, missing: [`The kernel sensor cannot be started: ${reason ?? message}`], limits: [] };
  }
}
