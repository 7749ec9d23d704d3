/** Filters as people write them, and as the kernel's maps hold them. */
import { Faults } from './native-error.ts';

/** Members of a list. A set that is left out says nothing. */
export interface FilterSets {
  /** Real uids, in the initial user namespace. */
  uids?: number[];
  /** cgroup v2 ids. */
  cgroups?: number[];
  /** Inode numbers of any of the process's namespaces. */
  namespaces?: number[];
  /** Prefixes of the path of the binary, as it was at exec. */
  binaries?: string[];
}

export interface Filters {
  /** Numbers of Kind that are let through; left out: all. */
  kinds?: number[];
  /** Only members pass, in every set that is there. */
  allow?: FilterSets;
  /** Members do not pass; goes before `allow`. */
  deny?: FilterSets;
}

/** Entries the kernel's maps have room for (bpf/include/maps.h). */
const SET_MAX = { uids: 1024, cgroups: 4096, namespaces: 1024, binaries: 1024 } as const;
/** TG_KIND_MAX and TG_BINARY_PREFIX_MAX. */
const KIND_MAX = 32;
const BINARY_PREFIX_MAX_BYTES = 256;
const ALL_KINDS = 0xffff_ffff;

/** enum tg_filter_set and tg_filter_member. */
const SET_BITS = { uids: 1, cgroups: 2, namespaces: 4, binaries: 8 } as const;
const ALLOW = 1;
const DENY = 2;

type Members<Key> = [Key, number][];

/** What the addon writes into the maps. */
export interface CompiledFilters {
  kinds: number;
  allow: number;
  deny: number;
  uids: Members<number>;
  cgroups: Members<number>;
  namespaces: Members<number>;
  binaries: Members<string>;
}

/** @throws {NativeError} NATIVE_FILTERS_INVALID, listing every fault. */
export function compileFilters(filters: Filters): CompiledFilters {
  const faults = new Faults();
  const numbers = (set: 'uids' | 'cgroups' | 'namespaces', max: number): Members<number> => {
    const members = merge(filters.allow?.[set], filters.deny?.[set]);
    faults.check(members.length <= SET_MAX[set], set, `at most ${SET_MAX[set]} members`, members.length);
    for (const [member] of members) faults.integer(set, member, { min: 0, max });
    return members;
  };
  for (const kind of filters.kinds ?? []) faults.integer('kinds', kind, { min: 1, max: KIND_MAX - 1 });
  const compiled: CompiledFilters = {
    kinds: filters.kinds?.reduce((bits, kind) => (bits | (1 << kind)) >>> 0, 0) ?? ALL_KINDS,
    allow: setBits(filters.allow),
    deny: setBits(filters.deny),
    uids: numbers('uids', 0xffff_ffff),
    cgroups: numbers('cgroups', Number.MAX_SAFE_INTEGER),
    namespaces: numbers('namespaces', 0xffff_ffff),
    binaries: inherit(merge(filters.allow?.binaries, filters.deny?.binaries)),
  };
  faults.check(compiled.binaries.length <= SET_MAX.binaries, 'binaries', `at most ${SET_MAX.binaries} members`, compiled.binaries.length);
  for (const [prefix] of compiled.binaries) faults.text('binaries', prefix, BINARY_PREFIX_MAX_BYTES);
  faults.raise('NATIVE_FILTERS_INVALID');
  return compiled;
}

function setBits(sets: FilterSets = {}): number {
  return Object.entries(SET_BITS).reduce((bits, [set, bit]) => (sets[set as keyof FilterSets] ? bits | bit : bits), 0);
}

function merge<Key>(allowed: Key[] = [], denied: Key[] = []): Members<Key> {
  const members = new Map<Key, number>();
  for (const member of allowed) members.set(member, ALLOW);
  for (const member of denied) members.set(member, (members.get(member) ?? 0) | DENY);
  return [...members];
}

/** The kernel looks at the longest prefix alone: it gets the lists of every shorter prefix of it. */
function inherit(members: Members<string>): Members<string> {
  return members.map(([prefix, lists]) => [
    prefix,
    members.reduce((all, [shorter, more]) => (prefix.startsWith(shorter) ? all | more : all), lists),
  ]);
}
