import prettier from 'eslint-config-prettier';
import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

/**
 * Which workspaces a folder may import. Imports run one way: contracts <- runtime <- services, cli. Services never import each other (they meet on subjects), and only
 * node-sensor imports native.
 */
const MAY_IMPORT = {
  'packages/contracts': [],
  'packages/runtime': ['contracts'],
  'packages/testkit': ['contracts', 'runtime'],
  'packages/cli': ['contracts', 'runtime'],
  native: [],
  'services/node-sensor': ['contracts', 'runtime', 'native'],
  'services/enricher': ['contracts', 'runtime'],
  'services/enforcer-gateway': ['contracts', 'runtime'],
  'services/api': ['contracts', 'runtime'],
  loadtest: ['contracts', 'runtime', 'testkit', 'native', 'enricher'],
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
    files: ['**/*.ts'],
    extends: [tseslint.configs.strict],
    rules: {
      '@typescript-eslint/no-non-null-assertion': 'off', // Index access in loops over byte arrays; noUncheckedIndexedAccess asks for it.
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrorsIgnorePattern: '^_' }],
      '@typescript-eslint/no-dynamic-delete': 'off',
      '@typescript-eslint/no-invalid-void-type': 'off',
      eqeqeq: 'error',
      'no-console': 'error',
    },
  },
  { files: ['packages/cli/**', 'loadtest/**', 'scripts/**', '**/test/**'], rules: { 'no-console': 'off' } },
  ...importDirections,
  prettier,
);
