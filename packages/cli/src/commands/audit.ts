import { setTimeout as delay } from 'node:timers/promises';
import { BatchError, countText, parseEventHeaders, printable, STREAMS } from '@tidegate/contracts';
import type { NatsConnection } from '@nats-io/nats-core';
import { createStreamReaders, TidegateError } from '@tidegate/runtime';
import { Option } from 'commander';
import { createAudit, isClean, type AuditPhase, type NodeAudit } from '../audit.ts';
import { ExitCode, natsOption, natsUrlOf, type CommandContext, type CommandSpec } from '../command.ts';
import { connectCommand } from '../nats-access.ts';

/** The rest of a batch is waited for so long at the end of the stream: an enricher may have died amid it, and another takes over. */
const SETTLE_MS = 15_000;
const PROGRESS_INTERVAL_MS = 250;
/** How often the end of the stream is looked at for the rest of a batch. */
const SETTLE_POLL_MS = 250;

export const auditCommand: CommandSpec = {
  name: 'audit',
  summary: 'Prove that no event is missing in silence',
  details:
    'Reads the stream EVENTS over NATS and checks, for each node, that every sequence number is there or covered by a loss event.\n' +
    'Exit status: 0 all clean, 1 there are gaps or duplicates, 2 it could not be proved (nothing to read, unreadable messages).',
  options: [
    new Option('--from <time>', 'begin of the window: 15m, 2h, or a date (default: the beginning of the stream)'),
    new Option('--to <time>', 'end of the window').default('now'),
    new Option('--node <name>', 'one node only'),
    new Option('-o, --output <format>', 'one of text, json').default('text'),
    natsOption(),
  ],
  examples: [
    ['tidegate audit', 'all that is stored'],
    ['tidegate audit --from 1h', 'the last hour'],
    ['tidegate audit --from 2026-01-31T12:00:00Z --to 2026-01-31T13:00:00Z --node worker-1', 'one hour of one node'],
  ],
  async run({ options, faults }, context) {
    const nowMs = Date.now();
    const fromUs = faults.timeUs('--from', options.text('from'), nowMs);
    const toUs = faults.timeUs('--to', options.text('to'), nowMs) ?? nowMs * 1000;
    if (fromUs !== undefined && fromUs >= toUs) faults.add('--to', 'a time after --from', options.text('to'));
    const format = faults.oneOf('--output', options.text('output'), ['text', 'json']);
    const url = natsUrlOf(faults, options.text('nats'));
    faults.check();
    const nc = await connectCommand(url, context.env, context.signal);
    try {
      const report = await auditStream(nc, { fromUs, toUs, node: options.text('node'), context });
      if (format === 'json') await context.print(JSON.stringify(report, undefined, 2));
      else await printReport(report, context);
      if (report.unreadable > 0 || report.nodes.length === 0) return ExitCode.failed;
      return isClean(report.nodes) ? ExitCode.ok : ExitCode.amiss;
    } finally {
      await nc.close();
    }
  },
};

interface AuditReport {
  messages: number;
  bytes: number;
  /** Messages that are no batch. */
  unreadable: number;
  /** Messages the stream discarded while it was read. */
  discarded: number;
  nodes: NodeAudit[];
}

interface AuditWindow {
  fromUs: number | undefined;
  toUs: number;
  node: string | undefined;
  context: CommandContext;
}

