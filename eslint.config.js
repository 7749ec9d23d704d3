import js from '@eslint/js';
import prettier from 'eslint-config-prettier';
import { defineConfig } from 'eslint/config';
import globals from 'globals';
import tseslint from 'typescript-eslint';

/**
 * Which workspaces a folder may import. Imports run one way: contracts <- runtime <- events <- services, cli. Services never import each other (they meet on subjects), and only
 * node-sensor imports native.
 */
const MAY_IMPORT = {
  'packages/contracts': [],
  'packages/runtime': ['contracts'],
  'packages/events': ['contracts', 'runtime'],
  'packages/testkit': ['contracts', 'runtime'],
  'packages/cli': ['contracts', 'runtime'],
  native: [],
  'services/node-sensor': ['contracts', 'runtime', 'native'],
  'services/enricher': ['contracts', 'runtime'],
  'services/enforcer-gateway': ['contracts', 'runtime'],
  'services/api': ['contracts', 'runtime', 'events'],
  'services/connectors': ['contracts', 'runtime', 'events'],
  loadtest: ['contracts', 'runtime', 'testkit', 'native', 'node-sensor', 'enricher'],
};
const WORKSPACES = Object.keys(MAY_IMPORT).map(folder => folder.split('/').at(-1));

const importDirections = Object.entries(MAY_IMPORT).map(([folder, allowed]) => ({
  files: [`${folder}/src/**/*.ts`],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: [
          {
            group: WORKSPACES.filter(name => !allowed.includes(name)).flatMap(name => [`@tidegate/${name}`, `@tidegate/${name}/**`]),
            message: `${folder} may import ${allowed.length === 0 ? 'no other workspace' : allowed.map(name => `@tidegate/${name}`).join(', ')}.`,
          },
          { regex: '^(\\.\\./)+(packages|services|native)/', message: 'Import another workspace by its package name.' },
        ],
      },
    ],
  },
}));

export default defineConfig(
  { ignores: ['**/node_modules/', '**/dist/', '**/build/', 'packages/contracts/generated/', '.tidegate/', 'docs/examples/'] },
  {
    files: ['**/*.{ts,js}'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { project: 'tsconfig.lint.json', tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      '@typescript-eslint/no-floating-promises': [
        'error',
        { allowForKnownSafeCalls: [{ from: 'package', package: 'node:test', name: ['test', 'skip', 'todo', 'suite', 'describe', 'it'] }] },
      ],
      '@typescript-eslint/no-non-null-assertion': 'off', // Index access in loops over byte arrays; noUncheckedIndexedAccess asks for it.
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrorsIgnorePattern: '^_' }],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/restrict-plus-operands': ['error', { allowNumberAndString: true }],
      '@typescript-eslint/no-base-to-string': 'off', // Settings, log records and WebSocket frames are unknown to the types only.
      '@typescript-eslint/no-unnecessary-type-parameters': 'off', // `get<Body>(path)` says what the JSON is.
      '@typescript-eslint/no-dynamic-delete': 'off',
      '@typescript-eslint/no-invalid-void-type': 'off',
      '@typescript-eslint/no-confusing-void-expression': 'off', // `() => clearTimeout(timer)` confuses nobody.
      '@typescript-eslint/require-await': 'off', // An async function's throw is a rejection, with or without an await.
      '@typescript-eslint/no-meaningless-void-operator': 'off', // `async () => void (await put())` gives nobody what it got.
      '@typescript-eslint/unbound-method': 'off', // Our interfaces write methods and mean closures; classes are few.
      '@typescript-eslint/no-unnecessary-condition': 'off', // Knows neither that a signal is aborted during an await, nor that a decoded message lacks a field.
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off', // The Kubernetes client and protobufjs declare classes for what is plain data.
      '@typescript-eslint/no-misused-spread': 'off', // The same.
      eqeqeq: 'error',
      'no-console': 'error',
    },
  },
  {
    files: ['**/*.js'],
    extends: [js.configs.recommended],
    languageOptions: { globals: globals.nodeBuiltin },
    rules: {
      'no-unused-vars': 'off', // typescript-eslint's knows more.
      'no-control-regex': 'off', // Control characters are what we look for.
      // Nothing is declared in JavaScript, so all of these would be about JSON.parse.
      ...off(
        'no-unsafe-argument',
        'no-unsafe-assignment',
        'no-unsafe-call',
        'no-unsafe-member-access',
        'no-unsafe-return',
        'restrict-template-expressions',
      ),
    },
  },
  { files: ['services/api/static/*.js'], languageOptions: { globals: globals.browser } },
  { files: ['packages/cli/**', 'loadtest/**', 'scripts/**', '**/test/**'], rules: { 'no-console': 'off' } },
  {
    // Answers of the API and numbers of kinds are what tests assert on.
    files: ['**/test/**/*.ts'],
    rules: off(
      'no-unsafe-argument',
      'no-unsafe-assignment',
      'no-unsafe-call',
      'no-unsafe-member-access',
      'no-unsafe-return',
      'no-unsafe-enum-assignment',
      'no-unsafe-enum-comparison',
    ),
  },
  ...importDirections,
  prettier,
);

function off(...rules) {
  return Object.fromEntries(rules.map(rule => [`@typescript-eslint/${rule}`, 'off']));
}
