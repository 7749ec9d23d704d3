/**
 * Bytes per event of work as machines do it: a build, a package install, and twenty pods with their probes and connections. Only the work's own events pass
 * the filter. What the bytes on EVENTS are made of is counted in the messages themselves.
 *
 * Each event has its ancestors with it, so the work descends from init in a few steps, as what a daemon starts does, and not from this benchmark: a launcher that
 * init has adopted before the sensor starts.
 */
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { hostname, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import { BatchField, decodeBatch, EventHeader, MAX_PACE_LEASE_MS, STREAMS, walkFields } from '@tidegate/contracts';
import { createStreamReaders, type StreamReaders } from '@tidegate/runtime';
import { makePodCgroups, putPods } from './pod-cgroups.ts';
import type { Report } from './report.ts';
import { startStack } from './stack.ts';

/** Nobody else's: events of all other users are filtered out. */
const UID = 64_331;
const GOAL_BYTES_PER_EVENT = 200;
const SOURCES = 80;
const PACKAGES = 20;
const PODS = 20;
const PODS_SECONDS = 20;
const SETTLE_MS = 3_000;
const POLL_MS = 50;

/** What a message of EVENTS is made of, bytes. */
interface Parts {
  messages: number;
  events: number;
  headers: number;
  eventBytes: number;
  /** Processes that events of the message are of, and their ancestors alone. */
  processes: number;
  ancestors: number;
  containers: number;
  identity: number;
  rest: number;
}

export async function run(report: Report): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'tidegate-bench-mixed-'));
  chmodSync(folder, 0o755);
  const cgroups = makePodCgroups(PODS);
  const launcher = startLauncher(folder);
  const stack = await startStack({ TIDEGATE_ALLOW_UIDS: String(UID) });
  const nc = await stack.connect();
  const readers = await createStreamReaders(nc);
  const server = createServer(socket => socket.end()).listen(0, '127.0.0.1');
  try {
    await putPods(nc, hostname(), PODS);
    const { port } = server.address() as AddressInfo;
    const works = {
      'a build': () => launcher.run('make -s -j2', makeSources(join(folder, 'build'))),
      'a package install': () =>
        launcher.run('npm install --offline --no-audit --no-fund --install-links', makePackages(join(folder, 'install'))),
      'twenty pods': () => Promise.all(cgroups.folders.map(cgroup => launcher.run(podScript(port), folder, cgroup))),
    };
    const manager = await jetstreamManager(nc);
    await delay(MAX_PACE_LEASE_MS);
    let [allEvents, allBytes] = [0, 0];
    for (const [name, work] of Object.entries(works)) {
      const before = await states(manager);
      await work();
      await delay(SETTLE_MS);
      const after = await states(manager);
      const parts = await dissect(readers, before.events.last_seq + 1, after.events.last_seq);
      const bytes = after.events.bytes - before.events.bytes;
      allEvents += parts.events;
      allBytes += bytes;
      report.check(`${name}: events arrived`, parts.events > PODS);
      report.add({ name: `bytes per event on RAW, ${name}`, value: (after.raw.bytes - before.raw.bytes) / parts.events, unit: 'bytes' });
      report.add({ name: `bytes per event on EVENTS, ${name}`, value: bytes / parts.events, unit: 'bytes', note: composition(parts) });
    }
    report.add({
      name: 'bytes per event on EVENTS, all together',
      value: allBytes / allEvents,
      unit: 'bytes',
      goal: { value: GOAL_BYTES_PER_EVENT, is: 'at most' },
    });
  } finally {
    server.close();
    readers.close();
    await nc.close();
    await stack.stop();
    launcher.stop();
    cgroups.remove();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function states(manager: JetStreamManager) {
  const state = async (stream: string) => (await manager.streams.info(stream)).state;
  return { raw: await state(STREAMS.raw.name), events: await state(STREAMS.events.name) };
}

async function dissect(readers: StreamReaders, first: number, last: number): Promise<Parts> {
  const parts: Parts = {
    messages: 0,
    events: 0,
    headers: 0,
    eventBytes: 0,
    processes: 0,
    ancestors: 0,
    containers: 0,
    identity: 0,
    rest: 0,
  };
  if (last < first) return parts;
  const reader = readers.open({ stream: STREAMS.events.name, start: { streamSequence: first }, last });
  for await (const { data, size, headers } of reader.read({ follow: false })) {
    parts.messages++;
    parts.events += Number(headers?.get(EventHeader.events));
    parts.headers += size - data.length;
    const batch = decodeBatch(data);
    const actors = new Set(batch.events.map(({ process }) => process));
    let next = 0;
    walkFields(data, (field, _wireType, start, _body, end) => {
      const bytes = end - start;
      if (field === BatchField.events) parts.eventBytes += bytes;
      else if (field === BatchField.processes) parts[actors.has(batch.processes[next++]!.id) ? 'processes' : 'ancestors'] += bytes;
      else if (field === BatchField.containers) parts.containers += bytes;
      else if (field === BatchField.pods || field === BatchField.destinations) parts.identity += bytes;
      else parts.rest += bytes;
    });
  }
  reader.close();
  return parts;
}

function composition({ messages, events, ...bytes }: Parts): string {
  const each = Object.entries(bytes).map(([name, count]) => `${name === 'eventBytes' ? 'events' : name} ${(count / events).toFixed(0)}`);
  return `${events.toLocaleString('en-US')} events in ${messages.toLocaleString('en-US')} messages: ${each.join(', ')}`;
}

interface Launcher {
  /** @param cgroup folder of the cgroup it runs in */
  run(command: string, folder: string, cgroup?: string): Promise<void>;
  stop(): void;
}

function startLauncher(folder: string): Launcher {
  const asked = join(folder, 'asked');
  execFileSync('mkfifo', [asked]);
  // Each work is a script `<n>` here; `<n>.status` is there when it has ended.
  const launch = `exec 3<> asked; while read -r -t 600 name <&3 && [ "$name" != stop ]; do
    (bash "./$name" > /dev/null 2>&1; echo "$?" > "$name.tmp"; mv "$name.tmp" "$name.status") &
  done`;
  execFileSync('setsid', ['--fork', 'bash', '-c', launch], { cwd: folder, stdio: 'ignore' });
  let works = 0;
  return {
    async run(command, workFolder, cgroup) {
      const script = join(folder, String(++works));
      const status = `${script}.status`;
      const enter = cgroup === undefined ? '' : `echo $$ > ${cgroup}/cgroup.procs\n`;
      const become = `exec env -i PATH="$PATH" HOME=${workFolder} setpriv --reuid ${UID} --regid ${UID} --clear-groups bash -c '${command}'\n`;
      writeFileSync(script, `cd ${workFolder}\n${enter}${become}`);
      appendFileSync(asked, `${basename(script)}\n`);
      while (!existsSync(status)) await delay(POLL_MS);
      if (readFileSync(status, 'utf8').trim() !== '0') throw new Error(`${command} failed`);
    },
    stop: () => appendFileSync(asked, 'stop\n'),
  };
}

/** Every second a probe and two short connections. */
function podScript(port: number): string {
  const connect = `exec 3<>/dev/tcp/127.0.0.1/${port}; cat <&3; exec 3>&-`;
  return `for i in $(seq ${PODS_SECONDS}); do sh -c "test -d /"; ${connect}; ${connect}; sleep 1; done`;
}

function makeSources(folder: string): string {
  mkdirSync(folder);
  const names = Array.from({ length: SOURCES }, (_, i) => `part${i}`);
  for (const [i, name] of names.entries())
    writeFileSync(join(folder, `${name}.c`), `#include <stdio.h>\n#include <string.h>\nint ${name}(void) { return printf("%d", ${i}); }\n`);
  writeFileSync(join(folder, 'main.c'), 'int main(void) { return 0; }\n');
  const objects = [...names, 'main'].map(name => `${name}.o`).join(' ');
  writeFileSync(join(folder, 'Makefile'), `program: ${objects}\n\tcc -o $@ $^\n%.o: %.c\n\tcc -O2 -Wall -c -o $@ $<\n`);
  return owned(folder);
}

/** A package with dependencies, and a script for each when they are installed. */
function makePackages(folder: string): string {
  mkdirSync(folder);
  const names = Array.from({ length: PACKAGES }, (_, i) => `dependency-${i}`);
  for (const name of names) {
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, 'package.json'), JSON.stringify({ name, version: '1.0.0' }));
  }
  const dependencies = Object.fromEntries(names.map(name => [name, `file:./${name}`]));
  const scripts = { postinstall: 'for each in node_modules/*; do sh -c "uname -a; env" > $each/built.txt; done' };
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'mixed', version: '1.0.0', scripts, dependencies }));
  return owned(folder);
}

function owned(folder: string): string {
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) chownSync(join(folder, name), UID, UID);
  chownSync(folder, UID, UID);
  return folder;
}
