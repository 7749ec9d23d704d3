/**
 * A node as its sensor tells of it: what its pods do, and the batches that become of it. The bytes are those of the native encoder; only the kernel is missing.
 *
 * Pods do one of three things at a time, busy pods more often than idle ones: serve a request with a call to another pod (accept, connect, close, close), answer a probe
 * (exec, exit), or run a script of six programs one of which fetches something (6 execs, 6 exits, connect, close). On average 22 % of events are execs, 22 % exits, the rest connections.
 */
import { constants, zstdCompressSync } from 'node:zlib';
import { encodeBatch, Kind, ProcessOrigin, type Event, type EventBatchInput, type Process } from '@tidegate/contracts';
import type { RawBatch } from '@tidegate/node-sensor';
import type { Random } from '../chaos/faults.ts';
import { hex, type SimulatedPod } from './pods.ts';

export interface SimulatedNodeOptions {
  name: string;
  pods: readonly SimulatedPod[];
  eventsPerSecond: number;
  /** Address of any pod of the cluster. */
  anyAddress: () => string;
  random: Random;
}

export interface SimulatedNode {
  readonly name: string;
  readonly boot: string;
  /** Events given out so far, which is also the last number. */
  readonly events: number;
  /** From now on things happen. */
  start(nowMs: number): void;
  /** When the first thing happens that no batch holds, milliseconds since 1970. */
  nextEventMs(): number;
  /** All that has happened until now, as one batch; there is something. */
  seal(nowMs: number): RawBatch;
  replacePod(place: number, pod: SimulatedPod): void;
}

/** Uptime of every node at the start of this process. */
const UPTIME_NS = 40 * 24 * 3600e9;
const FIRST_SOCKET = 1_000_000;
/** Numbers of processes in batches: those of pods, and those that come and go. */
const POD_PROCESSES = { first: 2, last: 255 };
const OTHER_PROCESSES = { first: 256, last: 16_383 };
const INIT = 1;
/** Requests, probes, scripts: how often each, and how many events each is. */
const ACTIVITIES = [
  { share: 0.6, events: 4 },
  { share: 0.25, events: 2 },
  { share: 0.15, events: 14 },
] as const;
const EVENTS_PER_ACTIVITY = ACTIVITIES.reduce((sum, { share, events }) => sum + share * events, 0);
const SCRIPT = [
  [
    '/bin/sh',
    '-c',
    'set -e; cat /etc/app/config.yaml | grep -v "^#" | sed s/x/y/ > /tmp/config; curl -fsS http://metrics.monitoring:9091/push',
  ],
  ['/usr/bin/cat', '/etc/app/config.yaml'],
  ['/usr/bin/grep', '-v', '^#'],
  ['/usr/bin/sed', 's/x/y/'],
  ['/usr/bin/curl', '-fsS', 'http://metrics.monitoring:9091/push'],
  ['/usr/bin/date', '-u', '+%Y-%m-%dT%H:%M:%SZ'],
] as const;
const PROBE = ['/bin/grpc_health_probe', '-addr=:8080', '-connect-timeout=1s'] as const;
const CURL = 4;
/** The native encoder keeps what saves less than this as it is. */
const WORTH_COMPRESSING = 0.9;
const ZSTD = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

interface SimulatedProcess {
  id: number;
  pid: number;
  parent: SimulatedProcess | undefined;
  pod: PodOnNode | undefined;
  /** As an entry of the batch's table. */
  encoded: Uint8Array;
}

interface PodOnNode extends SimulatedPod {
  container: Uint8Array;
  containerNumber: number;
  app: SimulatedProcess;
  cgroupId: number;
}

interface Happening {
  atMs: number;
  process: SimulatedProcess;
  event: Event;
}

