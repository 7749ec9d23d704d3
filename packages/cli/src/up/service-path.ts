import { fileURLToPath } from 'node:url';

export type ServiceName = 'node-sensor' | 'enricher' | 'api' | 'enforcer-gateway';

/** The built program of a service in this checkout. Services are processes, not imports. */
export function servicePath(service: ServiceName, program = 'main'): string {
  return fileURLToPath(new URL(`../../../../services/${service}/dist/${program}.js`, import.meta.url));
}

/** This command itself, to run as a process of its own. */
export function commandPath(): string {
  return fileURLToPath(new URL('../main.js', import.meta.url));
}

/** The capture that is played where the kernel cannot be used. */
export function demoCapturePath(): string {
  return fileURLToPath(new URL('../../captures/demo.tgcap', import.meta.url));
}
