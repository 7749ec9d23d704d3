import assert from 'node:assert/strict';
import { test } from 'node:test';
import { printable, type EventJson } from '@tidegate/contracts';
import { eventLine } from '../src/event-line.ts';
import { formatLogLine } from '../src/up/log-lines.ts';

const plain = (_style: unknown, text: string) => text;

const HOSTILE = [
  '\u001b]0;owned\u0007',
  '\u009b2J',
  '\u202egpj.exe',
  'a\nb\r',
  '\u001b[31m',
  '\u2028',
  '\u2066x',
  '\u0000',
  '\u{e0041}',
  '\b\b',
];

function exec(args: string[], more: Partial<EventJson> = {}): EventJson {
  const process = { exec_id: 'e', pid: 232, uid: 0, binary: args[0]!, arguments: args, cwd: '/', start_time: '', origin: 'exec' };
  const parent = { ...process, pid: 231, binary: '/usr/bin/bash' };
  return {
    time: '2026-01-31T12:00:01.123456Z',
    kind: 'exec',
    cluster: 'c1',
    node: 'node',
    boot: 'b',
    sequence: 1,
    ktime_ns: '1',
    namespace: '_host',
    workload: 'node',
    process,
    parent,
    ...more,
  };
}

test('nothing that a process may be called reaches the terminal as a control', () => {
  for (const text of HOSTILE) {
    const event = exec([`/tmp/${text}`, text], { kind: text, node: text, workload: text, pod: { uid: 'u', name: text } });
    const lines = [
      eventLine(event, plain),
      eventLine({ ...event, kind: 'exec', time: text }, plain),
      eventLine({ ...event, kind: 'loss', loss: { reason: text } as never }, plain),
      eventLine(
        { ...event, kind: 'connect', connect: { destination_ip: text, source_ip: text } as never, destination: { pod: text } },
        plain,
      ),
      formatLogLine('sensor', JSON.stringify({ level: 30, msg: text.replace('\n', ''), field: text }), 'text', plain),
      formatLogLine('sensor', text.replace('\n', ''), 'text', plain),
    ];
    for (const line of lines) assert.equal(line, printable(line));
  }
});

test('one line for each kind of event', () => {
  const socket = { source_ip: '10.0.0.1', source_port: 40_000, destination_ip: '1.2.3.4', destination_port: 443 };
  const line = (event: EventJson) => eventLine(event, plain).replace(/^\S+ /, '');
  const of = (kind: string, detail: object, more: Partial<EventJson> = {}) =>
    line(exec(['/usr/bin/curl'], { kind, [kind]: detail, ...more }));
  assert.equal(line(exec(['/usr/bin/ls', '-la', 'a b'])), "exec    _host/node  bash(231) → /usr/bin/ls -la 'a b'   (pid 232, uid 0)");
  const entered = { ...exec(['/bin/id', '(by exec)']).process!, entered: 'probe' as const };
  assert.match(line(exec([], { process: entered })), / → \/bin\/id '\(by exec\)' \(by probe\) {3}\(pid 232, uid 0\)$/);
  const named = (binary: string, args: string[]) =>
    line(exec(args, { process: { ...exec([binary]).process!, arguments: args } })).replace(/.* → (.*?) {3}.*/, '$1');
  assert.equal(named('/bin/busybox', ['sleep', '5']), '/bin/busybox (as sleep) 5');
  assert.equal(named('/usr/bin/bash', ['-bash']), '/usr/bin/bash (as -bash)');
  assert.equal(named('/usr/bin/dash', ['/bin/sh', '-c', 'a b']), "/usr/bin/dash (as /bin/sh) -c 'a b'");
  assert.equal(named('/usr/bin/ls', ['/bin/ls', '-l']), '/usr/bin/ls -l', 'the same name');
  assert.equal(named('/usr/bin/true', ['']), "/usr/bin/true (as '')");
  assert.equal(named('/usr/bin/true', []), '/usr/bin/true');
  assert.equal(named('', ['/init', '-x']), '? (as /init) -x', 'the sensor could not read which');
  assert.equal(named('', []), '?');
  assert.equal(named('/tmp/a b', ['a b', '(as', 'x)', '…']), "'/tmp/a b' '(as' 'x)' '…'", 'nothing that an argument could pretend');
  assert.equal(
    line(
      exec([], {
        process: { ...exec(['sh']).process!, binary: '/bin/sh', raw_arguments: Buffer.from('sh\0\xff\0', 'latin1').toString('base64') },
      }),
    ).replace(/.* → (.*?) {3}.*/, '$1'),
    "/bin/sh $'\\xff'",
  );
  assert.equal(of('exit', { code: 0, duration_ns: 3_200_000 }), 'exit    _host/node  curl(232) code 0 after 3.2 ms');
  assert.equal(of('exit', { signal: 9, duration_ns: 61_000_000_000 }), 'exit    _host/node  curl(232) killed by SIGKILL after 1 min 1 s');
  assert.equal(of('connect', { ...socket, error: 111 }), 'connect _host/node  curl(232) 10.0.0.1:40000 → 1.2.3.4:443 failed: ECONNREFUSED');
  assert.equal(
    of('connect', { ...socket, destination_ip: '::1' }, { destination: { namespace: 'shop', pod: 'db-0' } }),
    'connect _host/node  curl(232) 10.0.0.1:40000 → [::1]:443 [shop/db-0]',
  );
  assert.equal(of('accept', socket), 'accept  _host/node  curl(232) 10.0.0.1:40000 ← 1.2.3.4:443');
  assert.equal(of('listen', { ...socket, backlog: 128 }), 'listen  _host/node  curl(232) on 10.0.0.1:40000   (backlog 128)');
  assert.equal(
    of('close', { ...socket, bytes_sent: 1536, bytes_received: 12, duration_ns: '2000000000' }),
    'close   _host/node  curl(232) 10.0.0.1:40000 — 1.2.3.4:443 sent 1.5 KiB, received 12 B in 2.0 s',
  );
  assert.equal(
    of('loss', { reason: 'ring_full', count: 1200, first_sequence: 5, last_sequence: 1204 }),
    'loss    _host/node  1,200 event(s) lost of numbers 5..1204: ring_full',
  );
  assert.match(of('exec', {}, { recorded: true, pod: { uid: 'u', name: 'web-1' }, namespace: 'shop' }), /shop\/web-1 recorded/);
});

test('an event without its process, and of a kind from a newer schema, still makes a line', () => {
  const { process: _process, parent: _parent, ...bare } = exec(['x']);
  assert.match(eventLine({ ...bare, kind: 'exit' }, plain), /\? code 0/);
  assert.match(eventLine({ ...bare, kind: 'kind-99' }, plain), /kind-99/);
});
