/**
 * Writes what code knows into documentation, between a pair of comments such as `<!-- config-table -->` and `<!-- /config-table -->`: settings and metrics of each
 * service, and the error codes. Needs a build. With --check it changes nothing and exits 1 when a file is behind the code.
 */
import { existsSync, globSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { metricsOf } from './source-facts.js';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
/** The only settings outside of services. */
const SETUP_SETTINGS = 'deploy/images/set-up-settings.js';

/** Files whose tables differ from the code, with the text they should have. */
export async function staleFiles() {
  const texts = new Map();
  const stale = new Map();
  for (const { file, marker, table } of await tables()) {
    const path = join(ROOT, file);
    const text = texts.get(file) ?? (existsSync(path) ? readFileSync(path, 'utf8') : '');
    const [opening, closing] = [`<!-- ${marker} -->`, `<!-- /${marker} -->`];
    const start = text.indexOf(opening);
    const end = text.indexOf(closing);
    if (start < 0 || end < start) {
      stale.set(file, { file, reason: `has no ${opening} … ${closing}` });
      continue;
    }
    const wanted = `${text.slice(0, start)}${opening}\n${table}\n${text.slice(end)}`;
    texts.set(file, wanted);
    if (wanted !== text && stale.get(file)?.reason === undefined)
      stale.set(file, { file, reason: `its ${marker} differs from the code`, path });
  }
  return [...stale.values()].map(each => (each.path === undefined ? each : { ...each, wanted: texts.get(each.file) }));
}

/** Catalogues of error codes: the class of the error that carries them, where each is documented, and its constants of codes, if it has any. */
export async function errorCatalogues() {
  const { ErrorCatalogue } = await builtModule('packages/runtime/dist/index.js');
  const { ApiErrorCatalogue } = await builtModule('services/api/dist/errors.js');
  const { NativeErrorCatalogue } = await builtModule('native/dist/native-error.js');
  const { PoisonCatalogue, PoisonReason } = await builtModule('services/enricher/dist/raw-message.js');
  return [
    { errorClass: 'TidegateError', marker: 'tidegate-errors', codes: ErrorCatalogue, constants: {} },
    { errorClass: 'ApiError', marker: 'api-errors', codes: ApiErrorCatalogue, constants: {} },
    { errorClass: 'NativeError', marker: 'native-errors', codes: NativeErrorCatalogue, constants: {} },
    { errorClass: 'PoisonError', marker: 'dead-letter-reasons', codes: PoisonCatalogue, constants: PoisonReason },
  ];
}

/** Rows of every configuration table, by the file that has it. */
export async function configRows() {
  const { describeConfig } = await builtModule('packages/runtime/dist/index.js');
  const rows = new Map();
  for (const file of [...globSync('services/*/dist/config.js', { cwd: ROOT }).sort(), SETUP_SETTINGS]) {
    const schema = Object.values(await builtModule(file)).find(value => typeof value === 'object');
    rows.set(join(dirname(dirname(file)), 'README.md'), describeConfig(schema));
  }
  return rows;
}

/** Metrics of every service, by its name. */
export function metricRows() {
  const services = globSync('services/*/package.json', { cwd: ROOT }).sort();
  return new Map(services.map(file => dirname(file).split('/').at(-1)).map(service => [service, metricsOf(ROOT, service)]));
}

async function tables() {
  const { configTable } = await builtModule('packages/runtime/dist/index.js');
  const errors = (await errorCatalogues()).map(({ marker, codes }) => ({ file: 'docs/errors.md', marker, table: errorTable(codes) }));
  const configs = [...(await configRows())].map(([file, rows]) => ({ file, marker: 'config-table', table: configTable(rows) }));
  const metrics = [...metricRows()].map(([service, rows]) => ({
    file: `services/${service}/README.md`,
    marker: 'metrics-table',
    table: metricsTable(rows),
  }));
  return [...errors, ...configs, ...metrics];
}

function errorTable(codes) {
  const rows = Object.entries(codes).map(([code, { status, meaning, remedy }]) => [
    `\`${code}\``,
    ...(status ? [status] : []),
    meaning,
    remedy,
  ]);
  const hasStatus = rows[0].length === 4;
  return markdownTable(['code', ...(hasStatus ? ['status'] : []), 'meaning', 'what to do'], rows);
}

function metricsTable(rows) {
  return markdownTable(
    ['metric', 'type', 'labels', 'meaning'],
    rows.map(({ name, type, labels, help }) => [
      `\`${name}\``,
      type,
      labels.map(label => `\`${label}\``).join(', '),
      help.replace(/\.?$/, '.'),
    ]),
  );
}

function markdownTable(head, rows) {
  return [head, head.map(() => '---'), ...rows].map(cells => `| ${cells.join(' | ')} |`).join('\n');
}

function builtModule(file) {
  return import(pathToFileURL(join(ROOT, file)).href);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const isCheck = process.argv.includes('--check');
  let failed = false;
  for (const { file, reason, path, wanted } of await staleFiles()) {
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
