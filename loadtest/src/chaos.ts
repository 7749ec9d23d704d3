/** Faults drawn from a seed, under load. The seed says everything: run again with it to see the same faults at the same times. */
import { drawSteps } from './chaos/faults.ts';
import { runChaos } from './chaos/run.ts';
import type { BenchOptions } from './options.ts';
import type { Report } from './report.ts';

const MINUTE_MS = 60_000;

export async function run(report: Report, { seed, minutes }: BenchOptions): Promise<void> {
  console.log(`seed ${seed}, ${minutes} minutes`);
  const result = await runChaos({
    seed,
    steps: (stage, random) => drawSteps(stage, random, minutes * MINUTE_MS),
    print: line => console.log(line),
  });
  const { markers, told, lost, settledAfterMs, faults } = result;
  report.add({ name: 'markers', value: markers, unit: 'execs', note: `seed ${seed}` });
  report.add({ name: 'markers told lost', value: told.length, unit: 'execs' });
  for (const [reason, count] of Object.entries(lost)) report.add({ name: `lost: ${reason}`, value: count, unit: 'events' });
  report.add({ name: 'in order again after the last fault', value: settledAfterMs, unit: 'ms' });
  for (const fault of faults) console.log(fault);
  report.check('nothing lost in silence, nothing twice, all in order again', faults.length === 0);
  if (faults.length > 0) console.log(`repeat it: npm run bench -- chaos --seed ${seed} --minutes ${minutes}`);
}
