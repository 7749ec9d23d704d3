/** What goes wrong: each fault begins, lasts, and is undone. Which, when, and for how long a seed decides before the first begins. */
import { setTimeout as delay } from 'node:timers/promises';
import { BUCKETS, STREAMS } from '@tidegate/contracts';
import { bucketStream, NatsRole } from '@tidegate/runtime';
import { waitFor, type NetworkPlace } from '@tidegate/testkit';
import type { Member, ServerMember, Stage } from './stage.ts';

export interface Step {
  /** From the end of the fault before, or from the beginning. */
  afterMs: number;
  what: string;
  lastsMs: number;
  /** Resolves to what undoes it. */
  begin(stage: Stage): Promise<() => void | Promise<void>>;
}

/** Numbers from 0 to below 1, the same for the same seed (Mulberry32). */
export type Random = () => number;

export type Fault = Pick<Step, 'what' | 'lastsMs' | 'begin'>;

type Draw = (random: Random, stage: Stage) => Fault;

/** Some faults begin while what the one before broke is not whole again. */
const PAUSE_MS = { least: 0, most: 5_000 };
/** Long enough for nats-servers and enrichers to be taken for dead: 4 to 10 s. */
const FAULT_MS = { least: 500, most: 12_000 };
const STUTTER_MS = { stopped: 400, running: 100 };
const API_TIMEOUT_MS = 2_000;
/** A modem: batches of markers do not keep up. */
const SLOW_BITS_PER_SECOND = 64_000;
const STORES = [...Object.values(STREAMS).map(({ name }) => name), ...Object.values(BUCKETS).map(({ name }) => bucketStream(name))];

export function killed(member: Member, lastsMs: number): Fault {
  return {
    what: `kill ${member.name}`,
    lastsMs,
    async begin() {
      await member.kill();
      return () => member.start();
    },
  };
}

export function paused(member: Member, lastsMs: number): Fault {
  return {
    what: `pause ${member.name}`,
    lastsMs,
    begin() {
      member.pause();
      return Promise.resolve(() => member.resume());
    },
  };
}

/** Slow, not dead: they stand still for most of each half second. */
export function stuttering(members: readonly Member[], lastsMs: number): Fault {
  return {
    what: `slow down ${namesOf(members)}`,
    lastsMs,
    begin() {
      const over = new AbortController();
      const pulses = (async () => {
        while (!over.signal.aborted) {
          for (const member of members) member.pause();
          await delay(STUTTER_MS.stopped);
          for (const member of members) member.resume();
          await delay(STUTTER_MS.running);
        }
      })();
      return Promise.resolve(() => {
        over.abort();
        return pulses;
      });
    },
  };
}

export function restarted(member: Member): Fault {
  return {
    what: `restart ${member.name}`,
    lastsMs: 0,
    async begin() {
      await member.stop();
      return () => member.start();
    },
  };
}

export function leaderMoved(stream: string): Fault {
  return {
    what: `move the leader of ${stream}`,
    lastsMs: 0,
    async begin({ nc }) {
      // While the stream has no leader there is nothing to move.
      await nc.request(`$JS.API.STREAM.LEADER.STEPDOWN.${stream}`, undefined, { timeout: API_TIMEOUT_MS }).catch(() => undefined);
      return () => undefined;
    },
  };
}

/** SIGKILL for whichever server leads the stream then. */
export function leaderKilled(stream: string, lastsMs: number): Fault {
  return {
    what: `kill the leader of ${stream}`,
    lastsMs,
    async begin({ nc, cluster }) {
      const leader = await waitFor(() => cluster.leaderOf(nc, stream), { what: `a leader of ${stream}` });
      await leader.kill();
      return () => leader.restart();
    },
  };
}

export function networkCut(member: Member, lastsMs: number): Fault {
  return onNetwork('cut', member, lastsMs, place => place.cut());
}

export function networkSlow(member: Member, lastsMs: number): Fault {
  return onNetwork('slow', member, lastsMs, place => place.slow(SLOW_BITS_PER_SECOND));
}

function onNetwork(what: string, { name, place }: Member, lastsMs: number, begin: (place: NetworkPlace) => Promise<void>): Fault {
  return {
    what: `${what} the network of ${name}`,
    lastsMs,
    async begin() {
      await begin(place);
      return () => place.heal();
    },
  };
}