export function createSimulatedNode({ name, pods, eventsPerSecond, anyAddress, random }: SimulatedNodeOptions): SimulatedNode {
  const boot = hex(random, 16);
  const epochMs = performance.timeOrigin;
  const wallOffsetNs = epochMs * 1e6 - UPTIME_NS;
  const ktimeOf = (atMs: number) => Math.round((atMs - epochMs) * 1e6) + UPTIME_NS;
  const activityMs = (1000 * EVENTS_PER_ACTIVITY) / eventsPerSecond;
  const exponential = (meanMs: number) => -Math.log(1 - random()) * meanMs;
  let batch = 0;
  let sequence = 0;
  let socket = FIRST_SOCKET;
  let nextPid = 1000;
  let nextContainer = 1;
  let nextActivityMs = Infinity;
  let podProcess = POD_PROCESSES.last;
  let otherProcess = OTHER_PROCESSES.last;
  /** By time. */
  const upcoming: Happening[] = [];

  const podProcessId = () => (podProcess = podProcess === POD_PROCESSES.last ? POD_PROCESSES.first : podProcess + 1);
  const otherProcessId = () => (otherProcess = otherProcess === OTHER_PROCESSES.last ? OTHER_PROCESSES.first : otherProcess + 1);

  function makeProcess(
    id: number,
    argv: readonly string[],
    parent: SimulatedProcess | undefined,
    pod: PodOnNode | undefined,
    more: Process = {},
  ) {
    const pid = id === INIT ? 1 : (nextPid = nextPid > 4_000_000 ? 1000 : nextPid + 1);
    const startKtimeNs = ktimeOf(performance.timeOrigin + performance.now());
    const entry: Process = {
      id,
      parent: parent?.id ?? 0,
      container: pod?.containerNumber ?? 0,
      execId: Buffer.from(`${name}:${startKtimeNs + 1}:${pid}`).toString('base64'),
      pid,
      uid: pod ? 1000 : 0,
      binary: argv[0]!,
      arguments: [...argv],
      cwd: pod ? '/srv/app' : '/',
      startKtimeNs,
      origin: ProcessOrigin.PROCESS_ORIGIN_EXEC,
      ...more,
    };
    return { id, pid, parent, pod, encoded: encodeBatch({ processes: [entry] }) };
  }

  const init = makeProcess(INIT, ['/usr/lib/systemd/systemd', '--switched-root', '--system'], undefined, undefined);

  function place(pod: SimulatedPod): PodOnNode {
    const containerNumber = nextContainer++;
    const shimArgv = [
      '/usr/bin/containerd-shim-runc-v2',
      '-namespace',
      'k8s.io',
      '-id',
      hex(random, 64),
      '-address',
      '/run/containerd/containerd.sock',
    ];
    const cgroupId = 10_000 + containerNumber;
    const container = encodeBatch({
      containers: [
        {
          id: containerNumber,
          containerId: pod.containerId,
          podUid: pod.uid,
          runtime: 'containerd',
          cgroupId,
          cgroupPath: `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${pod.uid.replaceAll('-', '_')}.slice/cri-containerd-${pod.containerId}.scope`,
          name: 'app',
          image: pod.image,
        },
      ],
    });
    const placed = { ...pod, container, containerNumber, cgroupId };
    const shim = makeProcess(podProcessId(), shimArgv, init, undefined);
    const argv = [`/usr/local/bin/${pod.workload}`, '--config=/etc/app/config.yaml', '--listen=0.0.0.0:8080', '--log-level=info'];
    return Object.assign(placed, { app: makeProcess(podProcessId(), argv, shim, placed as PodOnNode) });
  }

  const placed = pods.map(place);
  /** Busy ones first: of the pod at place i one over i + 1 is expected. */
  const weights = placed.map((_, i) => 1 / (i + 1));
  const weightSum = weights.reduce((sum, weight) => sum + weight, 0);

  function anyPod(): PodOnNode {
    let left = random() * weightSum;
    return placed[weights.findIndex(weight => (left -= weight) <= 0)] ?? placed[0]!;
  }

  function add(atMs: number, process: SimulatedProcess, event: Event): void {
    let at = upcoming.length;
    while (at > 0 && upcoming[at - 1]!.atMs > atMs) at--;
    upcoming.splice(at, 0, { atMs, process, event });
  }

  function connection(pod: PodOnNode, process: SimulatedProcess, startMs: number, endMs: number, isAccepted: boolean): void {
    const ends = {
      sourceIp: pod.ip,
      sourcePort: isAccepted ? 8080 : 32_768 + Math.floor(random() * 28_000),
      destinationIp: random() < 0.8 ? anyAddress() : `203.0.113.${Math.floor(random() * 256)}`,
      destinationPort: isAccepted ? 32_768 + Math.floor(random() * 28_000) : 8080,
      socket: socket++,
      networkNamespace: 4_026_532_000 + pod.containerNumber,
    };
    if (isAccepted) add(startMs, process, { kind: Kind.KIND_ACCEPT, accept: ends });
    else add(startMs, process, { kind: Kind.KIND_CONNECT, connect: ends });
    const bytes = { bytesSent: Math.floor(random() * 4_000), bytesReceived: Math.floor(random() * 40_000) };
    add(endMs, process, { kind: Kind.KIND_CLOSE, close: { ...ends, ...bytes, durationNs: Math.round((endMs - startMs) * 1e6) } });
  }

  /** Its exec now and its exit at the end. */
  function program(pod: PodOnNode, argv: readonly string[], parent: SimulatedProcess, startMs: number, endMs: number, more?: Process) {
    const process = makeProcess(otherProcessId(), argv, parent, pod, more);
    add(startMs, process, { kind: Kind.KIND_EXEC, exec: execDetail(pod, argv[0]!, process.pid) });
    const durationNs = Math.round((endMs - startMs) * 1e6);
    add(endMs, process, {
      kind: Kind.KIND_EXIT,
      exit: { durationNs, userNs: Math.round(durationNs * 0.3), systemNs: Math.round(durationNs * 0.2) },
    });
    return process;
  }

  function act(atMs: number): void {
    const pod = anyPod();
    const drawn = random();
    if (drawn < ACTIVITIES[0].share) {
      const lengthMs = 1 + exponential(20);
      connection(pod, pod.app, atMs, atMs + lengthMs, true);
      connection(pod, pod.app, atMs + lengthMs * 0.2, atMs + lengthMs * 0.8, false);
    } else if (drawn < ACTIVITIES[0].share + ACTIVITIES[1].share) {
      program(pod, PROBE, pod.app, atMs, atMs + 2 + exponential(5), { entered: true, entryArguments: [...PROBE] });
    } else {
      const stepMs = 2 + exponential(20);
      const shell = program(pod, SCRIPT[0], pod.app, atMs, atMs + stepMs * SCRIPT.length);
      for (let i = 1; i < SCRIPT.length; i++) {
        const startMs = atMs + stepMs * (i - 0.5);
        const child = program(pod, SCRIPT[i]!, shell, startMs, startMs + stepMs);
        if (i === CURL) connection(pod, child, startMs + stepMs * 0.3, startMs + stepMs * 0.9, false);
      }
    }
  }

  function advance(untilMs: number): void {
    while (nextActivityMs <= untilMs) {
      act(nextActivityMs);
      nextActivityMs += exponential(activityMs);
    }
  }

  return {
    name,
    boot,
    get events() {
      return sequence;
    },
    start(nowMs) {
      // What was begun before a pause ends now.
      for (const happening of upcoming) happening.atMs = Math.max(happening.atMs, nowMs);
      nextActivityMs = nowMs + exponential(activityMs);
    },
    nextEventMs: () => Math.min(upcoming[0]?.atMs ?? Infinity, nextActivityMs),
    seal(nowMs) {
      advance(nowMs);
      let count = 0;
      while (count < upcoming.length && upcoming[count]!.atMs <= nowMs) count++;
      const taken = upcoming.splice(0, count);
      const firstSequence = sequence + 1;
      const tables = new Set<Uint8Array>();
      for (const { atMs, process, event } of taken) {
        event.process = process.id;
        event.sequence = ++sequence;
        event.ktimeNs = ktimeOf(atMs);
        event.tid = process.pid;
        for (let each: SimulatedProcess | undefined = process; each && !tables.has(each.encoded); each = each.parent) {
          if (each.pod) tables.add(each.pod.container);
          tables.add(each.encoded);
        }
      }
      const own: EventBatchInput = { node: name, boot, batch: ++batch, wallOffsetNs, events: taken.map(({ event }) => event) };
      const plain = Buffer.concat([...tables, encodeBatch(own)]);
      const packed = zstdCompressSync(plain, ZSTD);
      const isPacked = packed.length <= plain.length * WORTH_COMPRESSING;
      return {
        boot,
        batch,
        events: count,
        firstSequence,
        lastSequence: sequence,
        encoding: isPacked ? 'zstd' : 'none',
        payload: isPacked ? packed : plain,
      };
    },
    replacePod(at, pod) {
      placed[at] = place(pod);
    },
  };
}

function execDetail({ cgroupId, containerNumber }: PodOnNode, path: string, pid: number): NonNullable<Event['exec']> {
  const namespace = 4_026_532_000 + containerNumber;
  return {
    credentials: {
      uid: 1000,
      gid: 1000,
      euid: 1000,
      egid: 1000,
      suid: 1000,
      sgid: 1000,
      fsuid: 1000,
      fsgid: 1000,
      capBounding: 0xa80425fb,
    },
    namespaces: {
      uts: namespace,
      ipc: namespace + 1,
      mnt: namespace + 2,
      pid: namespace + 3,
      pidForChildren: namespace + 3,
      net: namespace + 4,
      time: 4_026_531_834,
      cgroup: namespace + 5,
      user: 4_026_531_837,
    },
    file: { inode: 1_234_567, deviceMajor: 0, deviceMinor: 63, links: 1 },
    rawPath: path,
    cgroupId,
    namespacePid: pid & 0x7fff,
    comm: path.slice(path.lastIndexOf('/') + 1).slice(0, 15),
  };
}
