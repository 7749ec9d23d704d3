/** The filters of packages/events as parameters of requests. */
import { Entered, isKindName, KIND_NAMES } from '@tidegate/contracts';
import { integerOf, selection, single } from './parameters.ts';

const NAME = 'a name';
const ENTERED = Object.values(Entered);
const MAX_PID = 4_194_304;

/**
 * The filters that history and live feed share. Values of one parameter are alternatives (except labels), those with ! before them are left out;
 * different parameters must all match. What an event has not (a pod, a container, a process) is not left out by any value.
 */
export const filterParameters = {
  kind: selection(
    {
      description: 'Kinds of events.',
      example: 'exec,exit',
      expected: `kinds among ${KIND_NAMES.join(', ')}, or kind-<number> of a newer schema`,
    },
    text => (isKindName(text) ? text : undefined),
  ),
  namespace: selection(
    {
      description: 'Kubernetes namespaces; _host: processes outside containers; _none: containers outside Kubernetes.',
      example: '_host',
      expected: NAME,
    },
    text => text,
  ),
  workload: selection(
    { description: 'Workloads: on _host the node, on _none the container.', example: 'web', expected: NAME },
    text => text,
  ),
  pod: selection({ description: 'Pods, by name or UID.', example: 'web-7d4b9c-x2x1z', expected: 'a name or UID' }, text => text),
  container: selection(
    { description: 'Containers, by name or id; of an id the first 12 digits or more.', example: 'nginx', expected: 'a name or id' },
    text => text,
  ),
  entered: selection(
    {
      description:
        "How the process came into its container from outside: a kubelet's probe or hook; exec, somebody's command; debug, an ephemeral container; unknown, where pod or command was not known.",
      example: 'exec,debug',
      expected: ENTERED.join(', '),
    },
    text => ENTERED.find(each => each === text),
  ),
  node: selection({ description: 'Nodes.', example: 'worker-1', expected: NAME }, text => text),
  binary: selection(
    { description: "The process's binary: a whole path, or its beginning with * at the end.", example: '/usr/bin/*', expected: 'a path' },
    text => text,
  ),
  pid: selection({ description: 'Process ids on the node.', example: '4711', expected: `integers from 1 to ${MAX_PID}` }, text =>
    integerOf(text, 1, MAX_PID),
  ),
  exec_id: selection(
    { description: 'Processes, by exec_id.', example: 'd29ya2VyLTE6MTIzNDU2Nzg5OjQ3MTE=', expected: 'an exec_id' },
    text => text,
  ),
  text: single(
    {
      description: 'Text, in any case, in binary, arguments, working directory, raw path, addresses, pod, workload or container name.',
      example: 'curl',
      expected: 'text',
    },
    text => text.toLowerCase(),
  ),
  label: selection(
    { description: "Labels of the event's pod, all of which must match.", example: 'app=web', expected: 'key=value, or key' },
    text => (text.startsWith('=') ? undefined : text),
  ),
} as const;
