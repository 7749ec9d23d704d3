/** Event kinds by the names used in subjects, filters and JSON: KIND_EXEC of the schema is `exec`. */
import { Kind } from './schema.ts';

/** Kind name by number; index 0 is unused. */
const NAMES: readonly string[] = Object.entries(Kind)
  .filter((entry): entry is [string, number] => typeof entry[1] === 'number')
  .reduce<string[]>((names, [name, number]) => {
    names[number] = name.slice('KIND_'.length).toLowerCase();
    return names;
  }, []);

const NUMBERS = new Map(NAMES.map((name, number) => [name, number]));

/** Kinds of any version of the schema are below this. */
export const KIND_LIMIT = 1_024;

/** All kind names, in the schema's order. */
export const KIND_NAMES: readonly string[] = NAMES.slice(1);

/**
 * Kinds that go first when a spool must shed: everything but process lifecycle and the records of loss and enforcement.
 * Lifecycle and enforcement are what an investigation cannot do without.
 */
const KEPT_KINDS: ReadonlySet<number> = new Set([Kind.KIND_EXEC, Kind.KIND_EXIT, Kind.KIND_ENFORCEMENT, Kind.KIND_LOSS]);

/** Name of a kind number; numbers from a newer schema become `kind-<number>`. */
export function kindName(kind: number): string {
  return NAMES[kind] ?? `kind-${kind}`;
}

/** Number of a kind name; undefined when there is none. */
export function kindNumber(name: string): number | undefined {
  const number = NUMBERS.get(name);
  return number === 0 ? undefined : number;
}

/** Whether events can be asked for by this name: a kind's of this schema, or `kind-<number>` of a newer one. */
export function isKindName(name: string): boolean {
  const newer = /^kind-(\d{1,4})$/.exec(name);
  if (!newer) return kindNumber(name) !== undefined;
  const number = Number(newer[1]);
  return number < KIND_LIMIT && NAMES[number] === undefined && kindName(number) === name;
}

/** Whether events of this kind are of the low priority: shed first. */
export function isDataKind(kind: number): boolean {
  return !KEPT_KINDS.has(kind);
}