/** Reads the window, and behind it the rest of the batches that began within. */
async function auditStream(nc: NatsConnection, { fromUs, toUs, node, context }: AuditWindow): Promise<AuditReport> {
  const stream = STREAMS.events.name;
  const readers = await createStreamReaders(nc);
  const { first } = await readers.bounds(stream);
  const reader = readers.open({ stream, start: fromUs === undefined ? { streamSequence: 1 } : { timeMs: fromUs / 1000 } });
  const report: AuditReport = { messages: 0, bytes: 0, unreadable: 0, discarded: 0, nodes: [] };
  let audit: ReturnType<typeof createAudit> | undefined;
  let lastStreamSequence = 0;
  let settleDeadlineMs = Infinity;
  let progressAtMs = 0;
  try {
    reading: for (;;) {
      for await (const { streamSequence, timeNs, data, headers, pending } of reader.read({ follow: false })) {
        if (context.signal.aborted) break;
        audit ??= createAudit({ node, startsTorn: fromUs !== undefined || first > 1 });
        if (lastStreamSequence > 0) report.discarded += streamSequence - lastStreamSequence - 1;
        lastStreamSequence = streamSequence;
        const timeMs = timeNs / 1e6;
        const phase: AuditPhase = timeMs <= toUs / 1000 ? 'within' : 'after';
        if (phase === 'after' && audit.unsettled().length === 0) break reading;
        report.messages++;
        report.bytes += data.length;
        try {
          audit.add(
            data,
            parseEventHeaders(name => headers?.get(name)),
            phase,
          );
        } catch (error) {
          if (!(error instanceof BatchError)) throw error;
          report.unreadable++;
        }
        if (performance.now() - progressAtMs > PROGRESS_INTERVAL_MS) {
          progressAtMs = performance.now();
          context.progress(`reading: ${countText(report.messages)} messages, ${countText(pending)} to go`);
        }
      }
      if (context.signal.aborted) throw new TidegateError('TIMEOUT', 'the audit was stopped before its end');
      // The end of the stream. A batch of which a part is missing may be on its way.
      if (!audit || audit.unsettled().length === 0) break;
      const nowMs = performance.now();
      settleDeadlineMs = Math.min(settleDeadlineMs, nowMs + SETTLE_MS);
      if (nowMs > settleDeadlineMs) break;
      await delay(SETTLE_POLL_MS, undefined, { signal: context.signal }).catch(() => undefined);
    }
  } finally {
    context.progress('');
    reader.close();
  }
  report.nodes = audit?.result() ?? [];
  return report;
}

async function printReport({ nodes, messages, unreadable, discarded }: AuditReport, { print, paint }: CommandContext): Promise<void> {
  for (const node of nodes) {
    const isNodeClean = isClean([node]);
    const play = node.recordedBoot === undefined ? '' : ` (recorded, play ${printable(node.recordedBoot)})`;
    await print(`${paint(isNodeClean ? 'green' : 'red', isNodeClean ? 'clean' : 'NOT CLEAN')}  ${printable(node.node)}${play}`);
    await print(`  numbers     ${node.first}..${node.last}`);
    await print(`  events      ${countText(node.events)}`);
    const reasons = Object.entries(node.lost).map(([reason, count]) => `${reason} ${countText(count)}`);
    if (node.unknownLosses > 0) reasons.push(`${countText(node.unknownLosses)} loss event(s) of unknown size`);
    await print(`  missing     ${countText(node.missing)}`);
    await print(`  lost        ${reasons.join(', ') || '0'}`);
    await print(`  duplicates  ${node.duplicates === 0 ? '0' : paint('red', countText(node.duplicates))}`);
    await print(
      `  gaps        ${node.gapNumbers === 0 ? '0' : paint('red', `${countText(node.gapNumbers)} number(s) that no loss covers`)}`,
    );
    for (const { first, last } of node.gaps) await print(`              ${first === last ? first : `${first}..${last}`}`);
    const listed = node.gaps.reduce((sum, { first, last }) => sum + last - first + 1, 0);
    if (listed < node.gapNumbers) await print(`              and ${countText(node.gapNumbers - listed)} more`);
  }
  if (nodes.length === 0) await print(`nothing to audit: no event of the window among ${countText(messages)} message(s)`);
  if (unreadable > 0) await print(paint('red', `${countText(unreadable)} message(s) cannot be read`));
  if (discarded > 0) await print(paint('red', `the stream discarded ${countText(discarded)} message(s) of the window`));
}
