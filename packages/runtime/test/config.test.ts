import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  COMMON_SETTINGS,
  configTable,
  describeConfig,
  absolutePath,
  flag,
  integer,
  integerList,
  loadConfig,
  text,
  textList,
} from '../src/config.ts';
import { hasErrorCode } from '../src/errors.ts';

const schema = {
  ...COMMON_SETTINGS,
  node: text({ description: 'Name of this node.' }),
  lingerMs: integer({ default: 5, minimum: 0, maximum: 1_000, description: 'Longest wait for a batch to fill.' }),
  ratio: integer({ optional: true, description: 'A share, in percent.' }),
  keepPins: flag({ default: true, description: 'Leaves programs attached.' }),
  kinds: textList({ default: [], description: 'Kinds let through.' }),
  folder: absolutePath({ default: '/tmp', description: 'A folder.' }),
  uids: integerList({ optional: true, minimum: 0, description: 'Users let through.' }),
};

test('settings come from the environment, with defaults and types', () => {
  const config = loadConfig(schema, {
    TIDEGATE_NODE: 'n1',
    TIDEGATE_LINGER_MS: '7',
    TIDEGATE_KEEP_PINS: 'false',
    TIDEGATE_KINDS: 'exec, exit',
    TIDEGATE_UIDS: '0,1000',
    TIDEGATE_LOG_LEVEL: 'debug',
    TIDEGATE_RATIO: '',
  });
  assert.deepEqual(config, {
    natsUrl: 'nats://127.0.0.1:4222',
    natsUser: undefined,
    natsPassword: undefined,
    natsCredentialsFile: undefined,
    logLevel: 'debug',
    healthHost: '127.0.0.1',
    node: 'n1',
    lingerMs: 7,
    ratio: undefined,
    keepPins: false,
    kinds: ['exec', 'exit'],
    folder: '/tmp',
    uids: [0, 1000],
  });
});

test('every fault is listed at once, and a secret is not shown', () => {
  const withPin = { ...schema, pin: integer({ secret: true, minimum: 0, description: 'A pin.' }) };
  assert.throws(
    () =>
      loadConfig(withPin, {
        TIDEGATE_LINGER_MS: '5000',
        TIDEGATE_KEEP_PINS: 'perhaps',
        TIDEGATE_LOG_LEVEL: 'loud',
        TIDEGATE_RATIO: 'half',
        TIDEGATE_KINDS: 'exec,,exit',
        TIDEGATE_UIDS: '0,-1',
        TIDEGATE_FOLDER: 'here',
        TIDEGATE_PIN: 'hunter2',
      }),
    (error: unknown) => {
      assert.ok(hasErrorCode(error, 'CONFIG_INVALID'));
      assert.match(error.message, /TIDEGATE_NODE: expected text, got nothing \(Name of this node\.\)/);
      assert.match(error.message, /TIDEGATE_LINGER_MS: expected an integer from 0 to 1000, got "5000"/);
      assert.match(error.message, /TIDEGATE_KEEP_PINS: expected true or false, got "perhaps"/);
      assert.match(error.message, /TIDEGATE_LOG_LEVEL: expected one of trace, debug, info, warn, error, fatal, silent, got "loud"/);
      assert.match(error.message, /TIDEGATE_RATIO: expected an integer, got "half"/);
      assert.match(error.message, /TIDEGATE_KINDS: expected a list with commas, each text, got "exec,,exit"/);
      assert.match(error.message, /TIDEGATE_UIDS: expected a list with commas, each an integer, at least 0, got "0,-1"/);
      assert.match(error.message, /TIDEGATE_FOLDER: expected an absolute path, got "here"/);
      assert.match(error.message, /TIDEGATE_PIN: expected an integer, at least 0, got a value that is not shown/);
      assert.doesNotMatch(error.message, /hunter2/);
      return true;
    },
  );
});

test('the table has a row for every setting', () => {
  const rows = describeConfig(schema);
  assert.equal(rows.length, Object.keys(schema).length);
  assert.match(configTable(rows), /\| `TIDEGATE_LINGER_MS` \| `5` \| an integer from 0 to 1000 \| Longest wait for a batch to fill\. \|/);
  assert.match(configTable(rows), /\| `TIDEGATE_NODE` \| \*\*required\*\* \|/);
});
