/** Text from processes made safe for a terminal, and amounts written for people. */

/**
 * What a terminal or an editor may act on instead of showing: C0 and C1 controls (ESC and CSI begin sequences that move the cursor, retitle the
 * window or type into the shell), marks that turn the direction of writing around (CVE-2021-42574), line and paragraph separators, and what
 * has no width.
 */
const UNSAFE =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

const NAMED: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\u001b': '\\e' };

/** One line without anything a terminal acts on: `\n`, `\e`, `\x9b`, `\u{202e}`. */
export function printable(text: string): string {
  return text.replaceAll(UNSAFE, char => NAMED[char] ?? escaped(char));
}

/** JSON whose strings have no such character either; still the same JSON. */
export function printableJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, undefined, indent).replaceAll(UNSAFE, char =>
    // What stands outside strings is the indentation's own line feeds.
    char === '\n' ? char : [...Array(char.length).keys()].map(i => `\\u${char.charCodeAt(i).toString(16).padStart(4, '0')}`).join(''),
  );
}

/** Arguments as a shell would take them back, quoted where a blank or a special character would split or change them. */
export function commandLine(args: readonly string[]): string {
  return args.map(arg => (/^[\w@%+=:,./-]+$/.test(arg) ? arg : `'${printable(arg.replaceAll("'", "'\\''"))}'`)).join(' ');
}

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** 1.5 KiB */
export function bytesText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < BYTE_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${BYTE_UNITS[unit]}`;
}

/** 350 us, 12 ms, 3.4 s, 5 min 3 s, 2 h 10 min, 3 d 4 h */
export function durationText(ms: number): string {
  if (ms < 1) return `${Math.round(ms * 1000)} us`;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** 12,345,678 */
export function countText(count: number): string {
  return count.toLocaleString('en-US');
}

function escaped(char: string): string {
  const code = char.codePointAt(0)!;
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`;
}
