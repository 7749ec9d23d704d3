import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Entered } from '@tidegate/contracts';
import {
  ContainerCommandType,
  ContainerType,
  createEventReader,
  decodeBatch,
  encodeBatch,
  enteredBy,
  type Pod,
  type Process,
} from '@tidegate/contracts';

const SCRIPT = ['/bin/sh', '-c', 'pg_isready -U shop'];
const LONG = ['sh', '-c', 'x'.repeat(400)];
const POD: Pod = {
  uid: 'pod-1',
  containers: [
    {
      name: 'db',
      containerId: 'c0ffee',
      commands: [
        { type: ContainerCommandType.CONTAINER_COMMAND_TYPE_READINESS_PROBE, arguments: SCRIPT },
        { type: ContainerCommandType.CONTAINER_COMMAND_TYPE_LIVENESS_PROBE, arguments: ['ready.sh', '-q'] },
        { type: ContainerCommandType.CONTAINER_COMMAND_TYPE_STARTUP_PROBE, arguments: LONG },
        { type: ContainerCommandType.CONTAINER_COMMAND_TYPE_PRE_STOP_HOOK, arguments: ['/drain'] },
      ],
    },
    { name: 'debugger', type: ContainerType.CONTAINER_TYPE_EPHEMERAL },
  ],
};
const DB = { containerId: 'c0ffee', podUid: 'pod-1', name: 'db' };

const FORMS: [title: string, process: Process, container: object | undefined, pod: Pod | undefined, expected: Entered | undefined][] = [
  ['grew up there', {}, DB, POD, undefined],
  ['on the host', {}, undefined, undefined, undefined],
  ['a probe', { entered: true, entryArguments: SCRIPT }, DB, POD, 'probe'],
  ['what a probe has started', { entered: true, arguments: ['pg_isready'], entryArguments: SCRIPT }, DB, POD, 'probe'],
  ['a probe whose name was looked up', { entered: true, entryArguments: ['/usr/local/bin/ready.sh', '-q'] }, DB, POD, 'probe'],
  ['another program of that name', { entered: true, entryArguments: ['/tmp/ready.sh', '-q'] }, DB, POD, 'exec'],
  [
    'a probe that was cut',
    { entered: true, entryArguments: ['sh', '-c', 'x'.repeat(240)], entryArgumentsTruncated: true },
    DB,
    POD,
    'probe',
  ],
  ['the beginning of a probe', { entered: true, entryArguments: ['sh', '-c', 'x'.repeat(240)] }, DB, POD, 'exec'],
  ['a hook', { entered: true, entryArguments: ['/drain'] }, DB, POD, 'hook'],
  ['kubectl exec', { entered: true, entryArguments: ['sh'] }, DB, POD, 'exec'],
  ['arguments that only look the same', { entered: true, entryArguments: ['/bin/sh', '-c', 'pg_isready', '-U', 'shop'] }, DB, POD, 'exec'],
  ["a probe's command at a terminal", { entered: true, entryArguments: SCRIPT, entryTerminal: true }, DB, POD, 'exec'],
  ['nothing known of what entered', { entered: true }, DB, POD, 'unknown'],
  ['an ephemeral container', {}, { containerId: 'd', podUid: 'pod-1', name: 'debugger' }, POD, 'debug'],
  ['exec into one', { entered: true, entryArguments: ['sh'] }, { containerId: 'd', podUid: 'pod-1', name: 'debugger' }, POD, 'exec'],
  ['a pod that was not known', { entered: true, entryArguments: SCRIPT }, DB, undefined, 'unknown'],
  ['a pod of which only the uid is known', { entered: true, entryArguments: SCRIPT }, DB, { uid: 'pod-1', unresolved: true }, 'unknown'],
  ['docker exec', { entered: true, entryArguments: ['sh'] }, { containerId: 'c0ffee', healthCheck: SCRIPT }, undefined, 'exec'],
  ["Docker's health check", { entered: true, entryArguments: SCRIPT }, { containerId: 'c0ffee', healthCheck: SCRIPT }, undefined, 'probe'],
];

for (const [title, process, container, pod, expected] of FORMS) {
  test(`how a process came into its container: ${title}`, () => {
    assert.equal(enteredBy(process, container, pod), expected);
    // The same over the wire, as JSON has it.
    const batch = decodeBatch(
      encodeBatch({
        processes: [{ ...process, id: 1, container: container ? 1 : 0 }],
        containers: container ? [{ ...container, id: 1 }] : [],
        pods: pod ? [pod] : [],
        events: [{ kind: 1, process: 1 }],
      }),
    );
    const json = createEventReader(batch).all()[0]?.process;
    assert.equal(json?.entered, expected);
    assert.deepEqual(json?.entry_arguments, process.entryArguments ?? undefined);
  });
}