export function diskFull(server: ServerMember, lastsMs: number): Fault {
  return {
    what: `fill the disk of ${server.name}`,
    lastsMs,
    begin() {
      server.disk.fill();
      return Promise.resolve(async () => {
        server.disk.free();
        // It has switched JetStream off.
        await server.start();
      });
    },
  };
}

/** What they had acknowledged and not yet written to their disks is gone. */
export function powerCut(servers: readonly ServerMember[], lastsMs: number): Fault {
  return {
    what: `cut the power of ${namesOf(servers)}`,
    lastsMs,
    async begin() {
      await Promise.all(servers.map(server => server.kill()));
      for (const { disk } of servers) disk.cutPower();
      return () => startAll(servers);
    },
  };
}

/** Fellows that are started, and stopped in order. */
export function joined(members: readonly Member[], lastsMs: number): Fault {
  return changed('come and go', members, lastsMs, startAll, stopAll);
}

/** The other way round. */
export function left(members: readonly Member[], lastsMs: number): Fault {
  return changed('go and come', members, lastsMs, stopAll, startAll);
}

type Change = (members: readonly Member[]) => Promise<void>;

function changed(how: string, members: readonly Member[], lastsMs: number, begin: Change, undo: Change): Fault {
  return {
    what: `${namesOf(members)} ${how}`,
    lastsMs,
    async begin() {
      await begin(members);
      return () => undo(members);
    },
  };
}

async function startAll(members: readonly Member[]): Promise<void> {
  await Promise.all(members.map(member => member.start()));
}

async function stopAll(members: readonly Member[]): Promise<void> {
  await Promise.all(members.map(member => member.stop()));
}

/** Each as likely as the other. */
const FAULTS: readonly Draw[] = [
  (random, stage) => killed(pick(random, membersOf(stage)), duration(random)),
  (random, stage) => paused(pick(random, membersOf(stage)), duration(random)),
  (random, stage) => stuttering([pick(random, membersOf(stage))], duration(random)),
  (random, stage) => stuttering(stage.servers, duration(random)),
  (random, stage) => restarted(pick(random, membersOf(stage))),
  random => leaderMoved(pick(random, STORES)),
  random => leaderKilled(pick(random, STORES), duration(random)),
  (random, stage) => networkCut(pick(random, membersOf(stage)), duration(random)),
  (random, stage) => networkSlow(pick(random, membersOf(stage)), duration(random)),
  (random, stage) => diskFull(pick(random, stage.servers), duration(random)),
  (random, stage) => powerCut([pick(random, stage.servers)], duration(random)),
  (random, stage) => powerCut(stage.servers, duration(random)),
  (random, stage) =>
    joined(
      stage.services.filter(({ isSpare }) => isSpare),
      duration(random),
    ),
  (random, stage) =>
    left(
      stage.services.filter(({ role, isSpare }) => role === NatsRole.enricher && !isSpare),
      duration(random),
    ),
];

/** Steps that last `forMs` together, drawn from the seed. */
export function drawSteps(stage: Stage, random: Random, forMs: number): Step[] {
  const steps: Step[] = [];
  for (let atMs = 0; ;) {
    const afterMs = Math.round(PAUSE_MS.least + random() * (PAUSE_MS.most - PAUSE_MS.least));
    const step = { afterMs, ...pick(random, FAULTS)(random, stage) };
    atMs += afterMs + step.lastsMs;
    if (atMs > forMs) return steps;
    steps.push(step);
  }
}

/** Takes the steps one after the other; `onStep` hears of each before it begins. */
export async function takeSteps(stage: Stage, steps: readonly Step[], onStep: (step: Step) => void): Promise<void> {
  for (const step of steps) {
    await delay(step.afterMs);
    onStep(step);
    const undo = await step.begin(stage);
    await delay(step.lastsMs);
    await undo();
  }
}

export function seededRandom(seed: number): Random {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function namesOf(members: readonly Member[]): string {
  return members.map(({ name }) => name).join(' and ');
}

function membersOf({ services, servers }: Stage): Member[] {
  return [...services.filter(({ isSpare }) => !isSpare), ...servers];
}

function pick<T>(random: Random, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)]!;
}

function duration(random: Random): number {
  return Math.round(FAULT_MS.least + random() * (FAULT_MS.most - FAULT_MS.least));
}
