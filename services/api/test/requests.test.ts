import assert from 'node:assert/strict';
import { connect as connectTcp } from 'node:net';
import { test } from 'node:test';
import { Validator } from '@seriousme/openapi-schema-validator';
import { formatCursor, parseCursor } from '@tidegate/events';
import { batchOf, publish } from '@tidegate/testkit/event-messages';
import { startFixture } from './fixture.ts';

/** Mulberry32: the same numbers in every run. */
function randomFrom(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

test('any query string gets an answer that is not a fault of the API', async () => {
  await using fixture = await startFixture();
  for (let i = 1; i <= 20; i++) await publish(fixture.js, 'exec', batchOf('exec', [{ sequence: i }]));
  const random = randomFrom(20_260_131);
  const pick = <T>(values: readonly T[]) => values[Math.floor(random() * values.length)]!;
  const names =
    'from to order kind namespace workload pod node binary pid exec_id text label limit cursor format late __proto__ constructor x[] %00'.split(
      ' ',
    );
  const pieces = [
    'exec',
    '_host',
    '-15m',
    '2026-01-31T12:00:00Z',
    '*',
    '>',
    '.',
    ',',
    '%00',
    '%ff',
    '%',
    '😀',
    '=',
    '&',
    '..',
    '1e9',
    '-1',
    '99999999999999999999',
    'null',
    '[',
    '"',
    ' ',
    '\\',
  ];
  const statuses = new Set<number>();
  for (let i = 0; i < 400; i++) {
    const parameters = Array.from(
      { length: 1 + Math.floor(random() * 3) },
      () => `${pick(names)}=${Array.from({ length: Math.floor(random() * 4) }, () => pick(pieces)).join('')}`,
    );
    const query = parameters.join('&');
    const { status } = await fetch(`${fixture.api.url}/api/v1/${pick(['events', 'processes', 'status'])}?${query}`).then(async response => {
      await response.text();
      return response;
    });
    statuses.add(status);
    assert.ok(status === 200 || status === 400, `${query}: ${status}`);
  }
  assert.deepEqual([...statuses].toSorted(), [200, 400]);
});

test('forged cursors cost nothing', async () => {
  await using fixture = await startFixture();
  for (let i = 1; i <= 5; i++) await publish(fixture.js, 'exec', batchOf('exec', [{ sequence: i }]));
  const { body } = await fixture.get('/api/v1/events?limit=1');
  const cursor = parseCursor(body.cursor)!;
  for (const order of ['newest', 'oldest'] as const) {
    for (const start of [0, 3, Number.MAX_SAFE_INTEGER]) {
      for (const reached of [0, 4, Number.MAX_SAFE_INTEGER]) {
        const source = 'abcdefgh';
        const place = { start, given: new Map([[source, reached]]), partial: { source, last: reached, taken: 1_000_000 } };
        const forged = formatCursor({ ...cursor, ...place, order, first: 0, last: Number.MAX_SAFE_INTEGER });
        const { status } = await fixture.get(`/api/v1/events?cursor=${forged}`);
        // A distance that leads beyond the numbers of a stream is no cursor of ours.
        assert.ok([200, 400, 410].includes(status), `${order} ${start} ${reached}: ${status}`);
      }
    }
  }
  for (const wrong of ['!!!', 'WzFd', Buffer.from('[2,"newest",-1,1,1,null,null,null,null,"x"]').toString('base64url'), 'A'.repeat(13_000)])
    assert.equal((await fixture.get(`/api/v1/events?cursor=${wrong}`)).status, 400);
});

test('requests that are too large are refused and others go on', async () => {
  await using fixture = await startFixture();
  assert.equal((await fixture.get(`/api/v1/events?text=${'x'.repeat(5000)}`)).status, 400);
  assert.equal((await fixture.get(`/api/v1/events?pid=${Array.from({ length: 1000 }, (_, i) => i + 1).join(',')}`)).status, 400);
  const huge = await fetch(`${fixture.api.url}/api/v1/events?text=${'x'.repeat(50_000)}`);
  assert.equal(huge.status, 431);
  const post = await fetch(`${fixture.api.url}/api/v1/events`, { method: 'POST', body: 'x' });
  assert.equal(post.status, 404);
  const raw = await new Promise<string>(resolve => {
    const socket = connectTcp(Number(new URL(fixture.api.url).port), '127.0.0.1', () => socket.end('GARBAGE\r\n\r\n'));
    let answer = '';
    socket.on('data', data => (answer += String(data)));
    socket.on('close', () => resolve(answer));
  });
  assert.match(raw, /^HTTP\/1.1 400/);
  assert.equal((await fixture.get('/api/v1/events')).status, 200);
});

interface OpenApi {
  openapi: string;
  paths: Record<
    string,
    {
      get?: {
        summary?: string;
        parameters?: { name: string; in: string; example?: string; examples?: Record<string, { value: string }>; description?: string }[];
      };
    }
  >;
}

test('the OpenAPI document is valid, and its examples answer', async () => {
  await using fixture = await startFixture();
  for (let i = 1; i <= 20; i++) await publish(fixture.js, 'exec', batchOf('exec', [{ sequence: i, pid: i }]));
  const document = (await fixture.get('/docs/json')).body as OpenApi;
  const result = await new Validator().validate(document as unknown as Parameters<Validator['validate']>[0]);
  assert.ok(result.valid, JSON.stringify(result.errors));
  assert.deepEqual(Object.keys(document.paths).toSorted(), [
    '/api/v1/events',
    '/api/v1/events/live',
    '/api/v1/nodes',
    '/api/v1/nodes/{node}',
    '/api/v1/processes',
    '/api/v1/processes/{exec_id}',
    '/api/v1/status',
    '/healthz',
    '/metrics',
    '/readyz',
  ]);
  const { exec_id: execId } = (await fixture.get('/api/v1/events?limit=1')).body.events[0].process;
  let tried = 0;
  for (const [path, { get }] of Object.entries(document.paths)) {
    if (!get) continue;
    assert.ok(get.summary, path);
    const parameters = (get.parameters ?? []).filter(parameter => parameter.in === 'query');
    const required = path === '/api/v1/processes' ? 'pid=7&' : '';
    for (const { name, description, example, examples } of parameters) {
      const value = example ?? Object.values(examples ?? {})[0]?.value;
      assert.ok(description, `${path} ${name}`);
      if (name === 'cursor') continue;
      assert.ok(value, `${path} ${name} has an example`);
      const query = name === 'pid' ? '' : required;
      const { status } = await fetch(`${fixture.api.url}${path}?${query}${name}=${encodeURIComponent(value)}`);
      assert.equal(status, path.endsWith('live') ? 426 : 200, `${path}?${name}=${value}`);
      tried++;
    }
    if (parameters.length === 0)
      assert.equal((await fetch(fixture.api.url + path.replace('{exec_id}', encodeURIComponent(execId)))).status, 200, path);
  }
  assert.ok(tried > 25);
  assert.equal((await fetch(`${fixture.api.url}/docs`)).status, 200);
});

test('what the HTTP server refuses by itself has a code of the catalogue too', async () => {
  await using fixture = await startFixture();
  const statuses = { '/%': 400, '/api/v1/processes/%zz': 400, '/api/v1/events/%ff': 400, [`/api/v1/processes/${'a'.repeat(2_000)}`]: 414 };
  for (const [path, status] of Object.entries(statuses)) {
    const response = await fetch(fixture.api.url + path);
    const { error } = (await response.json()) as { error: { code: string; message: string } };
    assert.deepEqual([response.status, error.code], [status, 'BAD_REQUEST'], path);
    assert.match(error.message, /./);
  }
});
