import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { fileURLToPath } from 'node:url';
import { KIND_NAMES, kindNumber } from '@tidegate/contracts';
import type { FilterSets, Filters } from '@tidegate/native';
import { COMMON_SETTINGS, TidegateError } from '@tidegate/runtime';
import { Type, type Static } from 'typebox';

const MIB = 1024 * 1024;

/** Numbers of the kernel: uids, cgroup ids, inode numbers. */
const NumberList = (description: string) => Type.Optional(Type.Array(Type.Integer({ minimum: 0 }), { description }));
const TextList = (description: string) => Type.Optional(Type.Array(Type.String({ minLength: 1 }), { description }));

/** Settings of the sensor. */
export const sensorConfig = Type.Object({
  ...COMMON_SETTINGS,
  healthPort: Type.Integer({ default: 7402, minimum: 0, maximum: 65_535, description: 'Port of health and metrics; 0: any free one.' }),
  node: Type.Optional(Type.String({ minLength: 1, description: 'Name of this node, as Kubernetes has it. Without it the host name.' })),
  natsInboxByNode: Type.Boolean({
    default: false,
    description: 'The NATS user is of this node alone: its inbox prefix is _INBOX_sensor_<node>, not _INBOX_sensor.',
  }),
  dataDir: Type.String({ default: '/var/lib/tidegate', description: 'Folder for the spool and what the sensor remembers over restarts.' }),
  spoolMaxBytes: Type.Integer({ default: 1024 * MIB, minimum: MIB, description: 'Bytes on disk at most while NATS is away.' }),
  keepPins: Type.Boolean({ default: true, description: 'After an ordered stop the kernel goes on recording for the next start.' }),
  pinDirectory: Type.String({ default: '/sys/fs/bpf/tidegate', description: 'Folder on a bpffs for pinned links and maps.' }),
  pin: Type.Boolean({ default: true, description: 'Pins links and maps, so that nothing is missed while the sensor restarts.' }),
  lifecycleRingBytes: Type.Integer({
    default: 4 * MIB,
    minimum: 4096,
    description: 'Ring buffer for fork, exec, exit and cgroups; a power of two.',
  }),
  dataRingBytes: Type.Integer({ default: 16 * MIB, minimum: 4096, description: 'Ring buffer for all other kinds; a power of two.' }),
  batchMaxBytes: Type.Integer({
    default: 256 * 1024,
    minimum: 4096,
    maximum: MIB,
    description: 'Batches are sealed before they grow over this.',
  }),
  lingerMs: Type.Integer({ default: 2, minimum: 0, maximum: 10_000, description: 'A batch waits so long for more events at most.' }),
  queueMaxBatches: Type.Integer({ default: 64, minimum: 1, maximum: 65_536, description: 'Batches between the reader and JavaScript.' }),
  windowBytes: Type.Integer({ default: 8 * MIB, minimum: MIB, description: 'Bytes on their way to NATS, not yet acknowledged, at most.' }),
  compression: Type.Union([Type.Literal('none'), Type.Literal('zstd')], { default: 'none', description: 'Of batches on RAW.' }),
  procRoot: Type.String({ default: '/proc', pattern: '^/', description: "The host's /proc." }),
  cgroupRoot: Type.Optional(
    Type.String({ pattern: '^/', description: "Where the host's cgroup v2 is mounted. Without it, it is looked up." }),
  ),
  bpfObject: Type.Optional(Type.String({ pattern: '^/', description: 'The compiled BPF programs. Without it, those of this build.' })),
  kinds: TextList(`Kinds of events that are let through, of ${KIND_NAMES.join(', ')}; without it all.`),
  allowUids: NumberList('Only events of these uids.'),
  denyUids: NumberList('No events of these uids.'),
  allowCgroups: NumberList('Only events of these cgroup ids.'),
  denyCgroups: NumberList('No events of these cgroup ids.'),
  allowNamespaces: NumberList('Only events of processes in one of these namespaces (inode numbers).'),
  denyNamespaces: NumberList('No events of processes in one of these namespaces (inode numbers).'),
  allowBinaries: TextList('Only events of binaries whose path begins so.'),
  denyBinaries: TextList('No events of binaries whose path begins so.'),
});

export type SensorConfig = Static<typeof sensorConfig>;

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
  if (config.cgroupRoot !== undefined) return config.cgroupRoot;
  const mount = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map(line => line.split(' '))
    .find(([, , type]) => type === 'cgroup2');
  return mount?.[1] ?? '/sys/fs/cgroup';
}

function filterSets(uids?: number[], cgroups?: number[], namespaces?: number[], binaries?: string[]): FilterSets | undefined {
  const sets = { ...(uids && { uids }), ...(cgroups && { cgroups }), ...(namespaces && { namespaces }), ...(binaries && { binaries }) };
  return Object.keys(sets).length === 0 ? undefined : sets;
}
