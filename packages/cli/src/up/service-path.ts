import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export type ServiceName = 'node-sensor' | 'enricher' | 'api' | 'connectors' | 'enforcer-gateway';

/** The built program of a service in this checkout. Services are processes, not imports. */
export function servicePath(service: ServiceName, program = 'main'): string {
  return fileURLToPath(new URL(`../../../../services/${service}/dist/${program}.js`, import.meta.url));
}

/** What to give Node.js to run a service: the options of V8 that its package.json asks for, and its program. */
export function serviceArguments(service: ServiceName): string[] {
  const manifest = readFileSync(new URL(`../../../../services/${service}/package.json`, import.meta.url), 'utf8');
  const { tidegate } = JSON.parse(manifest) as { tidegate?: { nodeOptions: string[] } };
  return [...(tidegate?.nodeOptions ?? []), servicePath(service)];
}

/** This command itself, to run as a process of its own. */
export function commandPath(): string {
  return fileURLToPath(new URL('../main.js', import.meta.url));
}

/** The capture that is played where the kernel cannot be used. */
export function demoCapturePath(): string {
  return fileURLToPath(new URL('../../captures/demo.tgcap', import.meta.url));
}
