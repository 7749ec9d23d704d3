/** The live page: a few files, no framework, nothing inline. How events and names are written is the terminal's own code, from contracts. */
import { readFileSync } from 'node:fs';
import type { FastifyInstance } from 'fastify';

const SCRIPT = 'text/javascript; charset=utf-8';
const FILES = [
  { path: '/', file: '../static/index.html', type: 'text/html; charset=utf-8' },
  { path: '/page.css', file: '../static/page.css', type: 'text/css; charset=utf-8' },
  ...['page', 'feed', 'requests', 'problems', 'details', 'elements'].map(name => ({
    path: `/${name}.js`,
    file: `../static/${name}.js`,
    type: SCRIPT,
  })),
  ...['event-summary', 'plain-text'].map(name => ({
    path: `/${name}.js`,
    file: import.meta.resolve(`@tidegate/contracts/${name}.js`),
    type: SCRIPT,
  })),
];

const HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache',
};

export function registerPageRoutes(app: FastifyInstance): void {
  for (const { path, file, type } of FILES) {
    const content = readFileSync(new URL(file, import.meta.url));
    app.get(path, { schema: { hide: true } }, async (_request, reply) => reply.headers(HEADERS).type(type).send(content));
  }
}
