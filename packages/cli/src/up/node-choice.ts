/** What the sensor of this machine is called: with a cluster, as the cluster calls the node, else its pods get no identity. */
import { execFile } from 'node:child_process';
import { hostname } from 'node:os';
import { promisify } from 'node:util';
import { printable } from '@tidegate/contracts';
import { servicePath } from './service-path.ts';

/** As the gateway's program find-node prints it. */
interface NodeSearch {
  /** Nodes on this machine's kernel. */
  here: string[];
  count: number;
  /** Names of the first nodes of the cluster. */
  some: string[];
}

export interface NodeChoice {
  /** For TIDEGATE_NODE; undefined: the sensor decides, by the setting or the host name. */
  node: string | undefined;
  /** What to tell the user. */
  text: string;
  level: 'info' | 'warn';
}

const SEARCH_TIMEOUT_MS = 10_000;
const run = promisify(execFile);

/** Looks for this machine among the cluster's nodes. What the user has set holds, and is compared with what is found. Never rejects. */
export async function chooseNode(env: NodeJS.ProcessEnv): Promise<NodeChoice> {
  const configured = env.TIDEGATE_NODE || undefined;
  try {
    const { stdout } = await run(process.execPath, [servicePath('enforcer-gateway', 'find-node')], { env, timeout: SEARCH_TIMEOUT_MS });
    return decideNode(JSON.parse(stdout) as NodeSearch, configured, hostname());
  } catch (error) {
    const { stderr = '', killed, message } = error as { stderr?: string; killed?: boolean; message: string };
    const reason = killed === true ? `no answer in ${SEARCH_TIMEOUT_MS / 1000} s` : stderr.trim().split('\n').at(-1) || message;
    const name = configured ?? hostname();
    const text = `node ${printable(name)}: the cluster could not be asked which of its nodes this machine is (${printable(reason)})`;
    return configured === undefined
      ? { node: undefined, text: `${text}; if it has another name there, its pods get no identity: set TIDEGATE_NODE`, level: 'warn' }
      : { node: undefined, text, level: 'info' };
  }
}

export function decideNode({ here, count, some }: NodeSearch, configured: string | undefined, host: string): NodeChoice {
  const listed = (names: readonly string[]) => names.map(printable).join(', ');
  const name = printable(configured ?? host);
  const others = count === 1 ? `its only node is ${listed(some)}` : `it has ${count}: ${listed(some)}${count > some.length ? ', …' : ''}`;
  const [found, ...more] = here;
  if (configured !== undefined) {
    if (here.length === 0)
      return {
        node: undefined,
        text: `node ${name}, by TIDEGATE_NODE; this machine is none of the cluster's nodes (${others})`,
        level: 'warn',
      };
    if (here.includes(configured))
      return { node: undefined, text: `node ${name}, by TIDEGATE_NODE, as the cluster calls this machine`, level: 'info' };
    const text = `node ${name}, by TIDEGATE_NODE; the cluster calls this machine ${listed(here)}: pods get no identity under another name`;
    return { node: undefined, text, level: 'warn' };
  }
  if (found === undefined)
    return {
      node: undefined,
      text: `node ${name}, by its host name: this machine is none of the cluster's nodes (${others})`,
      level: 'info',
    };
  if (more.length > 0) {
    const text = `node ${name}, by its host name: several nodes of the cluster run on this machine's kernel (${listed(here)}); pods get the identity of one of them when TIDEGATE_NODE names it`;
    return { node: undefined, text, level: 'warn' };
  }
  return {
    node: found,
    text: `node ${printable(found)}, as the cluster calls this machine (by its kernel's boot id)`,
    level: 'info',
  };
}
