import { RawHeader, STREAMS, rawSubject } from '@tidegate/contracts';
import type { JsMsg } from '@nats-io/jetstream';
import { rm } from 'node:fs/promises';
import { TidegateError } from '@tidegate/runtime';
import { Option } from 'commander';
import { createCapture, type CaptureWriter } from '../capture-file.ts';
import { ExitCode, natsOption, urlOf, type CommandSpec } from '../command.ts';
import { connectCommand } from '../nats-access.ts';
import { openStreamPages } from '../stream-pages.ts';
import { countText, durationText } from '../terminal-text.ts';
import { VERSION } from '../version.ts';

const MAX_EVENTS = 1e12;

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
    const url = urlOf(faults, '--nats', options.text('nats'), ['nats:', 'tls:', 'ws:', 'wss:']);
    faults.check();
    const nc = await connectCommand(url, context.env, context.signal);
    let capture: CaptureWriter | undefined;
    try {
      const filterSubject = node === undefined ? undefined : rawSubject(node);
      const pages = await openStreamPages(nc, { stream: STREAMS.raw.name, begin: 'new', filterSubject });
      capture = await createCapture(file, { recordedAt: new Date().toISOString(), tidegate: VERSION });
      context.note(`recording into ${file}; Ctrl-C ends it`);
      const startMs = performance.now();
      const elapsedMs = () => performance.now() - startMs;
      try {
        while (!context.signal.aborted && elapsedMs() < (durationMs ?? Infinity) && capture.totals.events < maxEvents) {
          for (const message of await pages.next()) {
            if (capture.totals.events >= maxEvents) break;
            await writeMessage(capture, message);
          }
          context.progress(`${countText(capture.totals.events)} events in ${durationText(elapsedMs())}`);
        }
      } finally {
        context.progress('');
        await pages.close();
        await capture.close();
      }
      const { entries, events } = capture.totals;
      if (entries === 0) {
        await rm(file, { force: true });
        throw new TidegateError('TIMEOUT', 'no sensor sent anything while recording, so no file was written', {
          field: 'subject',
          got: filterSubject ?? 'all',
        });
      }
      await context.print(`${file}: ${countText(events)} events in ${countText(entries)} batches`);
      return ExitCode.ok;
    } finally {
      await nc.close();
    }
  },
};

function writeMessage(capture: CaptureWriter, message: JsMsg): Promise<void> {
  const headers: Record<string, string> = {};
  for (const [name, values] of message.headers ?? []) headers[name] = values[0] ?? '';
  const events = Number(headers[RawHeader.events] ?? 0);
  return capture.write({ time: message.time.toISOString(), subject: message.subject, headers, payload: Buffer.from(message.data) }, events);
}
