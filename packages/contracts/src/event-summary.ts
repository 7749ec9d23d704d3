/**
 * What is particular to an event, in one line for people: the same on the terminal and on the live page, which loads this very file. Nothing in it
 * is acted on by either, whatever a process calls itself.
 */
import { bytesText, countText, durationText, printable, printableJson, quoted, rawWords } from './plain-text.ts';
import type { AncestorJson, EventJson, ProcessJson } from './event-json.ts';
import type { DetailsJson } from '#generated/details.js';

/** A piece of a line; what `bad` tells of went wrong. */
export interface TextPart {
  text: string;
  tone?: 'bad' | 'faint' | 'strong';
}

export type EventDetail = Readonly<Record<string, unknown>>;

/** Linux's, whatever system this is shown on. */
const SIGNALS = (
  'HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF ' +
  'WINCH IO PWR SYS'
).split(' ');
/** Linux's, of those that a connect ends with. */
const ERRORS: Readonly<Record<number, string>> = {
  1: 'EPERM',
  4: 'EINTR',
  11: 'EAGAIN',
  13: 'EACCES',
  22: 'EINVAL',
  32: 'EPIPE',
  71: 'EPROTO',
  92: 'ENOPROTOOPT',
  98: 'EADDRINUSE',
  99: 'EADDRNOTAVAIL',
  100: 'ENETDOWN',
  101: 'ENETUNREACH',
  102: 'ENETRESET',
  103: 'ECONNABORTED',
  104: 'ECONNRESET',
  105: 'ENOBUFS',
  106: 'EISCONN',
  107: 'ENOTCONN',
  110: 'ETIMEDOUT',
  111: 'ECONNREFUSED',
  112: 'EHOSTDOWN',
  113: 'EHOSTUNREACH',
  114: 'EALREADY',
  115: 'EINPROGRESS',
  125: 'ECANCELED',
};

/** Of an exec its command, and how it came into its container from outside, of other events what happened, without the process. */
export function eventSummary(event: EventJson): TextPart[] {
  const detail = eventDetail(event);
  switch (event.kind) {
    case 'exec':
      return event.process ? execSummary(event.process) : [{ text: '?' }];
    case 'exit':
      return exitSummary(detail);
    case 'connect': {
      const error = number(detail, 'error');
      return [
        { text: ends(event, detail, '→') },
        ...(error === 0 ? [] : [{ text: ' ' }, { text: `failed: ${ERRORS[error] ?? `errno ${error}`}`, tone: 'bad' as const }]),
      ];
    }
    case 'accept':
      return [{ text: ends(event, detail, '←') }];
    case 'listen':
      return [
        { text: `on ${address(detail['source_ip'], detail['source_port'])}   ` },
        { text: `(backlog ${number(detail, 'backlog')})`, tone: 'faint' },
      ];
    case 'close': {
      const sent = bytesText(number(detail, 'bytes_sent'));
      const received = bytesText(number(detail, 'bytes_received'));
      const durationNs = number(detail, 'duration_ns');
      const after = durationNs > 0 ? ` in ${durationText(durationNs / 1e6)}` : '';
      return [{ text: `${ends(event, detail, '—')} sent ${sent}, received ${received}${after}` }];
    }
    case 'loss':
      return [{ text: lossText(detail), tone: 'bad' }];
    default:
      return [{ text: printableJson(detail) }];
  }
}

function execSummary(process: ProcessJson): TextPart[] {
  const command: TextPart = { text: processCommand(process), tone: 'strong' };
  return process.entered === undefined ? [command] : [command, { text: ` (by ${printable(process.entered)})`, tone: 'faint' }];
}

/** How a process ended: `code 1 after 3.2 ms`. */
export function exitSummary(exit: EventDetail): TextPart[] {
  const signal = number(exit, 'signal');
  const code = number(exit, 'code');
  const after = { text: ` after ${durationText(number(exit, 'duration_ns') / 1e6)}` };
  if (signal === 0) return [code === 0 ? { text: 'code 0' } : { text: `code ${code}`, tone: 'bad' }, after];
  const name = SIGNALS[signal - 1];
  const core = exit['core_dumped'] === true ? ', core dumped' : '';
  return [{ text: `killed by ${name === undefined ? `signal ${signal}` : `SIG${name}`}${core}`, tone: 'bad' }, after];
}

/** An event's own fields, under its kind's name. */
export function eventDetail(event: EventJson): EventDetail {
  return { ...event[event.kind as keyof DetailsJson] };
}

/** `ls(240)`. */
export function processName(process: Pick<AncestorJson, 'binary' | 'pid'> | undefined): string {
  if (!process) return '?';
  const name = baseName(process.binary);
  return `${name === '' ? '?' : quoted(name)}(${process.pid})`;
}

/** `/usr/bin/ls -la`; under another name than the binary's, that one too: `/bin/busybox (as sleep) 5`. An argument is never in bare parentheses. */
export function processCommand(process: ProcessJson | AncestorJson): string {
  const { binary, arguments: args } = process;
  const [name, ...rest] = shownArguments(process);
  const isNamesake = name === undefined || baseName(args[0]!) === baseName(binary);
  const words = [binary === '' ? '?' : quoted(binary), ...(isNamesake ? [] : [`(as ${name})`]), ...rest];
  if ('arguments_truncated' in process && process.arguments_truncated) words.push('…');
  return words.join(' ');
}

/** As a shell takes them back; exact also where they are not UTF-8. */
export function processArguments(process: ProcessJson | AncestorJson): string {
  return shownArguments(process).join(' ');
}

/** `shop/web-1`: the pod, else the workload. */
export function eventOrigin({ namespace, pod, workload }: EventJson): string {
  return quoted(`${namespace}/${pod?.name ?? workload}`);
}

function shownArguments(process: ProcessJson | AncestorJson): string[] {
  const raw = 'raw_arguments' in process ? process.raw_arguments : undefined;
  return raw === undefined ? process.arguments.map(quoted) : rawWords(raw);
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function lossText(detail: EventDetail): string {
  const count = number(detail, 'count');
  const first = number(detail, 'first_sequence');
  const range = first > 0 ? ` of numbers ${first}..${number(detail, 'last_sequence')}` : '';
  return `${count > 0 ? countText(count) : 'an unknown number of'} event(s) lost${range}: ${printable(String(detail['reason'] ?? 'unknown'))}`;
}

/** A socket that was never given an address has no near end. */
function ends(event: EventJson, detail: EventDetail, between: string): string {
  const source = detail['source_ip'] === '' ? [] : [address(detail['source_ip'], detail['source_port'])];
  return [...source, between, destination(event, detail)].join(' ');
}

/** The other end, with the pod, service or node it belongs to. */
function destination(event: EventJson, detail: EventDetail): string {
  const text = address(detail['destination_ip'], detail['destination_port']);
  const known = event.destination;
  const name = known?.pod ?? known?.service ?? known?.node;
  if (name === undefined) return text;
  const namespace = known?.namespace === undefined ? '' : `${known.namespace}/`;
  return `${text} [${quoted(`${namespace}${name}`)}]`;
}

function address(ip: unknown, port: unknown): string {
  const text = typeof ip === 'string' ? printable(ip) : '?';
  return `${text.includes(':') ? `[${text}]` : text}:${typeof port === 'number' ? port : 0}`;
}

function number(detail: EventDetail, field: string): number {
  const value = detail[field];
  // What can pass 2^53 is a decimal string.
  const amount = typeof value === 'string' && /^\d{1,20}$/.test(value) ? Number(value) : value;
  return typeof amount === 'number' ? amount : 0;
}
