import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
/** Needed and never imported: types, what is only run as a command, and headers that a Makefile names. */
const NOT_IMPORTED = {
  '.': ['@types/node', '@types/ws', 'node', 'prettier', 'protobufjs-cli'],
  native: ['node-addon-api', 'node-api-headers'],
};

const read = path => readFileSync(join(ROOT, path), 'utf8');
const workspaces = globSync(['{packages,services}/*/package.json', '{native,loadtest}/package.json'], { cwd: ROOT })
  .map(file => dirname(file))
  .sort();
const manifests = new Map(['.', ...workspaces].map(folder => [folder, JSON.parse(read(join(folder, 'package.json')))]));

/** Packages that files import by name, types included. */
function packagesOf(folder, ...patterns) {
  const found = new Set();
  for (const file of globSync(patterns, { cwd: join(ROOT, folder), exclude: ['**/node_modules', '**/dist', '**/build'] })) {
    for (const { fileName } of ts.preProcessFile(read(join(folder, file))).importedFiles) {
      if (/^[.#/]/.test(fileName) || isBuiltin(fileName)) continue;
      found.add(
        fileName
          .split('/')
          .slice(0, fileName.startsWith('@') ? 2 : 1)
          .join('/'),
      );
    }
  }
  found.delete(manifests.get(folder).name);
  return [...found].sort();
}

test('each workspace names the packages that it imports, and no others; those of tests alone as devDependencies', () => {
  for (const folder of workspaces) {
    const { dependencies = {}, devDependencies = {} } = manifests.get(folder);
    const needed = packagesOf(folder, 'src/**/*.ts', 'captures/**/*.ts');
    const tested = packagesOf(folder, 'test/**/*.ts').filter(name => !needed.includes(name));
    assert.deepEqual(Object.keys(dependencies).sort(), needed, `${folder}: dependencies`);
    assert.deepEqual(
      Object.keys(devDependencies).sort(),
      [...tested, ...(NOT_IMPORTED[folder] ?? [])].sort(),
      `${folder}: devDependencies`,
    );
  }
  const tools = packagesOf('.', 'scripts/**/*.js', 'deploy/**/*.js', '*.js').filter(name => !name.startsWith('@tidegate/'));
  assert.deepEqual(Object.keys(manifests.get('.').devDependencies).sort(), [...tools, ...NOT_IMPORTED['.']].sort());
});

test('versions are exact, and one for all', () => {
  const versions = new Map();
  for (const [folder, { dependencies, devDependencies }] of manifests) {
    for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies })) {
      assert.match(version, /^\d+\.\d+\.\d+$/, `${folder}: ${name}`);
      assert.equal(version, versions.get(name) ?? version, `${folder}: ${name}`);
      versions.set(name, version);
    }
  }
});

test('docs/dependencies.md says why each is there, and of no other', () => {
  const all = kind => [...manifests.values()].flatMap(manifest => Object.keys(manifest[kind] ?? {}));
  const foreign = names => [...new Set(names)].filter(name => !name.startsWith('@tidegate/')).sort();
  const atRunTime = foreign(all('dependencies'));
  const beside = foreign(all('devDependencies')).filter(name => !atRunTime.includes(name) && !name.startsWith('@types/'));
  const [, runTime, build] = read('docs/dependencies.md').split(/^## /m);
  assert.deepEqual(namedIn(runTime), atRunTime);
  assert.deepEqual(namedIn(build), beside);
});

/** Names in the first column of a table. */
function namedIn(section) {
  const cells = section.split('\n').flatMap(line => /^\| ([^|]*`[^|]*)\|/.exec(line)?.[1] ?? []);
  return cells.flatMap(cell => [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name)).sort();
}
