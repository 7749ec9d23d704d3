/**
 * Text that processes choose made safe to read, and amounts written for people. One rule for the terminal, the live page and logs; the page loads
 * this very file, so it imports nothing.
 */

/**
 * What a terminal, a browser or an editor may act on instead of showing, or shows as nothing: controls (ESC and CSI begin sequences that move the
 * cursor, retitle the window or type into the shell), marks that turn the direction of writing around (CVE-2021-42574), line and paragraph
 * separators, what has no width, halves of surrogate pairs, and blanks that only look like a space.
 */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]|(?! )\p{Zs}/gu;
const NAMED: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\u001b': '\\e' };
/** A word that a shell takes as it is. */
const PLAIN_WORD = /^[\w@%+=:,./-]+$/;

/** One line of a message with nothing in it that is acted on: `\n`, `\e`, `\x07`, `\u202e`. */
export function printable(text: string): string {
  return text.replaceAll(UNSAFE, escaped);
}

/**
 * A word as bash takes it back, so that no two words look the same: `ls`, `'a b'`, `$'a\nb'`.
 */
export function quoted(word: string): string {
  if (PLAIN_WORD.test(word)) return word;
  if (printable(word) === word) return `'${word.replaceAll("'", "'\\''")}'`;
  return `$'${printable(word.replaceAll(/[\\']/g, '\\$&'))}'`;
}

export function commandLine(args: readonly string[]): string {
  return args.map(quoted).join(' ');
}

/**
 * The words of an exact argv, whose bytes need not be UTF-8: `$'\xff'`.
 * @param rawArguments as base64, each string ended by NUL
 */
export function rawWords(rawArguments: string): string[] {
  const words = atob(rawArguments).split('\0');
  if (words.at(-1) === '') words.pop();
  return words.map(rawWord);
}

/** JSON whose strings have no such character either; still the same JSON. */
export function printableJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, undefined, indent).replaceAll(UNSAFE, char =>
    // What stands outside strings is the indentation's own line feeds.
    char === '\n' ? char : [...Array(char.length).keys()].map(i => `\\u${hex(char.charCodeAt(i), 4)}`).join(''),
  );
}

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** 1.5 KiB */
export function bytesText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  // What would be rounded to the next unit is in it.
  while (Math.round(value) >= 1024 && unit < BYTE_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${BYTE_UNITS[unit]}`;
}

/** 350 us, 12 ms, 3.4 s, 5 min 3 s, 2 h 10 min, 3 d 4 h: rounded first, so that no unit is full. */
export function durationText(ms: number): string {
  const us = Math.round(ms * 1000);
  if (us < 1000) return `${us} us`;
  if (Math.round(ms) < 1000) return `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms`;
  const tenths = Math.round(ms / 100);
  if (tenths < 600) return `${(tenths / 10).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** 12,345,678 */
export function countText(count: number): string {
  return count.toLocaleString('en-US');
}

/** As bash writes it between `$'` and `'`. There `\x9b` is a byte, so a character beyond ASCII is `\u009b`. */
function escaped(char: string): string {
  const named = NAMED[char];
  if (named !== undefined) return named;
  const code = char.codePointAt(0)!;
  if (code < 0x80) return `\\x${hex(code, 2)}`;
  return code < 0x1_0000 ? `\\u${hex(code, 4)}` : `\\U${hex(code, 8)}`;
}

/** @param bytes a character each */
function rawWord(bytes: string): string {
  try {
    return quoted(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes, byte => byte.charCodeAt(0))));
  } catch {
    const ascii = printable(bytes.replaceAll(/[\\']/g, '\\$&').replaceAll(/[\x80-\xff]/g, byte => `\\x${hex(byte.charCodeAt(0), 2)}`));
    return `$'${ascii}'`;
  }
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, '0');
}
