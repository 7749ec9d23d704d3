/**
 * Prints events from the stream EVENTS, with the published schema alone. On Node.js 20 and newer:
 *
 *   npm install
 *   npx tsx consume.ts nats://127.0.0.1:7422
 */
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, nanos } from '@nats-io/transport-node';
import protobuf from 'protobufjs';

const SCHEMA = new URL('../../../packages/contracts/proto/tidegate/v1/events.proto', import.meta.url).pathname;

interface Batch {
  node: string;
  wallOffsetNs: number;
  processes: { id: number; parent: number; container: number; pid: number; binary: string; arguments: string[] }[];
  containers: { id: number; podUid: string }[];
  pods: { uid: string; namespace: string; name: string }[];
  events: { process: number; ktimeNs: number; exec?: object; exit?: { code: number; signal: number } }[];
}

const EventBatch = (await protobuf.load(SCHEMA)).lookupType('tidegate.v1.EventBatch');
const nc = await connect({ servers: process.argv[2] ?? 'nats://127.0.0.1:7422', maxReconnectAttempts: -1 });
const manager = await jetstreamManager(nc);
// The last 15 minutes of programs started and ended, then what follows.
const { name } = await manager.consumers.add('EVENTS', {
  filter_subjects: ['tidegate.events.exec.>', 'tidegate.events.exit.>'],
  deliver_policy: DeliverPolicy.StartTime,
  opt_start_time: new Date(Date.now() - 15 * 60_000).toISOString(),
  ack_policy: AckPolicy.None,
  inactive_threshold: nanos(60_000),
});
const consumer = await jetstream(nc).consumers.get('EVENTS', name);
for await (const message of await consumer.consume()) {
  printBatch(EventBatch.toObject(EventBatch.decode(message.data), { longs: Number, defaults: true }) as Batch);
}

/** One message holds one or more events; processes, containers and pods stand in its tables once. */
function printBatch(batch: Batch): void {
  const processes = new Map(batch.processes.map(process => [process.id, process]));
  const containers = new Map(batch.containers.map(container => [container.id, container]));
  const pods = new Map(batch.pods.map(pod => [pod.uid, pod]));
  for (const event of batch.events) {
    const process = processes.get(event.process);
    if (!process) continue;
    const pod = pods.get(containers.get(process.container)?.podUid ?? '');
    const place = pod ? `${pod.namespace}/${pod.name}` : batch.node;
    const time = new Date((batch.wallOffsetNs + event.ktimeNs) / 1e6).toISOString().slice(11, 23);
    // JSON: arguments may hold anything, also what a terminal would act on.
    if (event.exec)
      console.log(
        `${time} exec ${place} ${processes.get(process.parent)?.binary ?? '?'} → ${JSON.stringify(process.arguments)} (pid ${process.pid})`,
      );
    else if (event.exit) console.log(`${time} exit ${place} ${process.binary} code ${event.exit.code} signal ${event.exit.signal}`);
  }
}
