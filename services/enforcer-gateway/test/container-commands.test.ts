import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ContainerCommandType } from '@tidegate/contracts';
import { containerCommands } from '../src/container-commands.ts';

const exec = (...command: string[]) => ({ exec: { command } });

test('probes and hooks are there as the kubelet runs them', () => {
  const commands = containerCommands({
    name: 'db',
    env: [
      { name: 'USER', value: 'shop' },
      { name: 'SECRET', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } },
    ],
    startupProbe: { httpGet: { port: 80 } } as object,
    readinessProbe: exec('pg_isready', '-U', '$(USER)', '$(SECRET)', '$(OTHER)', '$$(USER)', '$(USER', '$'),
    livenessProbe: exec('/bin/true'),
    lifecycle: { postStart: exec('echo', '$(USER)'), preStop: exec() },
  });
  assert.deepEqual(commands, [
    {
      type: ContainerCommandType.CONTAINER_COMMAND_TYPE_READINESS_PROBE,
      arguments: ['pg_isready', '-U', 'shop', '', '$(OTHER)', '$(USER)', '$(USER', '$'],
    },
    { type: ContainerCommandType.CONTAINER_COMMAND_TYPE_LIVENESS_PROBE, arguments: ['/bin/true'] },
    { type: ContainerCommandType.CONTAINER_COMMAND_TYPE_POST_START_HOOK, arguments: ['echo', '$(USER)'] },
  ]);
});

test('a long command keeps what can be compared', () => {
  const [command] = containerCommands({ name: 'db', livenessProbe: exec('sh', '-c', 'x'.repeat(10_000), 'end') });
  assert.deepEqual(command?.arguments?.slice(0, 2), ['sh', '-c']);
  assert.equal(command?.arguments?.length, 3);
  assert.ok(command.arguments[2]!.length > 256 && command.arguments[2]!.length < 512);
});
