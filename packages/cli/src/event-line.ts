/** One event as one line for people. */
import { constants as osConstants } from 'node:os';
import { getSystemErrorName, type styleText } from 'node:util';
import type { AncestorJson, DetailsJson, EventJson, ProcessJson } from '@tidegate/contracts';
import { bytesText, commandLine, countText, durationText, printable } from './terminal-text.ts';

type Style = Parameters<typeof styleText>[0];
/** Colours a text, or leaves it as it is. */
export type Paint = (style: Style, text: string) => string;

const KIND_STYLES: Readonly<Record<string, Style>> = {
  exec: 'green',
  exit: 'gray',
  connect: 'cyan',
  accept: 'blue',
  listen: 'magenta',
  close: 'gray',
  enforcement: ['red', 'bold'],
  loss: ['red', 'bold'],
};
const KIND_WIDTH = 7;

const SIGNAL_NAMES = new Map(Object.entries(osConstants.signals).map(([name, number]) => [number, name]));

/**
 * `12:00:01.123 exec    _host/node  bash(231) → ls(240) /usr/bin/ls -la /tmp   (uid 0)`, in local time.
 * Nothing in it can move a terminal's cursor, whatever the process was called with.
 */
export function eventLine(event: EventJson, paint: Paint): string {
  const where = printable(`${event.namespace}/${event.pod?.name ?? event.workload}`);
  const kind = event.kind.padEnd(KIND_WIDTH);
  const style = KIND_STYLES[event.kind];
  const parts = [
    paint('gray', localTime(event.time)),
    style === undefined ? kind : paint(style, kind),
    paint('yellow', where),
    ...(event.recorded ? [paint('magenta', 'recorded')] : []),
    ` ${description(event, paint)}`,
  ];
  return parts.join(' ');
}

/** `ls(240)`. */
export function processName(process: Pick<AncestorJson, 'binary' | 'pid'> | undefined): string {
  if (!process) return '?';
  return `${printable(baseName(process.binary)) || '?'}(${process.pid})`;
}

/** `/usr/bin/ls -la`; under another name than the binary's, that one too: `/bin/busybox as sleep 5`. */
export function processCommand(process: ProcessJson | AncestorJson): string {
  const { binary, arguments: args } = process;
  const isNamesake = args[0] === undefined || baseName(args[0]) === baseName(binary);
  const words = [printable(binary), ...(isNamesake ? [] : ['as']), commandLine(isNamesake ? args.slice(1) : args)];
  if ('arguments_truncated' in process && process.arguments_truncated) words.push('…');
  return words.filter(word => word !== '').join(' ');
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** How a process ended: `code 1 after 3.2 ms`. */
export function exitText(exit: Detail, paint: Paint): string {
  const signal = number(exit, 'signal');
  const after = `after ${durationText(number(exit, 'duration_ns') / 1e6)}`;
  if (signal > 0) {
    const core = exit['core_dumped'] === true ? ', core dumped' : '';
    return `${paint('red', `killed by ${SIGNAL_NAMES.get(signal) ?? `signal ${signal}`}${core}`)} ${after}`;
  }
  const code = number(exit, 'code');
  return `${code === 0 ? 'code 0' : paint('red', `code ${code}`)} ${after}`;
}

export type Detail = Readonly<Record<string, unknown>>;

/** An event's own fields, under its kind's name. */
export function eventDetail(event: EventJson): Detail {
  return { ...event[event.kind as keyof DetailsJson] };
}

function description(event: EventJson, paint: Paint): string {
  const detail = eventDetail(event);
  const name = processName(event.process);
  switch (event.kind) {
    case 'exec': {
      const { process } = event;
      if (!process) return '?';
      return `${processName(event.parent)} → ${paint('bold', processCommand(process))}   ${paint('gray', `(pid ${process.pid}, uid ${process.uid})`)}`;
    }
    case 'exit':
      return `${name} ${exitText(detail, paint)}`;
    case 'connect': {
      const error = number(detail, 'error');
      const outcome = error === 0 ? '' : ` ${paint('red', `failed: ${errorName(error)}`)}`;
      return `${name} ${source(detail)} → ${destination(event, detail)}${outcome}`;
    }
    case 'accept':
      return `${name} ${source(detail)} ← ${destination(event, detail)}`;
    case 'listen':
      return `${name} on ${source(detail)}   ${paint('gray', `(backlog ${number(detail, 'backlog')})`)}`;
    case 'close': {
      const sent = bytesText(number(detail, 'bytes_sent'));
      const received = bytesText(number(detail, 'bytes_received'));
      const durationNs = number(detail, 'duration_ns');
      const after = durationNs > 0 ? ` in ${durationText(durationNs / 1e6)}` : '';
      return `${name} ${source(detail)} — ${destination(event, detail)} sent ${sent}, received ${received}${after}`;
    }
    case 'loss':
      return paint('red', lossText(detail));
    default:
      return `${name} ${printable(JSON.stringify(detail))}`;
  }
}

function lossText(detail: Detail): string {
  const count = number(detail, 'count');
  const first = number(detail, 'first_sequence');
  const range = first > 0 ? ` of numbers ${first}..${number(detail, 'last_sequence')}` : '';
  return `${count > 0 ? countText(count) : 'an unknown number of'} event(s) lost${range}: ${String(detail['reason'] ?? 'unknown')}`;
}

function source(detail: Detail): string {
  return address(detail['source_ip'], detail['source_port']);
}

/** The other end, with the pod, service or node it belongs to. */
function destination(event: EventJson, detail: Detail): string {
  const text = address(detail['destination_ip'], detail['destination_port']);
  const known = event.destination;
  if (!known) return text;
  const name = known.pod ?? known.service ?? known.node;
  const namespace = known.namespace === undefined ? '' : `${known.namespace}/`;
  return name === undefined ? text : `${text} ${printable(`[${namespace}${name}]`)}`;
}

function address(ip: unknown, port: unknown): string {
  const text = typeof ip === 'string' ? printable(ip) : '?';
  return `${text.includes(':') ? `[${text}]` : text}:${typeof port === 'number' ? port : 0}`;
}

function number(detail: Detail, field: string): number {
  const value = detail[field];
  // What can pass 2^53 is a decimal string.
  const amount = typeof value === 'string' && /^\d{1,20}$/.test(value) ? Number(value) : value;
  return typeof amount === 'number' ? amount : 0;
}

function errorName(errno: number): string {
  try {
    return getSystemErrorName(-errno);
  } catch {
    return `errno ${errno}`;
  }
}

function localTime(time: string): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return printable(time);
  const two = (value: number) => String(value).padStart(2, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}
