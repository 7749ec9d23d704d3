import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { configRows, errorCatalogues, metricRows, ROOT, staleFiles } from '../reference.js';
import { metricsNamed, raisedCodes, variablesNamed, variablesRead } from '../source-facts.js';

const DOCUMENTATION = ['*.md', '{docs,deploy,packages,services,native,loadtest,bpf}/**/*.md'];
const CHART = 'deploy/helm/**/*.{yaml,tpl}';

test('documentation has the settings, metrics and error codes that the code has', async () => {
  const stale = await staleFiles();
  assert.deepEqual(
    stale.map(({ file, reason }) => `${file}: ${reason}`),
    [],
    'npm run reference writes them',
  );
});

test('every error code of a catalogue is raised somewhere, and every code that is raised is in its catalogue', async () => {
  const catalogues = await errorCatalogues();
  const raised = raisedCodes(ROOT, Object.fromEntries(catalogues.map(({ errorClass, constants }) => [errorClass, constants])));
  for (const { errorClass, codes } of catalogues)
    assert.deepEqual([...raised.get(errorClass)].sort(), Object.keys(codes).sort(), errorClass);
});

test('no table of error codes stands elsewhere', () => {
  for (const file of ['packages/runtime/README.md', 'services/api/README.md']) {
    const text = readFileSync(join(ROOT, file), 'utf8');
    assert.doesNotMatch(text, /^\| `[A-Z]+_[A-Z_]+` \| (\d+ \| )?[A-Z]/m, `${file}: docs/errors.md has them`);
    assert.match(text, /docs\/errors\.md/, file);
  }
});

test('every environment variable that is documented or set by the chart is read, and every one that is read is documented', async () => {
  const settings = [...(await configRows()).values()].flat().map(({ variable }) => variable);
  const read = new Set([...settings, ...variablesRead(ROOT)]);
  const named = variablesNamed(ROOT, ...DOCUMENTATION, CHART);
  assert.deepEqual(
    [...named].filter(([variable]) => !read.has(variable)).map(([variable, file]) => `${file}: nothing reads ${variable}`),
    [],
  );
  const documented = variablesNamed(ROOT, ...DOCUMENTATION);
  assert.deepEqual([...read].filter(variable => !documented.has(variable)).sort(), [], 'no documentation names them');
});

test('every metric that documentation or chart name is registered', () => {
  const registered = new Set([...metricRows().values()].flat().map(({ name }) => name));
  assert.ok(registered.size > 40, 'metrics were read');
  const named = metricsNamed(ROOT, ...DOCUMENTATION, CHART);
  assert.deepEqual(
    [...named].filter(([name]) => !registered.has(name)).map(([name, file]) => `${file}: nothing registers ${name}`),
    [],
  );
});
