/** What the sensor costs a workload: a fork + exec loop, and redis-benchmark GET, each measured in turn with and without it. The baseline is the run without. */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Report } from './report.ts';
import { percentile } from './samples.ts';
import { startStack } from './stack.ts';

const ROUNDS = 7;
const FORKS = 1_500;
const REDIS_REQUESTS = 400_000;
/** Until what a start leaves to do (compiling, first reports) is done; the machine rests as long before a run without. */
const SETTLE_MS = 3_000;
const REDIS_PORT = 16_399;
const GOAL_REDIS_PERCENT = 1;

export async function run(report: Report): Promise<void> {
  const redis = await startRedis();
  const runs: Record<'forks' | 'redis', { without: number[]; with: number[] }> = {
    forks: { without: [], with: [] },
    redis: { without: [], with: [] },
  };
  try {
    for (let round = 0; round < ROUNDS; round++) {
      for (const mode of round % 2 === 0 ? (['without', 'with'] as const) : (['with', 'without'] as const)) {
        const stack = mode === 'with' ? await startStack() : undefined;
        try {
          await delay(SETTLE_MS);
          runs.forks[mode].push(forksPerSecond());
          if (redis) runs.redis[mode].push(redisGetsPerSecond());
        } finally {
          await stack?.stop();
        }
      }
    }
  } finally {
    await redis?.stop();
  }
  const cost = (name: string, { without, with: withSensor }: { without: number[]; with: number[] }, goal?: number) => {
    const [a, b] = [percentile(without, 50), percentile(withSensor, 50)];
    report.add({
      name: `${name}: cost`,
      value: (1 - b / a) * 100,
      unit: '%',
      goal: goal === undefined ? undefined : { value: goal, is: 'at most' },
      note: `median of ${ROUNDS}: ${Math.round(a).toLocaleString('en-US')}/s without, ${Math.round(b).toLocaleString('en-US')}/s with; without varied by ${spread(without).toFixed(1)} %`,
    });
  };
  cost('fork + exec loop, whole stack on this machine', runs.forks);
  if (redis) cost('redis-benchmark GET, base events', runs.redis, GOAL_REDIS_PERCENT);
  else console.log('skipped  redis-benchmark: redis-server and redis-benchmark are not on the PATH (Debian: redis-server, redis-tools)');
}

function forksPerSecond(): number {
  const start = performance.now();
  execFileSync('sh', ['-c', `i=0; while [ $i -lt ${FORKS} ]; do /bin/true; i=$((i+1)); done`]);
  return (FORKS * 1000) / (performance.now() - start);
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
