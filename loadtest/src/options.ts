/** Options of `npm run bench`. */
import { parseArgs } from 'node:util';

export interface BenchOptions {
  /** Of what is drawn at random. */
  seed: number;
  /** How long a benchmark runs that has no length of its own. */
  minutes: number;
}

const MAX_SEED = 2 ** 31;
const DEFAULT_MINUTES = 2;

/** @throws {Error} naming what is wrong */
export function parseOptions(args: readonly string[]): BenchOptions & { names: string[] } {
  const { values, positionals } = parseArgs({
    args: [...args],
    options: { seed: { type: 'string' }, minutes: { type: 'string' } },
    allowPositionals: true,
  });
  const seed = values.seed === undefined ? Math.floor(Math.random() * MAX_SEED) : Number(values.seed);
  const minutes = values.minutes === undefined ? DEFAULT_MINUTES : Number(values.minutes);
  if (!Number.isInteger(seed) || seed < 0 || seed >= MAX_SEED)
    throw new Error(`--seed: expected an integer from 0 to ${MAX_SEED - 1}, got ${values.seed}`);
  if (!(minutes > 0)) throw new Error(`--minutes: expected a number above 0, got ${values.minutes}`);
  return { names: positionals, seed, minutes };
}
