import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { bytesText, commandLine, durationText, printable, printableJson, quoted, rawWords } from '../src/plain-text.ts';

/** What no terminal or browser may be given: it acts on it, or shows it as nothing or as a space. */
const HOSTILE: Readonly<Record<string, string>> = {
  '\u001b]0;owned\u0007': '\\e]0;owned\\x07',
  '\u009b2J': '\\u009b2J',
  '\u202egpj.exe': '\\u202egpj.exe',
  'a\nb\r\t': 'a\\nb\\r\\t',
  '\u0000\b\u007f': '\\x00\\x08\\x7f',
  '\u2028\u2029': '\\u2028\\u2029',
  '\u2066x\u2069\u061c': '\\u2066x\\u2069\\u061c',
  'a\u200bb\u200d\u2060\ufeff\u00ad\u034f': 'a\\u200bb\\u200d\\u2060\\ufeff\\u00ad\\u034f',
  'a\u00a0b\u3000\u2009\u2800\u3164': 'a\\u00a0b\\u3000\\u2009\\u2800\\u3164',
  'x\ufe0f\u{e0041}\u{e0100}': 'x\\ufe0f\\U000e0041\\U000e0100',
  '\ud800': '\\ud800',
};

test('characters that are acted on or not seen are written out, others are left alone', () => {
  for (const [text, shown] of Object.entries(HOSTILE)) {
    assert.equal(printable(text), shown);
    assert.equal(printable(printable(text)), shown);
    const json = printableJson({ [text]: [text] }, 2);
    assert.equal(printable(json.replaceAll('\n', '')), json.replaceAll('\n', ''));
    assert.deepEqual(JSON.parse(json), { [text]: [text] });
  }
  for (const text of ['/usr/bin/ls -la', 'grüße', 'שלום', '日本', '🙂', '\ufffd', 'a\\nb']) assert.equal(printable(text), text);
});

test('bash takes a command line back word by word, and no two look the same', () => {
  const words = [
    ...Object.keys(HOSTILE).filter(word => !/[\0\ud800]/.test(word)),
    ...['ls', '', 'a b', "it's", '"', '$HOME', '`id`', '*', '\\', 'a\\nb', 'a\nb', "\\'\n", '~', '#', '!', '(as', '…', '-x=1', 'grüße'],
    ...['\u001ba', '\u0001f', '\u0085a', '\u202e0', '\u{e0041}0'],
  ];
  const line = commandLine(words);
  assert.equal(new Set(words.map(quoted)).size, words.length);
  const { stdout, stderr } = spawnSync('bash', ['--norc', '-c', `printf '%s\\0' ${line}`], { env: { LC_ALL: 'C.UTF-8' } });
  assert.equal(stderr.toString(), '');
  assert.deepEqual(stdout.toString().split('\0').slice(0, -1), words);
  assert.equal(line.split(' ')[0], quoted(words[0]!));
});

test('arguments that are not UTF-8 are shown with their bytes', () => {
  const argv = Buffer.from("sh\0-c\0\0a\xff\xfe'b \xc3\0gr\xc3\xbc\xc3\x9fe\0\\xff\0", 'latin1');
  const words = rawWords(argv.toString('base64'));
  assert.deepEqual(words, ['sh', '-c', "''", "$'a\\xff\\xfe\\'b \\xc3'", "'grüße'", "'\\xff'"]);
  const { stdout } = spawnSync('bash', ['--norc', '-c', `printf '%s\\0' ${words.join(' ')}`], { env: { LC_ALL: 'C.UTF-8' } });
  assert.deepEqual(stdout, argv);
});

test('amounts for people', () => {
  const bytes = [0, 1023, 1024, 1_500_000, 102_390, 200 * 1024, 1024 ** 2 - 1, 1024 ** 5 - 1, 1024 ** 5];
  assert.deepEqual(bytes.map(bytesText), [
    ...['0 B', '1023 B', '1.0 KiB', '1.4 MiB', '100 KiB', '200 KiB', '1.0 MiB', '1024 TiB', '1024 TiB'],
  ]);
  const durations: [ms: number, text: string][] = [
    [0, '0 us'],
    [0.35, '350 us'],
    [0.9994, '999 us'],
    [0.9996, '1.0 ms'],
    [5, '5.0 ms'],
    [9.96, '10 ms'],
    [12, '12 ms'],
    [999.4, '999 ms'],
    [999.6, '1.0 s'],
    [3_400, '3.4 s'],
    [59_949, '59.9 s'],
    [59_960, '1 min 0 s'],
    [303_000, '5 min 3 s'],
    [3_599_600, '1 h 0 min'],
    [7_800_000, '2 h 10 min'],
    [86_399_600, '1 d 0 h'],
    [276_000_000, '3 d 4 h'],
  ];
  for (const [ms, text] of durations) assert.equal(durationText(ms), text, `${ms} ms`);
});
