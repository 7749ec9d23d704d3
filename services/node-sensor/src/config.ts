import { existsSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KIND_NAMES, kindNumber } from '@tidegate/contracts';
import type { FilterSets, Filters } from '@tidegate/native';
import {
  COMMON_SETTINGS,
  TidegateError,
  absolutePath,
  choice,
  flag,
  integer,
  integerList,
  text,
  textList,
  type Config,
  type ConfigSchema,
} from '@tidegate/runtime';

const MIB = 1024 * 1024;

/** Numbers of the kernel: uids, cgroup ids, inode numbers. */
const kernelNumbers = (description: string) => integerList({ optional: true, minimum: 0, description });
const texts = (description: string) => textList({ optional: true, description });

/** Settings of the sensor. */
export const sensorConfig = {
  ...COMMON_SETTINGS,
  healthPort: integer({ default: 7402, minimum: 0, maximum: 65_535, description: 'Port of health and metrics; 0: any free one.' }),
  node: text({
    optional: true,
    description: 'Name of this node, as Kubernetes has it. Without it the host name; `tidegate up` asks the cluster first.',
  }),
  natsInboxByNode: flag({
    default: false,
    description: 'The NATS user is of this node alone: its inbox prefix is _INBOX_sensor_<node>, not _INBOX_sensor.',
  }),
  dataDir: text({ default: '/var/lib/tidegate', description: 'Folder for the spool and what the sensor remembers over restarts.' }),
  spoolMaxBytes: integer({ default: 1024 * MIB, minimum: MIB, description: 'Bytes on disk at most while NATS is away.' }),
  keepPins: flag({ default: true, description: 'After an ordered stop the kernel goes on recording for the next start.' }),
  pinDirectory: text({ default: '/sys/fs/bpf/tidegate', description: 'Folder on a bpffs for pinned links and maps.' }),
  pin: flag({ default: true, description: 'Pins links and maps, so that nothing is missed while the sensor restarts.' }),
  lifecycleRingBytes: integer({
    default: 4 * MIB,
    minimum: 4096,
    description: 'Ring buffer for fork, exec, exit and cgroups; a power of two.',
  }),
  dataRingBytes: integer({ default: 16 * MIB, minimum: 4096, description: 'Ring buffer for all other kinds; a power of two.' }),
  batchMaxBytes: integer({
    default: 1_000_000,
    minimum: 4096,
    maximum: MIB,
    description:
      "Bytes of a batch in a message at most: with headers below a nats-server's default limit of 1 MiB. Before they are compressed they may be four times as many.",
  }),
  lingerMs: integer({
    default: 100,
    minimum: 0,
    maximum: 60_000,
    description: 'A batch waits so long for more events at most, while nobody follows live.',
  }),
  queueMaxBatches: integer({ default: 64, minimum: 1, maximum: 65_536, description: 'Batches between the reader and JavaScript.' }),
  windowBytes: integer({ default: 8 * MIB, minimum: MIB, description: 'Bytes on their way to NATS, not yet acknowledged, at most.' }),
  keptMaxBytes: integer({
    default: 16 * MIB,
    minimum: 0,
    description:
      'Bytes of batches kept in memory for half a minute after NATS has acknowledged them, at most: they are sent again when its power failed before they were on its disk.',
  }),
  compression: choice(['none', 'zstd'], { default: 'zstd', description: 'Of batches on RAW.' }),
  procRoot: absolutePath({ default: '/proc', description: "The host's /proc." }),
  cgroupRoot: absolutePath({
    optional: true,
    description: "Where the host's cgroup v2 is mounted, or the folder whose `unified` it is beside v1. Without it, it is looked up.",
  }),
  cgroupV1Root: absolutePath({
    optional: true,
    description: "Where the host's cgroup v1 hierarchy with the pids controller is mounted. Without it, it is looked up.",
  }),
  hostRoot: absolutePath({ default: '/', description: "The host's root folder, for the container runtime's files." }),
  bpfObject: absolutePath({ optional: true, description: 'The compiled BPF programs. Without it, those of this build.' }),
  kinds: texts(`Kinds of events that are let through, of ${KIND_NAMES.join(', ')}; without it all.`),
  allowUids: kernelNumbers('Only events of these uids.'),
  denyUids: kernelNumbers('No events of these uids.'),
  allowCgroups: kernelNumbers('Only events of these cgroup ids.'),
  denyCgroups: kernelNumbers('No events of these cgroup ids.'),
  allowNamespaces: kernelNumbers('Only events of processes in one of these namespaces (inode numbers).'),
  denyNamespaces: kernelNumbers('No events of processes in one of these namespaces (inode numbers).'),
  allowBinaries: texts('Only events of binaries whose path begins so.'),
  denyBinaries: texts('No events of binaries whose path begins so.'),
} satisfies ConfigSchema;

