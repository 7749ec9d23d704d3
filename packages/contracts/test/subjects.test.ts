import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  addressKey,
  eventFilter,
  eventSubject,
  HOST_NAMESPACE,
  Kind,
  isKindName,
  KIND_NAMES,
  kindName,
  kindNumber,
  parseEventSubject,
  parseSequences,
  rawSubject,
  subjectToken,
  tokenName,
} from '../src/index.ts';

const NAMES = ['web', 'my.app.v2', 'a_b', 'A B', '*', '>', '$SYS', '', '%', '=', 'naïve', '日本', '\n', 'x'.repeat(253)];

test('any name becomes one safe token and comes back', () => {
  for (const name of NAMES) {
    const token = subjectToken(name);
    assert.match(token, /^[A-Za-z0-9_=-]+$/, name);
    assert.equal(tokenName(token), name);
  }
  assert.equal(new Set(NAMES.map(subjectToken)).size, NAMES.length);
});

test('subjects of events carry kind, namespace and workload', () => {
  assert.equal(eventSubject(Kind.KIND_EXEC, 'shop', 'web.v2'), 'tidegate.events.exec.shop.web_v2');
  assert.equal(eventSubject(Kind.KIND_LOSS, HOST_NAMESPACE, 'node-a'), 'tidegate.events.loss._host.node-a');
  assert.deepEqual(parseEventSubject('tidegate.events.exec.shop.web_v2'), { kind: 'exec', namespace: 'shop', workload: 'web.v2' });
  assert.equal(parseEventSubject('tidegate.raw.node-a'), undefined);
  assert.equal(eventFilter({ namespace: HOST_NAMESPACE }), 'tidegate.events.*._host.*');
  assert.equal(rawSubject('node.a'), 'tidegate.raw.node_a');
  // A namespace that somebody calls like a reserved token cannot be taken for it.
  assert.notEqual(subjectToken(HOST_NAMESPACE), HOST_NAMESPACE);
});

test('kind names and numbers are those of the schema', () => {
  assert.ok(KIND_NAMES.includes('exec') && !KIND_NAMES.includes('unspecified'));
  for (const name of KIND_NAMES) assert.equal(kindName(kindNumber(name) ?? -1), name);
  assert.equal(kindNumber('unspecified'), undefined);
  assert.equal(kindName(99), 'kind-99');
  for (const name of ['exec', 'kind-99', 'kind-1023']) assert.ok(isKindName(name), name);
  for (const name of ['', 'unspecified', 'kind-1', 'kind-0', 'kind-099', 'kind-1024', 'kind-x']) assert.ok(!isKindName(name), name);
});

test('headers and keys', () => {
  assert.deepEqual(parseSequences('3-9'), { first: 3, last: 9 });
  for (const text of ['', '3', '9-3', '-1-2', '1-99999999999999999', '1-2x']) assert.equal(parseSequences(text), undefined, text);
  assert.equal(addressKey('10.0.0.1'), '10-0-0-1');
  assert.equal(addressKey('FE80::1'), 'fe80--1');
});
