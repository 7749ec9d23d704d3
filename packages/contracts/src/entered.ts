/** How a process came into its container from outside: told from what the sensor saw enter, and from what the kubelet runs there by itself. */
import { ContainerCommandType, ContainerType, type Container, type Pod, type Process } from './schema.ts';

export const Entered = {
  /** A startup, readiness or liveness probe of the kubelet, or Docker's health check. */
  probe: 'probe',
  /** A postStart or preStop hook. */
  hook: 'hook',
  /** Somebody's command: kubectl exec, crictl, docker or podman exec. */
  exec: 'exec',
  /** It runs in an ephemeral container, as kubectl debug makes it. */
  debug: 'debug',
  /** Its pod was not known, or not with which command it came. */
  unknown: 'unknown',
} as const;
export type Entered = (typeof Entered)[keyof typeof Entered];

const HOOKS: readonly (number | null | undefined)[] = [
  ContainerCommandType.CONTAINER_COMMAND_TYPE_POST_START_HOOK,
  ContainerCommandType.CONTAINER_COMMAND_TYPE_PRE_STOP_HOOK,
];
/** Where runtimes look for a program without a slash in its name, unless the image says otherwise. */
const PROGRAM_FOLDERS = ['/usr/local/sbin/', '/usr/local/bin/', '/usr/sbin/', '/usr/bin/', '/sbin/', '/bin/'];

/**
 * undefined: it grew up there. What enters by the kubelet's own command is a probe or hook, whoever gave it: a runtime does not tell who asked. Somebody who runs
 * a pod's very probe by hand is shown as the probe, unless with a terminal.
 */
export function enteredBy(process: Process, container: Container | undefined, pod: Pod | undefined): Entered | undefined {
  const spec = container && specOf(container, pod);
  if (!process.entered) return spec?.type === ContainerType.CONTAINER_TYPE_EPHEMERAL ? Entered.debug : undefined;
  if (process.entryTerminal) return Entered.exec;
  if (!container || (container.podUid && !spec) || !process.entryArguments?.length) return Entered.unknown;
  if (isEntry(process, container.healthCheck)) return Entered.probe;
  const command = spec?.commands?.find(each => isEntry(process, each.arguments));
  if (!command) return Entered.exec;
  return HOOKS.includes(command.type) ? Entered.hook : Entered.probe;
}

/** The container in its pod's object: by id, or by name where the kubelet has not reported the id yet. */
function specOf({ name, containerId }: Container, pod: Pod | undefined) {
  return pod?.containers?.find(each => each.containerId === containerId) ?? pod?.containers?.find(each => name && each.name === name);
}

/** Whether the process came in with this command. Both may be cut. */
function isEntry(process: Process, command: readonly string[] | null | undefined): boolean {
  const [given = '', ...rest] = process.entryArguments ?? [];
  const [wanted = '', ...wantedRest] = command ?? [];
  if (given === '' || wanted === '') return false;
  // A script is known by its path: where its name was looked up does not show.
  const isFound = !wanted.includes('/') && PROGRAM_FOLDERS.some(folder => given === folder + wanted);
  const entry = [isFound ? wanted : given, ...rest].join('\0');
  const whole = [wanted, ...wantedRest].join('\0');
  return process.entryArgumentsTruncated ? whole.startsWith(entry) : whole === entry;
}
