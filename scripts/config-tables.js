/**
 * Writes what code knows into READMEs, between a pair of comments: the settings of each service (`config-table`) and the catalogue of error
 * codes (`error-table`). Needs a build. With --check it changes nothing and exits 1 when a README is behind the code.
 */
import { existsSync, globSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/** Files whose tables differ from the code, with the text they should have. */
export async function staleReadmes() {
  const { ErrorCatalogue, configTable, describeConfig } = await builtModule('packages/runtime/dist/index.js');
  const errorRows = Object.entries(ErrorCatalogue).map(([code, meaning]) => `| \`${code}\` | ${meaning} |`);
  const tables = [['packages/runtime/README.md', 'error-table', ['| code | meaning |', '|---|---|', ...errorRows].join('\n')]];
  for (const file of globSync('services/*/dist/config.js', { cwd: ROOT }).sort()) {
    const schema = Object.values(await builtModule(file)).find(value => typeof value === 'object');
    tables.push([join(dirname(dirname(file)), 'README.md'), 'config-table', configTable(describeConfig(schema))]);
  }
  return tables.flatMap(([file, marker, table]) => {
    const path = join(ROOT, file);
    const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
    const [opening, closing] = [`<!-- ${marker} -->`, `<!-- /${marker} -->`];
    const start = text.indexOf(opening);
    const end = text.indexOf(closing);
    if (start < 0 || end < start) return [{ file, reason: `has no ${opening} … ${closing}` }];
    const wanted = `${text.slice(0, start)}${opening}\n${table}\n${text.slice(end)}`;
    return wanted === text ? [] : [{ file, reason: `its ${marker} differs from the code`, path, wanted }];
  });
}

function builtModule(file) {
  return import(pathToFileURL(join(ROOT, file)).href);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const isCheck = process.argv.includes('--check');
  let failed = false;
  for (const { file, reason, path, wanted } of await staleReadmes()) {
    if (!isCheck && wanted !== undefined) {
      writeFileSync(path, wanted);
      console.log(`${file}: written`);
    } else {
      failed = true;
      console.error(`${file}: ${reason}`);
    }
  }
  process.exitCode = failed ? 1 : 0;
}
