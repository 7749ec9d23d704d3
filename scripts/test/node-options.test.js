import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';

const read = path => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

test('each image starts its service with the options of Node.js that its package.json asks for', () => {
  const started = new Map();
  for (const [, line] of read('deploy/images/Dockerfile').matchAll(/^ENTRYPOINT (.*services.*)$/gm)) {
    const [, ...args] = JSON.parse(line);
    started.set(args.at(-1).split('/').at(-3), args.slice(0, -1));
  }
  const asked = readdirSync(new URL('../../services', import.meta.url)).map(service => {
    const { tidegate } = JSON.parse(read(`services/${service}/package.json`));
    return [service, tidegate.nodeOptions];
  });
  assert.deepEqual(started, new Map(asked));
});
