import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Type } from 'typebox';
import { COMMON_SETTINGS, configTable, describeConfig, loadConfig } from '../src/config.ts';
import { hasErrorCode } from '../src/errors.ts';

const schema = Type.Object({
  ...COMMON_SETTINGS,
  node: Type.String({ minLength: 1, description: 'Name of this node.' }),
  lingerMs: Type.Integer({ default: 5, minimum: 0, maximum: 1_000, description: 'Longest wait for a batch to fill.' }),
  ratio: Type.Optional(Type.Number({ description: 'A share.' })),
  keepPins: Type.Boolean({ default: true, description: 'Leaves programs attached.' }),
  kinds: Type.Array(Type.String(), { default: [], description: 'Kinds let through.' }),
});

test('settings come from the environment, with defaults and types', () => {
  const config = loadConfig(schema, {
    TIDEGATE_NODE: 'n1',
    TIDEGATE_LINGER_MS: '7',
    TIDEGATE_KEEP_PINS: 'false',
    TIDEGATE_KINDS: 'exec, exit',
    TIDEGATE_LOG_LEVEL: 'debug',
    TIDEGATE_RATIO: '',
  });
  assert.deepEqual(config, {
    natsUrl: 'nats://127.0.0.1:4222',
    logLevel: 'debug',
    healthHost: '127.0.0.1',
    node: 'n1',
    lingerMs: 7,
    keepPins: false,
    kinds: ['exec', 'exit'],
  });
});

test('every fault is listed at once, and a secret is not shown', () => {
  const withPin = Type.Object({ ...schema.properties, pin: Type.String({ secret: true, pattern: '^[0-9]{4}$', description: 'A pin.' }) });
  assert.throws(
    () =>
      loadConfig(withPin, {
        TIDEGATE_LINGER_MS: '5000',
        TIDEGATE_KEEP_PINS: 'perhaps',
        TIDEGATE_LOG_LEVEL: 'loud',
        TIDEGATE_RATIO: 'half',
        TIDEGATE_PIN: 'hunter2',
      }),
    (error: unknown) => {
      assert.ok(hasErrorCode(error, 'CONFIG_INVALID'));
      assert.match(error.message, /TIDEGATE_NODE: expected text of at least 1 character\(s\), got nothing \(Name of this node\.\)/);
      assert.match(error.message, /TIDEGATE_LINGER_MS: expected an integer from 0 to 1000, got "5000"/);
      assert.match(error.message, /TIDEGATE_KEEP_PINS: expected true or false, got "perhaps"/);
      assert.match(error.message, /TIDEGATE_LOG_LEVEL: expected one of trace, debug, info, warn, error, fatal, silent, got "loud"/);
      assert.match(error.message, /TIDEGATE_RATIO: expected a number, got "half"/);
      assert.match(error.message, /TIDEGATE_PIN: expected text matching \^\[0-9\]\{4\}\$, got a value that is not shown/);
      assert.doesNotMatch(error.message, /hunter2/);
      return true;
    },
  );
});

test('the table has a row for every setting', () => {
  const rows = describeConfig(schema);
  assert.equal(rows.length, Object.keys(schema.properties).length);
  assert.match(configTable(rows), /\| `TIDEGATE_LINGER_MS` \| `5` \| an integer from 0 to 1000 \| Longest wait for a batch to fill\. \|/);
  assert.match(configTable(rows), /\| `TIDEGATE_NODE` \| \*\*required\*\* \|/);
});