export type SensorConfig = Config<typeof sensorConfig>;

/** Name of this node. */
export function nodeName(config: Pick<SensorConfig, 'node'>): string {
  return config.node ?? hostname();
}

/** The kernel's filters. Throws CONFIG_INVALID for an unknown kind. */
export function filtersOf(config: SensorConfig): Filters {
  const kinds = config.kinds?.map(name => {
    const number = kindNumber(name);
    if (number !== undefined) return number;
    throw new TidegateError('CONFIG_INVALID', 'there is no such kind of event', {
      field: 'TIDEGATE_KINDS',
      expected: `some of ${KIND_NAMES.join(', ')}`,
      got: name,
    });
  });
  const allow = filterSets(config.allowUids, config.allowCgroups, config.allowNamespaces, config.allowBinaries);
  const deny = filterSets(config.denyUids, config.denyCgroups, config.denyNamespaces, config.denyBinaries);
  return { ...(kinds && { kinds }), ...(allow && { allow }), ...(deny && { deny }) };
}

/** The programs built with this checkout. */
export function bpfObjectFile(config: Pick<SensorConfig, 'bpfObject'>): string {
  return config.bpfObject ?? fileURLToPath(new URL('../../../bpf/build/tidegate.bpf.o', import.meta.url));
}

/** Where cgroup v2 is mounted: alone at /sys/fs/cgroup, or beside v1 in a folder of its own. */
export function cgroupRoot(config: Pick<SensorConfig, 'cgroupRoot'>): string {
  const { cgroupRoot: given } = config;
  if (given === undefined) return mountOf(({ type }) => type === 'cgroup2') ?? '/sys/fs/cgroup';
  const isCgroup2 = (folder: string) => existsSync(join(folder, 'cgroup.procs')) && existsSync(join(folder, 'cgroup.controllers'));
  const unified = join(given, 'unified');
  return !isCgroup2(given) && isCgroup2(unified) ? unified : given;
}

/** Where the cgroup v1 hierarchy with the pids controller is mounted; null: this node has none. */
export function cgroupV1Root(config: Pick<SensorConfig, 'cgroupV1Root'>): string | null {
  // A container's own part of it is of no use.
  const isWhole = ({ type, root, options }: Mount) => type === 'cgroup' && root === '/' && options.split(',').includes('pids');
  return config.cgroupV1Root ?? mountOf(isWhole) ?? null;
}

interface Mount {
  folder: string;
  /** Folder of the file system that is mounted there. */
  root: string;
  type: string;
  options: string;
}

/** The first such mount: proc_pid_mountinfo(5). */
function mountOf(isWanted: (mount: Mount) => boolean): string | undefined {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  return mounts
    .map(line => {
      const [own = '', fileSystem = ''] = line.split(' - ');
      const [, , , root = '', folder = ''] = own.split(' ');
      const [type = '', , options = ''] = fileSystem.split(' ');
      return { folder, root, type, options };
    })
    .find(isWanted)?.folder;
}

function filterSets(uids?: number[], cgroups?: number[], namespaces?: number[], binaries?: string[]): FilterSets | undefined {
  const sets = { ...(uids && { uids }), ...(cgroups && { cgroups }), ...(namespaces && { namespaces }), ...(binaries && { binaries }) };
  return Object.keys(sets).length === 0 ? undefined : sets;
}
