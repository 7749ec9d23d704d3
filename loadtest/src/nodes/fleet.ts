/** Simulated nodes in a process of their own, so that what they cost is told apart. */
import { join } from 'node:path';
import type { Host } from '@tidegate/testkit';

export interface FleetOptions {
  natsUrl: string;
  nodes: number;
  /** Of each node. */
  eventsPerSecond: number;
  seed: number;
}

export interface FleetRun {
  nodes: number;
  /** Batches wait so long. */
  lingerMs: number;
  /** And as enrichers and followers ask for. */
  followsPace: boolean;
}

/** Since the fleet was opened. */
export interface FleetCounts {
  /** Handed to publishers, and stored in RAW. */
  sentEvents: number;
  ackedEvents: number;
  /** Batches, and the bytes of their payloads. */
  sentMessages: number;
  sentBytes: number;
  /** Not acknowledged now. */
  pendingMessages: number;
  replacedPods: number;
}

export interface Fleet {
  readonly pid: number;
  /** Lets the first so many nodes work until `stop`. */
  run(options: FleetRun): Promise<void>;
  counts(): Promise<FleetCounts>;
  /** Resolves when all is stored in RAW. */
  stop(): Promise<FleetCounts>;
}

/** What the process is asked for. */
export interface FleetCalls {
  open: { argument: FleetOptions; result: void };
  run: { argument: FleetRun; result: void };
  counts: { argument: undefined; result: FleetCounts };
  stop: { argument: undefined; result: FleetCounts };
}

export interface FleetCall {
  id: number;
  name: keyof FleetCalls;
  argument: unknown;
}

interface FleetAnswer {
  id: number;
  result?: unknown;
  error?: string;
}

const PROGRAM = join(import.meta.dirname, 'fleet-process.js');

/** Connects all nodes and puts their pods into KV. Streams and buckets are there. */
export async function createFleet(host: Host, options: FleetOptions): Promise<Fleet> {
  const child = host.spawn('setpriv', ['--pdeathsig', 'KILL', '--', process.execPath, '--no-warnings', PROGRAM], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const waiting = new Map<number, PromiseWithResolvers<unknown>>();
  let nextId = 1;
  child.on('message', ({ id, result, error }: FleetAnswer) => {
    const answer = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) answer?.resolve(result);
    else answer?.reject(new Error(error));
  });
  child.once('exit', () => {
    for (const { reject } of waiting.values()) reject(new Error('the process of the simulated nodes ended'));
  });
  function call<Name extends keyof FleetCalls>(name: Name, argument: FleetCalls[Name]['argument']): Promise<FleetCalls[Name]['result']> {
    const id = nextId++;
    const answer = Promise.withResolvers<unknown>();
    waiting.set(id, answer);
    const message: FleetCall = { id, name, argument };
    child.send(message);
    return answer.promise as Promise<FleetCalls[Name]['result']>;
  }
  await call('open', options);
  return {
    pid: child.pid!,
    run: argument => call('run', argument),
    counts: () => call('counts', undefined),
    stop: () => call('stop', undefined),
  };
}
