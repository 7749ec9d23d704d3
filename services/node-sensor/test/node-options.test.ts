import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

test('the image starts the sensor with the options its package.json asks for', () => {
  const { tidegate } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    tidegate: { nodeOptions: string[] };
  };
  const dockerfile = readFileSync(new URL('../../../deploy/images/Dockerfile', import.meta.url), 'utf8');
  const line = /^ENTRYPOINT (.*node-sensor\/dist\/main\.js.*)$/m.exec(dockerfile)![1]!;
  const [, ...args] = JSON.parse(line) as string[];
  assert.deepEqual(args.slice(0, -1), tidegate.nodeOptions);
});
