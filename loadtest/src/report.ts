/** Figures of one benchmark: printed as a table, kept as JSON in loadtest/results/. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describeMachine } from './machine.ts';

/** One figure, beside a baseline measured in the same run and the goal of docs/goals.md. */
export interface Figure {
  name: string;
  value: number;
  unit: string;
  baseline?: { name: string; value: number } | undefined;
  goal?: { value: number; /** Whether the figure has to be at least or at most the goal. */ is: 'at least' | 'at most' } | undefined;
  note?: string | undefined;
}

export interface Report {
  add(figure: Figure): void;
  /** Anything that must be true for the figures to count; false fails the run. */
  check(what: string, holds: boolean): void;
  /** Prints the rest, writes the file. Returns whether all checks held. */
  finish(): boolean;
}

export function createReport(bench: string, resultsDirectory: string): Report {
  const machine = describeMachine();
  const figures: Figure[] = [];
  const checks: { what: string; holds: boolean }[] = [];
  console.log(
    `# ${bench}: ${machine.cpu}, ${machine.cores} cores, ${machine.memoryGib} GiB, Linux ${machine.kernel}, Node.js ${machine.node}, commit ${machine.commit}`,
  );
  return {
    add(figure) {
      figures.push(figure);
      console.log(formatFigure(figure));
    },
    check(what, holds) {
      checks.push({ what, holds });
      console.log(`${holds ? 'ok    ' : 'FAILED'}  ${what}`);
    },
    finish() {
      mkdirSync(resultsDirectory, { recursive: true });
      const result = { bench, at: new Date().toISOString(), machine, figures, checks };
      writeFileSync(join(resultsDirectory, `${bench}.json`), `${JSON.stringify(result, null, 2)}\n`);
      return checks.every(check => check.holds);
    },
  };
}

function formatFigure({ name, value, unit, baseline, goal, note }: Figure): string {
  const parts = [`${name.padEnd(52)} ${formatNumber(value).padStart(12)} ${unit}`];
  if (baseline) parts.push(`baseline ${baseline.name} ${formatNumber(baseline.value)}, ratio ${formatNumber(value / baseline.value)}`);
  if (goal) {
    const isReached = goal.is === 'at least' ? value >= goal.value : value <= goal.value;
    parts.push(`goal ${goal.is} ${formatNumber(goal.value)}: ${isReached ? 'reached' : 'not reached'}`);
  }
  if (note) parts.push(note);
  return parts.join(' | ');
}

function formatNumber(value: number): string {
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 1 ? 2 : 4;
  return value.toLocaleString('en-US', { maximumFractionDigits: digits });
}
