/** The enricher's own work: one RAW batch into messages by subject, on one core, without NATS. Baseline: decode, group, encode again in JavaScript. */
import { decodeBatch, encodeBatch, EventBatch, eventSubject, HOST_NAMESPACE, podKey, type EventBatchInput } from '@tidegate/contracts';
import { IdentityCache, Splicer, podDecoder } from '@tidegate/enricher';
import type { Report } from './report.ts';
import { encodedPod, podUid, SYNTHETIC_NODE, syntheticBatch } from './synthetic-batch.ts';

const BATCH_EVENTS = 12_000;
const POD_COUNTS = [0, 100, 1_000];
const CACHED_PODS = 100_000;
const MEASURE_MS = 2_000;
const GOAL_EVENTS_PER_SECOND = 2_000_000;
const LIMITS = { messageBytes: 1024 * 1024, maxMessageBytes: 8 * 1024 * 1024 };

export async function run(report: Report): Promise<void> {
  for (const pods of POD_COUNTS) {
    const payload = encodeBatch(syntheticBatch({ events: BATCH_EVENTS, pods }));
    const subjects = Math.max(pods, 1);
    const identities = identityCache(pods);
    const baseline = eventsPerSecond(() => reencode(payload));
    const value = eventsPerSecond(() => splice(payload, identities));
    report.check(`${subjects} subjects: no event lost`, countEvents(payload, identities) === BATCH_EVENTS);
    report.add({
      name: `splice to ${subjects} subjects, ${Math.round(payload.length / 1024)} KiB a batch`,
      value,
      unit: 'events/s',
      baseline: { name: 'decode + encode', value: baseline },
      goal: { value: GOAL_EVENTS_PER_SECOND, is: 'at least' },
    });
  }
  const payload = encodeBatch(syntheticBatch({ events: BATCH_EVENTS, pods: 100 }));
  const [small, large] = [identityCache(100), identityCache(CACHED_PODS)];
  report.add({
    name: `splice to 100 subjects with ${CACHED_PODS.toLocaleString('en-US')} pods in the cache`,
    value: eventsPerSecond(() => splice(payload, large)),
    unit: 'events/s',
    baseline: { name: 'with 100 pods', value: eventsPerSecond(() => splice(payload, small)) },
  });
}

const splicer = new Splicer(LIMITS);

function splice(payload: Uint8Array, identities: IdentityCache) {
  splicer.read(payload);
  return splicer.outputs(identities);
}

function countEvents(payload: Uint8Array, identities: IdentityCache): number {
  return splice(payload, identities).reduce((sum, output) => sum + decodeBatch(output.payload).events.length, 0);
}

function identityCache(pods: number): IdentityCache {
  const cache = new IdentityCache();
  for (let i = 0; i < pods; i++) {
    cache.putPod(podKey(SYNTHETIC_NODE, podUid(i)), podDecoder.decode(encodedPod(i)));
  }
  return cache;
}

/** What the enricher would do if it decoded. */
function reencode(payload: Uint8Array): number {
  const batch = decodeBatch(payload);
  const containerOf = new Map(batch.processes.map(process => [process.id, process.container ?? 0]));
  const groups = new Map<string, EventBatchInput>();
  for (const event of batch.events) {
    const container = containerOf.get(event.process ?? 0) ?? 0;
    const subject = eventSubject(event.kind ?? 0, container === 0 ? HOST_NAMESPACE : 'bench', `web-${container}`);
    let group = groups.get(subject);
    if (!group) {
      const { node, boot, wallOffsetNs } = batch;
      const processes = batch.processes.filter(process => (process.container ?? 0) === container || process.id === 1);
      group = {
        node,
        boot,
        batch: batch.batch,
        wallOffsetNs,
        processes,
        containers: batch.containers.filter(each => each.id === container),
        events: [],
      };
      groups.set(subject, group);
    }
    group.events!.push(event);
  }
  let bytes = 0;
  for (const group of groups.values()) bytes += EventBatch.encode(group).finish().length;
  return bytes;
}

function eventsPerSecond(once: () => unknown): number {
  const until = performance.now() + MEASURE_MS / 4;
  while (performance.now() < until) once();
  let rounds = 0;
  const start = performance.now();
  while (performance.now() - start < MEASURE_MS) {
    once();
    rounds++;
  }
  return (rounds * BATCH_EVENTS * 1000) / (performance.now() - start);
}
