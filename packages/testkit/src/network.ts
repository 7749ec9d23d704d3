/** Network namespaces joined by a bridge, for tests of what a network does to processes. They are gone when the process that made them is. */
import { execFile } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { promisify } from 'node:util';
import type { Host } from './host.ts';
import { waitFor } from './wait.ts';

/** A network namespace with one address. Needs root. */
export interface NetworkPlace {
  readonly address: string;
  /** Makes the command behind it run here, under the same process id, and end with this process. */
  readonly launcher: readonly string[];
  /** Nothing comes in or out; connections stay open. */
  cut(): Promise<void>;
  /** So few bits per second go in, and out; what does not fit waits up to 2 s. */
  slow(bitsPerSecond: number): Promise<void>;
  /** As it was at first. */
  heal(): Promise<void>;
}

const run = promisify(execFile);
/** For tests of networks (RFC 2544): nobody has it in use. */
const NETS = 512;
const QUEUE = ['burst', '16k', 'latency', '2s'];

/** As many places that reach each other and this process. */
export async function createNetwork(host: Host, count: number): Promise<NetworkPlace[]> {
  const net = process.pid % NETS;
  const prefix = `198.${18 + (net >> 8)}.${net & 0xff}`;
  const hub = await openNamespace(host);
  await hub.run('ip', 'link', 'add', 'bridge', 'type', 'bridge');
  await hub.run('ip', 'link', 'set', 'bridge', 'up');
  const own = `tidegate${process.pid}`;
  await run('ip', ['link', 'add', own, 'type', 'veth', 'peer', 'name', 'own', 'netns', hub.pid]);
  host.defer(async () => void (await run('ip', ['link', 'del', own]).catch(() => undefined)));
  await run('ip', ['address', 'add', `${prefix}.254/24`, 'dev', own]);
  await run('ip', ['link', 'set', own, 'up']);
  await hub.run('ip', 'link', 'set', 'own', 'master', 'bridge', 'up');
  const places: NetworkPlace[] = [];
  for (let i = 1; i <= count; i++) places.push(await openPlace(host, hub, `port${i}`, `${prefix}.${i}`));
  return places;
}

interface Namespace {
  pid: string;
  launcher: string[];
  run(...command: string[]): Promise<unknown>;
}

/** It lives as long as the process in it, which ends when nobody holds its standard input. */
async function openNamespace(host: Host): Promise<Namespace> {
  const holder = host.spawn('unshare', ['--net', 'cat'], { stdio: ['pipe', 'ignore', 'ignore'] });
  const namespaceOf = (pid: number | 'self') => readlinkSync(`/proc/${pid}/ns/net`);
  await waitFor(() => holder.pid !== undefined && namespaceOf(holder.pid) !== namespaceOf('self'), { what: 'a network namespace' });
  const pid = String(holder.pid);
  const enter = ['nsenter', `--net=/proc/${pid}/ns/net`];
  return {
    pid,
    launcher: ['setpriv', '--pdeathsig', 'KILL', ...enter],
    run: (...command) => run(enter[0]!, [...enter.slice(1), ...command]),
  };
}

async function openPlace(host: Host, hub: Namespace, port: string, address: string): Promise<NetworkPlace> {
  const own = await openNamespace(host);
  await run('ip', ['link', 'add', port, 'netns', hub.pid, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', own.pid]);
  await own.run('ip', 'link', 'set', 'lo', 'up');
  await own.run('ip', 'address', 'add', `${address}/24`, 'dev', 'eth0');
  await own.run('ip', 'link', 'set', 'eth0', 'up');
  await hub.run('ip', 'link', 'set', port, 'master', 'bridge', 'up');
  const ends: [Namespace, string][] = [
    [hub, port],
    [own, 'eth0'],
  ];
  let isSlow = false;
  return {
    address,
    launcher: own.launcher,
    cut: async () => void (await hub.run('ip', 'link', 'set', port, 'down')),
    async slow(bitsPerSecond) {
      isSlow = true;
      for (const [namespace, end] of ends)
        await namespace.run('tc', 'qdisc', 'replace', 'dev', end, 'root', 'tbf', 'rate', `${bitsPerSecond}bit`, ...QUEUE);
    },
    async heal() {
      await hub.run('ip', 'link', 'set', port, 'up');
      if (isSlow) for (const [namespace, end] of ends) await namespace.run('tc', 'qdisc', 'del', 'dev', end, 'root');
      isSlow = false;
    },
  };
}
