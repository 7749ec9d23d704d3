import { countText, durationText, RawHeader, rawSubject, STREAMS } from '@tidegate/contracts';
import { rm } from 'node:fs/promises';
import { createStreamReaders, TidegateError, type StreamMessage } from '@tidegate/runtime';
import { Option } from 'commander';
import { createCapture, type CaptureWriter } from '../capture-file.ts';
import { ExitCode, natsOption, natsUrlOf, type CommandSpec } from '../command.ts';
import { connectCommand } from '../nats-access.ts';
import { VERSION } from '../version.ts';

const MAX_EVENTS = 1e12;
const PROGRESS_INTERVAL_MS = 250;

export const captureCommand: CommandSpec = {
  name: 'capture',
  summary: 'Record what sensors send into a file',
  argument: { name: 'file', description: 'the file to write, which must not exist yet' },
  details: 'The file holds the batches of the stream RAW as they are; `tidegate play` plays them. Ctrl-C ends the recording.',
  options: [
    new Option('--duration <time>', 'end after this time: 30s, 5m'),
    new Option('--events <count>', 'end after so many events'),
    new Option('--node <name>', 'one node only'),
    natsOption(),
  ],
  examples: [
    ['tidegate capture attack.tgcap', 'record until Ctrl-C'],
    ['tidegate capture --duration 30s --node worker-1 deploy.tgcap', 'half a minute of one node'],
  ],
  async run({ argument: file, options, faults }, context) {
    const durationMs = faults.durationMs('--duration', options.text('duration'));
    const maxEvents = faults.integer('--events', options.text('events'), { min: 1, max: MAX_EVENTS }) ?? Infinity;
    const node = options.text('node');
    const url = natsUrlOf(faults, options.text('nats'));
    faults.newFile('<file>', file, 'the file to write, which must not exist yet');
    faults.check();
    const nc = await connectCommand(url, context.env, context.signal);
    let capture: CaptureWriter | undefined;
    try {
      const subject = node === undefined ? undefined : rawSubject(node);
      const readers = await createStreamReaders(nc);
      const { last } = await readers.bounds(STREAMS.raw.name);
      const reader = readers.open({
        stream: STREAMS.raw.name,
        subjects: subject === undefined ? [] : [subject],
        start: { streamSequence: last + 1 },
        maxAttempts: Infinity,
      });
      capture = await createCapture(file, { recordedAt: new Date().toISOString(), tidegate: VERSION });
      const { totals } = capture;
      context.note(`recording into ${file}; Ctrl-C ends it`);
      const startMs = performance.now();
      const progress = setInterval(
        () => context.progress(`${countText(totals.events)} events in ${durationText(performance.now() - startMs)}`),
        PROGRESS_INTERVAL_MS,
      );
      const deadline = durationMs === undefined ? undefined : setTimeout(() => reader.close(), durationMs);
      context.signal.addEventListener('abort', () => reader.close(), { once: true });
      if (context.signal.aborted) reader.close();
      try {
        for await (const message of reader.read({ follow: true })) {
          await writeMessage(capture, message);
          if (totals.events >= maxEvents) break;
        }
      } finally {
        clearInterval(progress);
        clearTimeout(deadline);
        context.progress('');
        reader.close();
        await capture.close();
      }
      const { entries, events } = totals;
      if (entries === 0) {
        await rm(file, { force: true });
        throw new TidegateError('TIMEOUT', 'no sensor sent anything while recording, so no file was written', {
          field: 'subject',
          got: subject ?? 'all',
        });
      }
      await context.print(`${file}: ${countText(events)} events in ${countText(entries)} batches`);
      return ExitCode.ok;
    } finally {
      await nc.close();
    }
  },
};

function writeMessage(capture: CaptureWriter, message: StreamMessage): Promise<void> {
  const headers: Record<string, string> = {};
  for (const [name, values] of message.headers ?? []) headers[name] = values[0] ?? '';
  const events = Number(headers[RawHeader.events] ?? 0);
  return capture.write(
    { time: new Date(message.timeNs / 1e6).toISOString(), subject: message.subject, headers, payload: Buffer.from(message.data) },
    events,
  );
}
