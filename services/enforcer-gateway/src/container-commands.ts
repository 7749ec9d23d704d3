/** What the kubelet runs in a container by itself, by which a probe is told from somebody's command. */
import { ContainerCommandType, type ContainerCommand } from '@tidegate/contracts';
import type { ApiContainer, ApiHandler } from './api-pod.ts';

/** Of one command. Sensors tell 256 bytes of what entered, so that more would compare with nothing. */
const COMMAND_MAX_BYTES = 512;

export function containerCommands({ env = [], lifecycle, startupProbe, readinessProbe, livenessProbe }: ApiContainer): ContainerCommand[] {
  const variables = new Map(env.map(({ name, value = '' }) => [name, value]));
  const handlers: [type: ContainerCommandType, handler: ApiHandler | undefined, isExpanded: boolean][] = [
    [ContainerCommandType.CONTAINER_COMMAND_TYPE_STARTUP_PROBE, startupProbe, true],
    [ContainerCommandType.CONTAINER_COMMAND_TYPE_READINESS_PROBE, readinessProbe, true],
    [ContainerCommandType.CONTAINER_COMMAND_TYPE_LIVENESS_PROBE, livenessProbe, true],
    // The kubelet takes hooks as they are.
    [ContainerCommandType.CONTAINER_COMMAND_TYPE_POST_START_HOOK, lifecycle?.postStart, false],
    [ContainerCommandType.CONTAINER_COMMAND_TYPE_PRE_STOP_HOOK, lifecycle?.preStop, false],
  ];
  return handlers.flatMap(([type, handler, isExpanded]) => {
    const command = handler?.exec?.command ?? [];
    if (command.length === 0) return [];
    return { type, arguments: cut(isExpanded ? command.map(word => expand(word, variables)) : command) };
  });
}

/** $(NAME) by the container's variables that stand in its spec; $$ is $; what is not known stays as it is: k8s.io/kubernetes/third_party/forked/golang/expansion. */
function expand(word: string, variables: ReadonlyMap<string, string>): string {
  return word.replaceAll(/\$(?:\$|\(([^)]*)\))/g, (whole, name: string | undefined) =>
    name === undefined ? '$' : (variables.get(name) ?? whole),
  );
}

function cut(command: readonly string[]): string[] {
  let left = COMMAND_MAX_BYTES;
  const words: string[] = [];
  for (const word of command) {
    if (left <= 0) break;
    words.push(word.slice(0, left).toWellFormed());
    left -= Buffer.byteLength(word) + 1;
  }
  return words;
}
