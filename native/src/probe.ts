/** Whether the kernel's events can be had here, and if not, why. */
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { release } from 'node:os';
import { dirname } from 'node:path';
import { loadAddon } from './addon.ts';

export interface ProbeFault {
  what: 'platform' | 'kernel' | 'addon' | 'capabilities' | 'bpf' | 'btf' | 'bpffs';
  /** One sentence for people, with what to do where there is something. */
  message: string;
}

export interface ProbeReport {
  /** The reader can run. */
  ok: boolean;
  /** Without these it cannot. */
  missing: ProbeFault[];
  /** Without these it runs, but less well. */
  limits: ProbeFault[];
}

const KERNEL_MIN = { major: 5, minor: 10 } as const;
const BTF_FILE = '/sys/kernel/btf/vmlinux';
const BPFFS_FOLDER = '/sys/fs/bpf';
const BPFFS_MAGIC = 0xcafe4a11;
/** Bits of linux/capability.h. CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON. */
const CAPABILITIES = { dacReadSearch: 2n, sysPtrace: 19n, sysAdmin: 21n, perfmon: 38n, bpf: 39n } as const;

/**
 * What is missing to run here: privileges, kernel, BTF, bpffs.
 * @param pinDirectory where links and maps would be pinned
 */
export function probe(pinDirectory = BPFFS_FOLDER): ProbeReport {
  if (process.platform !== 'linux') {
    return report([{ what: 'platform', message: `Kernel events need Linux; this is ${process.platform}.` }], []);
  }
  const missing: ProbeFault[] = [];
  const limits: ProbeFault[] = [];
  const [major = 0, minor = 0] = release().split('.').map(Number);
  if (major < KERNEL_MIN.major || (major === KERNEL_MIN.major && minor < KERNEL_MIN.minor)) {
    missing.push({ what: 'kernel', message: `Linux ${KERNEL_MIN.major}.${KERNEL_MIN.minor} or newer is needed; this is ${release()}.` });
  }
  if (!existsSync(BTF_FILE)) {
    missing.push({ what: 'btf', message: `The kernel has no type information (${BTF_FILE}): it was built without CONFIG_DEBUG_INFO_BTF.` });
  }
  const has = effectiveCapabilities();
  if (!has(CAPABILITIES.sysAdmin) && !(has(CAPABILITIES.bpf) && has(CAPABILITIES.perfmon))) {
    missing.push({ what: 'capabilities', message: 'Loading BPF programs needs root, or CAP_BPF and CAP_PERFMON.' });
  } else if (missing.length === 0) {
    const fault = bpfFault();
    if (fault) missing.push(fault);
    if (!has(CAPABILITIES.sysPtrace) || !has(CAPABILITIES.dacReadSearch)) {
      limits.push({
        what: 'capabilities',
        message: 'Without CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, processes that already run may lack their working folder and container.',
      });
    }
  }
  if (!isOnBpffs(pinDirectory)) {
    limits.push({
      what: 'bpffs',
      message: `${pinDirectory} is not on a bpffs (mount -t bpf bpf ${BPFFS_FOLDER}): events are missed while the sensor restarts.`,
    });
  }
  return report(missing, limits);
}

function report(missing: ProbeFault[], limits: ProbeFault[]): ProbeReport {
  return { ok: missing.length === 0, missing, limits };
}

function effectiveCapabilities(): (bit: bigint) => boolean {
  const bits = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`);
  return bit => ((bits >> bit) & 1n) === 1n;
}

/** Root of a container may have every capability and still be refused by seccomp or lockdown. */
function bpfFault(): ProbeFault | undefined {
  try {
    const error = loadAddon().bpfError();
    return error === '' ? undefined : { what: 'bpf', message: `The kernel refuses bpf(2) to this process: ${error}.` };
  } catch (error) {
    return { what: 'addon', message: error instanceof Error ? error.message : String(error) };
  }
}

/** A folder that is not there yet is where its parent is. */
function isOnBpffs(folder: string): boolean {
  try {
    return statfsSync(folder).type === BPFFS_MAGIC;
  } catch {
    return folder !== dirname(folder) && isOnBpffs(dirname(folder));
  }
}
