import assert from 'node:assert/strict';
import { test } from 'node:test';
import { staleReadmes } from '../config-tables.js';

test('every README shows the settings and error codes that the code has', async () => {
  const stale = await staleReadmes();
  assert.deepEqual(
    stale.map(({ file, reason }) => `${file}: ${reason}`),
    [],
    'node scripts/config-tables.js writes them',
  );
});
