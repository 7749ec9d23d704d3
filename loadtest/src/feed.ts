/**
 * The feed for plain subscribers: events of EVENTS as JSON on NATS subjects, by the CPU that its process takes from the first message to the last. Baseline: the same messages
 * decoded to objects and given to JSON.stringify, here and without NATS.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { jetstream } from '@nats-io/jetstream';
import { STREAMS, createEventReader, decodeBatch, parseEventSubject } from '@tidegate/contracts';
import { connectNats, createLogger } from '@tidegate/runtime';
import { costSince, processCost } from './process-cost.ts';
import type { Report } from './report.ts';
import { startStack, type Stack } from './stack.ts';
import { runStorm } from './storm.ts';

const EVENTS = 400_000;
const WARM_UP_EVENTS = 100_000;
const GOAL_EVENTS_PER_SECOND = 40_000;
const WAIT_MS = 120_000;

export async function run(report: Report): Promise<void> {
  // What the kernel's storm makes; by default the feed has no close events.
  const stack = await startStack({ TIDEGATE_FEED_KINDS: 'close,loss' });
  const listener = await connectNats({
    url: stack.natsUrl,
    name: 'bench-listener',
    logger: createLogger({ name: 'bench', level: 'warn' }),
  });
  try {
    let received = 0;
    listener.subscribe('tidegate.feed.>', { callback: () => void received++ });
    await listener.flush();
    const storm = async (events: number) => {
      const before = received;
      await runStorm({ stack, events, cgroupIds: [] });
      const untilMs = performance.now() + WAIT_MS;
      while (received - before < events && performance.now() < untilMs) await delay(20);
      return received - before;
    };
    // Awake, and compiled.
    while (received === 0) await runStorm({ stack, events: 1, cgroupIds: [] }).then(() => delay(200));
    await storm(WARM_UP_EVENTS);

    const { connectors } = stack.pids();
    const before = processCost(connectors!);
    const heard = await storm(EVENTS);
    const { cpuNs } = costSince(connectors!, before);
    report.check(`all ${EVENTS.toLocaleString('en-US')} events heard`, heard >= EVENTS);
    report.add({
      name: 'EVENTS to JSON on NATS subjects, one core',
      value: heard / (cpuNs / 1e9),
      unit: 'events/s',
      baseline: { name: 'decode + JSON.stringify', value: await stringified(stack) },
      goal: { value: GOAL_EVENTS_PER_SECOND, is: 'at least' },
    });
  } finally {
    await listener.close();
    await stack.stop();
  }
}

/** Events per second of CPU. */
async function stringified(stack: Stack): Promise<number> {
  const nc = await stack.connect();
  try {
    const consumer = await jetstream(nc).consumers.get(STREAMS.events.name, { filter_subjects: 'tidegate.events.close.>' });
    let events = 0;
    let cpuUs = 0;
    for await (const message of await consumer.consume()) {
      const start = process.cpuUsage();
      const batch = decodeBatch(message.data);
      const reader = createEventReader(batch, parseEventSubject(message.subject));
      for (const event of batch.events) if (Buffer.from(JSON.stringify(reader.toJson(event))).length > 0) events++;
      const { user, system } = process.cpuUsage(start);
      cpuUs += user + system;
      if (events >= WARM_UP_EVENTS && cpuUs > 0 && (message.info.pending === 0 || events >= EVENTS)) break;
    }
    return events / (cpuUs / 1e6);
  } finally {
    await nc.close();
  }
}
