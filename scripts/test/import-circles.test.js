import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** Files that a source imports by relative path, whose extension our imports always have: types, re-exports and `import()` included. */
function importsOf(file, source) {
  return ts
    .preProcessFile(source)
    .importedFiles.map(({ fileName }) => fileName)
    .filter(name => name.startsWith('.'))
    .map(name => join(dirname(file), name));
}

/** One line for each import that closes a circle: `a.ts -> b.ts -> a.ts`. */
function circles(imports) {
  const found = [];
  const done = new Set();
  const visit = (file, path) => {
    const start = path.indexOf(file);
    if (start >= 0) found.push([...path.slice(start), file].join(' -> '));
    if (start >= 0 || done.has(file)) return;
    for (const next of imports.get(file) ?? []) visit(next, [...path, file]);
    done.add(file);
  };
  for (const file of imports.keys()) visit(file, []);
  return found;
}

test('a circle is seen, whatever kind of import closes it', () => {
  const closings = ["import './a.ts';", "import type { A } from './a.ts';", "export * from '../src/a.ts';", "await import('./a.ts');"];
  for (const closing of closings) {
    const sources = {
      'src/main.ts': "import './a.ts';",
      'src/a.ts': "import './b.ts';\nimport './c.ts';",
      'src/b.ts': '',
      'src/c.ts': closing,
    };
    const imports = new Map(Object.entries(sources).map(([file, source]) => [file, importsOf(file, source)]));
    assert.deepEqual(circles(imports), ['src/a.ts -> src/c.ts -> src/a.ts']);
  }
});

test('no file imports itself, directly or through others', () => {
  const files = globSync(['{packages,services}/*/{src,test}/**/*.ts', '{native,loadtest}/{src,test}/**/*.ts', 'scripts/**/*.js'], {
    cwd: ROOT,
  });
  const imports = new Map(files.map(file => [file, importsOf(file, readFileSync(join(ROOT, file), 'utf8'))]));
  assert.ok([...imports.values()].flat().length > files.length, 'imports were read');
  assert.deepEqual(circles(imports), []);
});
