/** One event as one line for people, in the terminal's colours. */
import type { styleText } from 'node:util';
import { eventOrigin, eventSummary, printable, processName, type EventJson, type TextPart } from '@tidegate/contracts';

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
const TONE_STYLES: Readonly<Record<NonNullable<TextPart['tone']>, Style>> = { bad: 'red', faint: 'gray', strong: 'bold' };
const KIND_WIDTH = 7;

/**
 * `12:00:01.123 exec    _host/node  bash(231) → /usr/bin/ls -la /tmp   (pid 240, uid 0)`, in local time.
 * Nothing in it can move a terminal's cursor, whatever the process was called with.
 */
export function eventLine(event: EventJson, paint: Paint): string {
  const kind = event.kind.padEnd(KIND_WIDTH);
  const style = KIND_STYLES[event.kind];
  const parts = [
    paint('gray', localTime(event.time)),
    style === undefined ? printable(kind) : paint(style, kind),
    paint('yellow', eventOrigin(event)),
    ...(event.recorded ? [paint('magenta', 'recorded')] : []),
    ` ${description(event, paint)}`,
  ];
  return parts.join(' ');
}

export function paintParts(parts: readonly TextPart[], paint: Paint): string {
  return parts.map(({ text, tone }) => (tone === undefined ? text : paint(TONE_STYLES[tone], text))).join('');
}

function description(event: EventJson, paint: Paint): string {
  const { kind, process, parent } = event;
  const summary = paintParts(eventSummary(event), paint);
  if (kind === 'loss') return summary;
  if (kind !== 'exec' || !process) return `${processName(process)} ${summary}`;
  return `${processName(parent)} → ${summary}   ${paint('gray', `(pid ${process.pid}, uid ${process.uid})`)}`;
}

function localTime(time: string): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return printable(time);
  const two = (value: number) => String(value).padStart(2, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}
