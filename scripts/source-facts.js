/** What the source itself says of what users meet: the metrics it registers, the error codes it raises, the environment variables it reads. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';

/** Methods of `Metrics` (packages/runtime/src/metrics.ts): type, ending of the name, and which argument has the labels. */
const METRIC_METHODS = {
  counter: { type: 'counter', ending: '_total', labels: args => args[2] },
  observedCounter: { type: 'counter', ending: '_total', labels: () => undefined },
  observedCounters: { type: 'counter', ending: '_total', labels: args => args[2] },
  gauge: { type: 'gauge', ending: '', labels: args => args[2]?.properties?.find(({ name }) => name?.text === 'labels')?.initializer },
  histogram: { type: 'histogram', ending: '', labels: args => args[3] },
};
const METRICS_FILE = 'packages/runtime/src/metrics.ts';
const CODE = /^[A-Z]+(_[A-Z]+)*$/;
const VARIABLE = /\bTIDEGATE_[A-Z0-9_]*[A-Z0-9]\b/g;

/** Metrics that a service registers, itself or by a function of packages/runtime that it calls, in the order of the source. */
export function metricsOf(root, service) {
  const shared = new Map();
  for (const { file, tree } of sources(root, 'packages/runtime/src/**/*.ts')) {
    if (file === METRICS_FILE) continue;
    for (const statement of tree.statements)
      if (ts.isFunctionDeclaration(statement)) shared.set(statement.name.text, metricsIn(statement, file));
  }
  const found = [];
  for (const { file, tree } of sources(root, `services/${service}/src/**/*.ts`)) {
    found.push(...metricsIn(tree, file));
    for (const call of nodesOf(tree, ts.isCallExpression))
      if (ts.isIdentifier(call.expression)) found.push(...(shared.get(call.expression.text) ?? []));
  }
  const prefix = `tidegate_${service.replaceAll('-', '_')}_`;
  return found.map(({ name, ...rest }) => ({ name: prefix + name, ...rest }));
}

/**
 * Codes given to the constructors of `classes` (name of a class: its constants of codes, if it has), to those of classes that extend them and to `raise(...)` of the
 * native core, as a set for each class.
 */
export function raisedCodes(root, classes) {
  const raised = new Map(Object.keys(classes).map(name => [name, new Set()]));
  const add = (name, argument) => {
    for (const node of nodesOf(argument, () => true)) {
      if (ts.isStringLiteral(node) && CODE.test(node.text)) raised.get(name).add(node.text);
      if (ts.isPropertyAccessExpression(node)) raised.get(name).add(classes[name][node.name.text] ?? node.getText());
    }
  };
  for (const { tree } of sources(root, '{packages,services}/*/src/**/*.ts', '{native,loadtest}/src/**/*.ts', 'deploy/**/*.js')) {
    for (const node of nodesOf(tree, ts.isNewExpression)) {
      const name = node.expression.getText();
      if (raised.has(name) && node.arguments.length > 0) add(name, node.arguments[0]);
    }
    for (const node of nodesOf(tree, ts.isCallExpression)) {
      if (node.arguments.length === 0) continue;
      if (node.expression.kind === ts.SyntaxKind.SuperKeyword) {
        const base = ts.findAncestor(node, ts.isClassDeclaration).heritageClauses[0].types[0].expression.getText();
        if (raised.has(base)) add(base, node.arguments[0]);
      } else if (node.expression.name?.text === 'raise') add('NativeError', node.arguments[0]);
    }
  }
  for (const file of globSync('native/src/*.cc', { cwd: root })) {
    for (const line of readFileSync(join(root, file), 'utf8').matchAll(/\braise\((.*)/g))
      for (const [, code] of line[1].matchAll(/"([A-Z_]+)"/g)) raised.get('NativeError').add(code);
  }
  return raised;
}

/** Environment variables that programs, scripts and tests' helpers name outside their comments; those of settings are in the schemas. */
export function variablesRead(root) {
  const found = new Set();
  for (const { tree } of sources(
    root,
    '{packages,services}/*/{src,captures}/**/*.ts',
    '{native,loadtest}/src/**/*.ts',
    '{scripts,deploy}/**/*.js',
  )) {
    const isText = node =>
      ts.isIdentifier(node) || ts.isStringLiteralLike(node) || ts.isTemplateHead(node) || ts.isTemplateMiddleOrTemplateTail(node);
    for (const { text } of nodesOf(tree, isText)) for (const [name] of text.matchAll(VARIABLE)) found.add(name);
  }
  return found;
}

/** Environment variables that files of other kinds name: documentation, the chart. */
export function variablesNamed(root, ...patterns) {
  const found = new Map();
  for (const file of filesOf(root, patterns))
    for (const [name] of readFileSync(join(root, file), 'utf8').matchAll(VARIABLE)) found.set(name, file);
  return found;
}

/** Metrics by their whole name in documentation and chart. */
export function metricsNamed(root, ...patterns) {
  const found = new Map();
  for (const file of filesOf(root, patterns))
    for (const [name] of readFileSync(join(root, file), 'utf8').matchAll(
      /\btidegate_(?:node_sensor|enricher|enforcer_gateway|api|connectors)_[a-z0-9_]*[a-z0-9]\b/g,
    ))
      found.set(name, file);
  return found;
}

function metricsIn(tree, file) {
  return nodesOf(tree, ts.isCallExpression).flatMap(call => {
    const called = call.expression.name?.text ?? call.expression.text;
    if (!Object.hasOwn(METRIC_METHODS, called ?? '') || call.arguments.length < 2) return [];
    const method = METRIC_METHODS[called];
    const [name, help] = call.arguments;
    if (!ts.isStringLiteralLike(name) || !ts.isStringLiteralLike(help))
      throw new Error(`${file}: expected a metric with name and help text as literals, got ${call.getText().slice(0, 100)}`);
    const labels = method.labels(call.arguments);
    return [
      {
        name: name.text + method.ending,
        type: method.type,
        labels: labels === undefined ? [] : nodesOf(labels, ts.isStringLiteralLike).map(({ text }) => text),
        help: help.text,
      },
    ];
  });
}

function* sources(root, ...patterns) {
  for (const file of filesOf(root, patterns))
    yield { file, tree: ts.createSourceFile(file, readFileSync(join(root, file), 'utf8'), ts.ScriptTarget.Latest, true) };
}

/** Our own files alone, in a fixed order. */
function filesOf(root, patterns) {
  return globSync(patterns, { cwd: root, exclude: ['**/node_modules', '**/dist', '**/build'] }).sort();
}

function nodesOf(tree, isWanted) {
  const found = [];
  const visit = node => {
    if (isWanted(node)) found.push(node);
    ts.forEachChild(node, visit);
  };
  visit(tree);
  return found;
}
