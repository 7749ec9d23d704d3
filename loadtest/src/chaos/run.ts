/** Faults under load, and whether anything was lost in silence or is there twice. */
import { setTimeout as delay } from 'node:timers/promises';
import { STREAMS } from '@tidegate/contracts';
import { jetstreamManager } from '@nats-io/jetstream';
import { seededRandom, takeSteps, type Random, type Step } from './faults.ts';
import { judgeMarkers, runMarkers, type MarkerJudgement } from './markers.ts';
import { NODE, setStage, type Stage } from './stage.ts';

export interface ChaosOptions {
  seed: number;
  /** The faults, in their order. */
  steps: (stage: Stage, random: Random) => readonly Step[];
  print: (line: string) => void;
}

export interface ChaosResult extends MarkerJudgement {
  markers: number;
  /** Milliseconds from the end of the last fault until the last marker had come and `tidegate status` found all in order. */
  settledAfterMs: number;
  /** What is wrong, in words; empty: nothing. */
  faults: string[];
}

const MARKERS_PER_SECOND = 100;
/** A dead nats-server, an enricher's take-over and a sensor's spool take some 10 s each. */
const SETTLE_TIMEOUT_MS = 60_000;
const POLL_MS = 250;
const WARM_UP_MARKERS = 20;

export async function runChaos({ seed, steps, print }: ChaosOptions): Promise<ChaosResult> {
  await using stage = await setStage();
  await settle(stage);
  const startedAtMs = performance.now();
  const markers = runMarkers(stage.program, `chaos-${seed}`, MARKERS_PER_SECOND);
  try {
    while (markers.count < WARM_UP_MARKERS) await delay(POLL_MS);
    await takeSteps(stage, steps(stage, seededRandom(seed)), ({ what, lastsMs }) => {
      const seconds = ((performance.now() - startedAtMs) / 1000).toFixed(1);
      print(`${seconds.padStart(7)} s  ${what}${lastsMs === 0 ? '' : ` for ${(lastsMs / 1000).toFixed(1)} s`}`);
    });
  } finally {
    await markers.stop();
  }
  const healedAtMs = performance.now();
  const signal = AbortSignal.timeout(SETTLE_TIMEOUT_MS);
  const judgement = await judgeMarkers(stage.nc, { node: NODE, name: `chaos-${seed}`, count: markers.count, signal });
  const problems = await settle(stage);
  const settledAfterMs = Math.round(performance.now() - healedAtMs);
  const audit = await stage.command('audit');
  const { state } = await (await jetstreamManager(stage.nc, { checkAPI: false })).streams.info(STREAMS.deadLetter.name);
  const faults = [
    ...stage.accidents,
    ...(problems === '' ? [] : [`not in order ${SETTLE_TIMEOUT_MS / 1000} s after the last fault: ${problems}`]),
    ...(judgement.isComplete ? [] : [`the last marker did not come in ${SETTLE_TIMEOUT_MS / 1000} s`]),
    ...(audit.code === 0 ? [] : [`tidegate audit: ${audit.output}`]),
    ...(judgement.twice.length === 0 ? [] : [`markers that are there twice: ${listed(judgement.twice)}`]),
    ...(judgement.silent.length === 0 ? [] : [`markers that are missing in silence: ${listed(judgement.silent)}`]),
    ...(judgement.unordered.length === 0 ? [] : [`subjects that are out of order: ${listed(judgement.unordered)}`]),
    ...(state.messages === 0 ? [] : [`${state.messages} dead letters`]),
  ];
  return { ...judgement, markers: markers.count, settledAfterMs, faults };
}

/** Waits until `tidegate status` finds all in order. Returns what it says when it does not. */
async function settle(stage: Stage): Promise<string> {
  const untilMs = performance.now() + SETTLE_TIMEOUT_MS;
  for (;;) {
    const { code, output } = await stage.command('status');
    if (code === 0) return '';
    if (performance.now() > untilMs) return output;
    await delay(POLL_MS);
  }
}

function listed(items: readonly (number | string)[]): string {
  return items.length <= 20 ? items.join(', ') : `${items.slice(0, 20).join(', ')} and ${items.length - 20} more`;
}
