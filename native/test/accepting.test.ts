import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { after, before, describe, test, type TestContext } from 'node:test';
import { compileProgram, skipReason, startSensor, temporaryFolder, type SeenEvent, type TestSensor } from './sensor.ts';

const KINDS = [
  { family: '4', protocol: 'tcp' },
  { family: '6', protocol: 'tcp' },
  { family: '4', protocol: 'mptcp' },
  { family: '6', protocol: 'mptcp' },
] as const;
type SocketKind = (typeof KINDS)[number];

interface Acceptor {
  kind: SocketKind;
  maker: ChildProcess;
  port: number;
  /** Who accepted. */
  accepted(): Promise<{ pid: number; tid: number }>;
}

describe('who accepts', { skip: skipReason() }, () => {
  let sensor: TestSensor;
  let folder: string;
  let program: string;
  before(() => {
    folder = temporaryFolder();
    program = compileProgram(folder, 'accept_forms');
    sensor = startSensor();
  });
  after(async () => {
    await sensor.close();
    rmSync(folder, { recursive: true, force: true });
  });

  /** Runs the program; `next` gives the numbers of its next line. */
  function run(t: TestContext, args: string[]): { child: ChildProcess; next: () => Promise<number[]> } {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    t.after(() => child.kill('SIGKILL'));
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    const next = async (): Promise<number[]> => {
      const line = await lines.next();
      assert.ok(!line.done, 'the program has ended');
      return line.value.split(' ').map(Number);
    };
    return { child, next };
  }

  async function start(t: TestContext, form: string, kind: SocketKind): Promise<Acceptor> {
    const { child, next } = run(t, [form, kind.family, kind.protocol]);
    const [port = 0] = await next();
    const accepted = async (): Promise<{ pid: number; tid: number }> => {
      const [pid = 0, tid = 0] = await next();
      return { pid, tid };
    };
    return { kind, maker: child, port, accepted };
  }

  async function connect(t: TestContext, { kind, port }: Acceptor): Promise<{ client: ChildProcess; clientPort: number }> {
    const { child, next } = run(t, ['connect', kind.family, kind.protocol, String(port)]);
    const [clientPort = 0] = await next();
    return { client: child, clientPort };
  }

  const ofServer = ({ port }: Acceptor, clientPort: number, by = sensor): SeenEvent[] =>
    by.events.filter(({ event: { accept, close } }) => {
      const ends = accept ?? close;
      return ends?.sourcePort === port && ends.destinationPort === clientPort;
    });

  async function serve(
    t: TestContext,
    acceptor: Acceptor,
    by = sensor,
  ): Promise<{ who: { pid: number; tid: number }; accept?: SeenEvent; close?: SeenEvent }> {
    const { client, clientPort } = await connect(t, acceptor);
    const who = await acceptor.accepted();
    client.stdin?.end();
    await by.until('the close', () => ofServer(acceptor, clientPort, by).some(({ event }) => event.close));
    const seen = ofServer(acceptor, clientPort, by);
    assert.deepEqual(
      seen.map(({ event }) => (event.accept ? 'accept' : 'close')),
      ['accept', 'close'],
    );
    return { who, accept: seen[0]!, close: seen[1]! };
  }

  for (const form of ['own', 'thread', 'prefork', 'daemon', 'activated', 'handed-over']) {
    for (const protocol of ['tcp', 'mptcp'] as const) {
      test(`the process and thread that accept are named: ${form} over ${protocol}`, async t => {
        const acceptor = await start(t, form, { family: '4', protocol });
        const { who, accept, close } = await serve(t, acceptor);
        assert.deepEqual({ pid: accept?.process?.pid, tid: accept?.event.tid }, who);
        assert.equal(close?.process?.pid, who.pid);
        assert.equal(close?.event.close?.socket, accept?.event.accept?.socket);
        assert.ok((close?.event.close?.durationNs ?? 0) > 0);
        if (!['own', 'thread', 'handed-over'].includes(form)) assert.notEqual(who.pid, acceptor.maker.pid);
      });
    }
  }

  test('what is older than the sensor', async t => {
    const listeners: Acceptor[] = [];
    const connections: { acceptor: Acceptor; client: ChildProcess; clientPort: number; pid: number }[] = [];
    for (const kind of KINDS) {
      listeners.push(await start(t, 'activated', kind));
      const acceptor = await start(t, 'prefork', kind);
      connections.push({ acceptor, ...(await connect(t, acceptor)), pid: (await acceptor.accepted()).pid });
    }
    const late = startSensor();
    t.after(() => late.close());
    for (const listener of listeners) {
      const { who, accept, close } = await serve(t, listener, late);
      assert.deepEqual([accept?.process?.pid, accept?.event.tid, close?.process?.pid], [who.pid, who.tid, who.pid]);
      assert.ok((close?.event.close?.durationNs ?? 0) > 0);
    }
    for (const { acceptor, client, clientPort, pid } of connections) {
      client.stdin?.end();
      await late.until('the close', () => ofServer(acceptor, clientPort, late).length > 0);
      const [close] = ofServer(acceptor, clientPort, late);
      assert.equal(close?.process?.pid, pid);
      assert.equal(close.event.close?.durationNs ?? null, null);
    }
  });

  test('a connection that nobody accepts has the accept of the one that listens, before its close', async t => {
    const acceptor = await start(t, 'own', KINDS[0]);
    const first = await connect(t, acceptor);
    await acceptor.accepted();
    const second = await connect(t, acceptor);
    const done = once(acceptor.maker, 'exit');
    first.client.stdin?.end();
    await done;
    await sensor.until('the close', () => ofServer(acceptor, second.clientPort).some(({ event }) => event.close));
    const seen = ofServer(acceptor, second.clientPort);
    assert.deepEqual(
      seen.map(({ event, process }) => [event.accept ? 'accept' : 'close', process?.pid]),
      [
        ['accept', acceptor.maker.pid],
        ['close', acceptor.maker.pid],
      ],
    );
  });
});
