import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createConnection, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { after, before, describe, test, type TestContext } from 'node:test';
import { skipReason, startSensor, type SeenEvent, type TestSensor } from './sensor.ts';

const ECONNREFUSED = 111;
const REQUEST_BYTES = 100_000;
const ANSWER_BYTES = 7;

describe('connections', { skip: skipReason() }, () => {
  let sensor: TestSensor;
  before(() => {
    sensor = startSensor();
  });
  after(() => sensor.close());

  async function listen(test: TestContext, host: string): Promise<{ server: Server; port: number }> {
    const server = createServer({ allowHalfOpen: true }, socket => {
      socket.resume().on('end', () => socket.end('a'.repeat(ANSWER_BYTES)));
    });
    server.listen(0, host);
    test.after(() => server.close());
    await once(server, 'listening');
    return { server, port: (server.address() as AddressInfo).port };
  }

  async function exchange(host: string, port: number): Promise<number> {
    const socket: Socket = createConnection({ host, port });
    await once(socket, 'connect');
    const { localPort = 0 } = socket;
    socket.end('q'.repeat(REQUEST_BYTES));
    await once(socket.resume(), 'close');
    return localPort;
  }

  function ofPorts(source: number, destination: number, by = sensor): SeenEvent[] {
    return by.events.filter(({ event }) => {
      const connection = event.connect ?? event.accept ?? event.close;
      return connection?.sourcePort === source && connection.destinationPort === destination;
    });
  }

  for (const host of ['127.0.0.1', '::1']) {
    test(`both ends of a connection over ${host}`, async t => {
      const { port } = await listen(t, host);
      const clientPort = await exchange(host, port);
      await sensor.until('both closes', () =>
        [ofPorts(clientPort, port), ofPorts(port, clientPort)].every(end => end.some(({ event }) => event.close)),
      );
      const [connect, clientClose] = ofPorts(clientPort, port);
      const [accept, serverClose] = ofPorts(port, clientPort);
      for (const each of [connect, clientClose, accept, serverClose]) assert.equal(each?.process?.pid, process.pid);
      assert.deepEqual([connect?.event.connect?.sourceIp, connect?.event.connect?.destinationIp], [host, host]);
      assert.equal(connect?.event.connect?.socket, clientClose?.event.close?.socket);
      assert.equal(accept?.event.accept?.socket, serverClose?.event.close?.socket);
      assert.deepEqual([clientClose?.event.close?.bytesSent, clientClose?.event.close?.bytesReceived], [REQUEST_BYTES, ANSWER_BYTES]);
      assert.deepEqual([serverClose?.event.close?.bytesSent, serverClose?.event.close?.bytesReceived], [ANSWER_BYTES, REQUEST_BYTES]);
      assert.ok((clientClose?.event.close?.durationNs ?? 0) > 0);
      assert.ok(
        sensor.events.some(({ event, process: owner }) => event.listen && owner?.pid === process.pid && event.listen.sourceIp === host),
      );
    });
  }

  test('a refused connection tells its error', async t => {
    const { server, port } = await listen(t, '127.0.0.1');
    server.close();
    await once(server, 'close');
    const [error] = (await once(createConnection({ host: '127.0.0.1', port }), 'error').catch((reason: unknown) => [reason])) as [unknown];
    assert.ok(error);
    const refused = (): SeenEvent | undefined =>
      sensor.events.find(({ event, process: owner }) => owner?.pid === process.pid && event.connect?.destinationPort === port);
    await sensor.until('the failed connect', () => refused() !== undefined);
    assert.equal(refused()?.event.connect?.error, ECONNREFUSED);
  });

  test('a listener that is older than the sensor has its owner', async t => {
    const { port } = await listen(t, '127.0.0.1');
    const late = startSensor();
    t.after(() => late.close());
    const clientPort = await exchange('127.0.0.1', port);
    await late.until('the accept', () => ofPorts(port, clientPort, late).some(({ event }) => event.accept));
    assert.equal(ofPorts(port, clientPort, late)[0]?.process?.pid, process.pid);
  });

  test('a connection whose process has ended is closed in its name', async t => {
    const { port } = await listen(t, '127.0.0.1');
    const script = `const s = require('net').connect(${port}, '127.0.0.1', () => { console.log(s.localPort); process.exit(0) });`;
    const client = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = (await once(client.stdout.setEncoding('utf8'), 'data')) as [string];
    const clientPort = Number(line);
    await sensor.until('the close', () => ofPorts(clientPort, port).some(({ event }) => event.close));
    const close = ofPorts(clientPort, port).find(({ event }) => event.close);
    assert.equal(close?.process?.pid, client.pid);
    assert.equal(close?.ancestors[0]?.pid, process.pid);
  });
});
