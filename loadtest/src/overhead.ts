/**
 * What Tidegate costs a workload: a fork + exec loop, beside the stack on all cores and with everything on one core, and redis-benchmark GET, each measured in turn
 * with and without it. The baseline is the run without. What the stack took of a core meanwhile says what must show where there is no other core.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { MAX_PACE_LEASE_MS } from '@tidegate/contracts';
import { costSince, processCost } from './process-cost.ts';
import type { Report } from './report.ts';
import { percentile } from './samples.ts';
import { startStack, type Stack } from './stack.ts';

const ROUNDS = 5;
/** Of some of each the fastest counts: whatever else the machine does makes them slower. Each is long enough for several batches. */
const TRIES = 5;
const FORKS = 1_500;
const REDIS_REQUESTS = 150_000;
/** Until what a start leaves to do is done: compiling, first reports, and the lease with which `npm start` followed live to see that events arrive. */
const SETTLE_MS = MAX_PACE_LEASE_MS + 3_000;
const REDIS_PORT = 16_399;
const GOAL_REDIS_PERCENT = 1;
const GOAL_FORKS_PERCENT = 5;

const LOADS = { forks: forksPerSecond, forksCpu: forksPerCpuSecond, forksOnOneCore: forksPerSecond, redis: redisGetsPerSecond };
type Load = keyof typeof LOADS;

interface Runs {
  without: number[];
  with: number[];
  /** Of the whole stack, in percent of a core. */
  stackPercent: number[];
}

export async function run(report: Report): Promise<void> {
  const redis = await startRedis();
  const runs = Object.fromEntries(Object.keys(LOADS).map(load => [load, { without: [], with: [], stackPercent: [] }])) as unknown as Record<
    Load,
    Runs
  >;
  try {
    for (let round = 0; round < ROUNDS; round++) {
      for (const mode of round % 2 === 0 ? (['without', 'with'] as const) : (['with', 'without'] as const)) {
        const stack = mode === 'with' ? await startStack() : undefined;
        try {
          await delay(mode === 'with' ? SETTLE_MS : SETTLE_MS - MAX_PACE_LEASE_MS);
          for (const load of Object.keys(LOADS) as Load[]) {
            if (load === 'redis' && !redis) continue;
            if (load === 'forksOnOneCore') pin(stack, '0');
            const fastest = () => Math.max(...Array.from({ length: TRIES }, LOADS[load]));
            const rate = stack ? runBeside(stack, fastest, runs[load].stackPercent) : fastest();
            runs[load][mode].push(rate);
            if (load === 'forksOnOneCore') pin(stack, `0-${availableParallelism() - 1}`);
          }
        } finally {
          await stack?.stop();
        }
      }
    }
  } finally {
    await redis?.stop();
  }
  const cost = (name: string, { without, with: withStack, stackPercent }: Runs, goal?: number) => {
    const [a, b] = [percentile(without, 50), percentile(withStack, 50)];
    report.add({
      name: `${name}: cost`,
      value: (1 - b / a) * 100,
      unit: '%',
      goal: goal === undefined ? undefined : { value: goal, is: 'at most' },
      note: [
        `median of ${ROUNDS}: ${Math.round(a).toLocaleString('en-US')}/s without, ${Math.round(b).toLocaleString('en-US')}/s with`,
        `without varied by ${spread(without).toFixed(1)} %`,
        `the stack took ${percentile(stackPercent, 50).toFixed(1)} % of a core`,
      ].join('; '),
    });
  };
  cost('fork + exec loop beside the whole stack', runs.forks, GOAL_FORKS_PERCENT);
  cost('fork + exec loop, CPU time of its own', runs.forksCpu);
  cost('fork + exec loop and the whole stack on one core', runs.forksOnOneCore);
  if (redis) cost('redis-benchmark GET, base events', runs.redis, GOAL_REDIS_PERCENT);
  else console.log('skipped  redis-benchmark: redis-server and redis-benchmark are not on the PATH (Debian: redis-server, redis-tools)');
}

/** The load's rate; what the stack took meanwhile goes to `percents`. */
function runBeside(stack: Stack, load: () => number, percents: number[]): number {
  const before = Object.values(stack.pids()).map(pid => ({ pid, cost: processCost(pid) }));
  const startMs = performance.now();
  const rate = load();
  const cpuNs = before.reduce((sum, { pid, cost }) => sum + costSince(pid, cost).cpuNs, 0);
  percents.push(cpuNs / 1e4 / (performance.now() - startMs));
  return rate;
}

/** This process, whose children inherit it, and the stack. @param cores as taskset(1) takes them */
function pin(stack: Stack | undefined, cores: string): void {
  for (const pid of [process.pid, ...Object.values(stack?.pids() ?? {})])
    execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', cores, String(pid)], { stdio: 'ignore' });
}

const FORK_LOOP = `i=0; while [ $i -lt ${FORKS} ]; do /bin/true; i=$((i+1)); done; times`;

function forksPerSecond(): number {
  const start = performance.now();
  execFileSync('sh', ['-c', FORK_LOOP]);
  return (FORKS * 1000) / (performance.now() - start);
}

/** Of CPU time that the loop and its programs took: time in which others had the core does not count, what the hooks take in their name does. */
function forksPerCpuSecond(): number {
  const output = execFileSync('sh', ['-c', FORK_LOOP], { encoding: 'utf8' });
  const times = [...output.matchAll(/(\d+)m([\d.]+)s/g)].map(([, minutes, seconds]) => Number(minutes) * 60 + Number(seconds));
  return FORKS / times.reduce((sum, each) => sum + each, 0);
}

function redisGetsPerSecond(): number {
  const output = execFileSync(
    'redis-benchmark',
    ['-p', String(REDIS_PORT), '-t', 'get', '-n', String(REDIS_REQUESTS), '-c', '20', '--csv'],
    {
      encoding: 'utf8',
    },
  );
  const match = /"GET","([\d.]+)"/.exec(output);
  if (!match) throw new Error(`redis-benchmark printed no figure for GET:\n${output}`);
  return Number(match[1]);
}

async function startRedis(): Promise<{ stop(): Promise<void> } | undefined> {
  const isThere = ['redis-server', 'redis-benchmark'].every(command => {
    try {
      execFileSync(command, ['--version'], { stdio: 'ignore' });
      return true;
    } catch {
      return false;
    }
  });
  if (!isThere) return undefined;
  const folder = mkdtempSync(join(tmpdir(), 'tidegate-bench-redis-'));
  const server = spawn('redis-server', ['--port', String(REDIS_PORT), '--bind', '127.0.0.1', '--save', '', '--dir', folder], {
    stdio: 'ignore',
  });
  await delay(500);
  return {
    async stop() {
      const ended = new Promise(resolve => server.once('exit', resolve));
      server.kill();
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Half the range over the median, percent: how far a difference says nothing. */
function spread(values: number[]): number {
  return ((Math.max(...values) - Math.min(...values)) / 2 / percentile(values, 50)) * 100;
}
