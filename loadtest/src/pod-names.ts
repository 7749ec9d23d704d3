/**
 * A million pod names in a day, as CI runners and workflows make them: what the subjects of EVENTS cost a server with the enricher's bound, which gives a namespace's first
 * thousand names subjects of their own and the others one together, and as they would be without it. One message a pod. (Names that a controller generates the gateway has cut to their
 * stem before; these follow no pattern.)
 */
import { setTimeout as delay } from 'node:timers/promises';
import { encodeBatch, EVENTS_PREFIX, Kind, kindName, STREAMS } from '@tidegate/contracts';
import { enricherConfig, IdentityCache, IDENTITY_LIMITS } from '@tidegate/enricher';
import { connectNats, createLogger, createPublisher, createStreamReaders, ensureStreams } from '@tidegate/runtime';
import { createHost, startNatsServer } from '@tidegate/testkit';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Report } from './report.ts';
import { residentBytes } from './stack.ts';
import { syntheticBatch } from './synthetic-batch.ts';

const NAMES = Number(process.env.TIDEGATE_BENCH_NAMES ?? 1_000_000);
const NAMESPACES = 50;
const WORKLOADS_PER_NAMESPACE = enricherConfig.workloadsPerNamespace.default!;
const FOLLOWED_NAMESPACE = 'team-7';
/** Until the server has written what it holds back, and given up what it needs no more. */
const SETTLE_MS = 5_000;
const PROGRESS_EVERY = 4_096;
const MB = 1e6;

interface Outcome {
  subjects: number;
  atRestBytes: number;
  storedBytes: number;
  messagesPerSecond: number;
  firstMs: number;
  restartMs: number;
  publishedPerSecond: number;
  messages: number;
}

export async function run(report: Report): Promise<void> {
  const bounded = new IdentityCache({ ...IDENTITY_LIMITS, workloadsPerNamespace: WORKLOADS_PER_NAMESPACE });
  const unbounded = new IdentityCache();
  const folded = await store((namespace, name) => bounded.place(namespace, name));
  const all = await store((namespace, name) => unbounded.place(namespace, name));
  const what = `${NAMES.toLocaleString('en-US')} pod names`;
  const add = (name: string, unit: string, of: (outcome: Outcome) => number) =>
    report.add({ name: `${what}: ${name}`, value: of(folded), unit, baseline: { name: 'a subject each', value: of(all) } });
  report.check('all messages of the namespace read, in both', folded.messages === NAMES / NAMESPACES && all.messages === folded.messages);
  report.check('subjects are bounded', folded.subjects <= NAMESPACES * (WORKLOADS_PER_NAMESPACE + 1));
  add('subjects', 'subjects', ({ subjects }) => subjects);
  add('memory of nats-server', 'MB', ({ storedBytes }) => storedBytes / MB);
  add('memory of nats-server after a restart', 'MB', ({ atRestBytes }) => atRestBytes / MB);
  add('restart of nats-server', 'ms', ({ restartMs }) => restartMs);
  add('stored', 'messages/s', ({ publishedPerSecond }) => publishedPerSecond);
  add('consumer of one namespace, first message', 'ms', ({ firstMs }) => firstMs);
  add('consumer of one namespace', 'messages/s', ({ messagesPerSecond }) => messagesPerSecond);
}

/** @param place as the enricher gives it: `<namespace>.<workload>` */
async function store(place: (namespace: string, name: string) => string): Promise<Outcome> {
  await using host = createHost();
  await using server = await startNatsServer();
  const connect = () => connectNats({ url: server.url, name: 'bench', logger: createLogger({ name: 'bench', level: 'error' }) });
  let nc = await connect();
  host.defer(() => nc.close());
  await ensureStreams(nc, [STREAMS.events]);
  const publisher = createPublisher(nc, { stream: STREAMS.events.name, logger: host.logger });
  const payload = encodeBatch(syntheticBatch({ events: 2, pods: 1 }));
  const subjects = new Set<string>();
  const startMs = performance.now();
  let last: Promise<unknown> = Promise.resolve();
  for (let i = 0; i < NAMES; i++) {
    const subject = `${EVENTS_PREFIX}.${kindName(Kind.KIND_EXEC)}.${place(`team-${i % NAMESPACES}`, `build-${i.toString(36)}-x${i % 97}`)}`;
    subjects.add(subject);
    if (i % PROGRESS_EVERY === 0) await publisher.ready();
    while (!publisher.stats.hasRoom) await publisher.ready();
    last = publisher.publish({ subject, payload, messageId: `bench:${i}` });
  }
  await last;
  await publisher.close();
  const publishedPerSecond = (NAMES * 1000) / (performance.now() - startMs);
  await delay(SETTLE_MS);
  const storedBytes = residentBytes(server.pid);
  const read = await readNamespace(nc);
  await nc.close();
  const restartedAtMs = performance.now();
  await server.restart();
  nc = await connect();
  await (await createStreamReaders(nc)).bounds(STREAMS.events.name);
  const restartMs = performance.now() - restartedAtMs;
  await delay(SETTLE_MS);
  return { subjects: subjects.size, atRestBytes: residentBytes(server.pid), storedBytes, restartMs, publishedPerSecond, ...read };
}

async function readNamespace(nc: NatsConnection): Promise<Pick<Outcome, 'messagesPerSecond' | 'firstMs' | 'messages'>> {
  const readers = await createStreamReaders(nc);
  const startMs = performance.now();
  const subjects = [`${EVENTS_PREFIX}.*.${FOLLOWED_NAMESPACE}.*`];
  const reader = readers.open({ stream: STREAMS.events.name, start: { streamSequence: 1 }, subjects });
  let messages = 0;
  let firstMs = 0;
  for await (const _message of reader.read({ follow: false })) if (++messages === 1) firstMs = performance.now() - startMs;
  const seconds = (performance.now() - startMs) / 1000;
  readers.close();
  return { messages, firstMs, messagesPerSecond: messages / seconds };
}
