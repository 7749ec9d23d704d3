/**
 * Schemas of answers, for OpenAPI. Answers are not checked against them when they are sent; a test holds real answers against them: nothing is in an answer that is not
 * here, and nothing is here that no answer has.
 */
import { Entered, MAX_ANCESTORS, detailSchemas } from '@tidegate/contracts';
import { Type, type Schema } from './json-schema.ts';
import { ApiErrorCatalogue } from './errors.ts';
import { MAX_TREE_PROCESSES } from './tree-builder.ts';

const Text = Type.String();
const Flag = Type.Optional(Type.Literal(true, { description: 'Absent: false.' }));
const Names = Type.Record(Text);
const ExecId = Type.String({ description: 'base64 of <node>:<ktime>:<pid>: names a process for ever.' });
const Time = (description: string) =>
  Type.String({
    format: 'date-time',
    pattern: '\\.\\d{6}Z$',
    description: `${description} RFC 3339 in UTC with six digits of a second, cut, not rounded.`,
  });

const AncestorSchema = Type.Object({
  exec_id: ExecId,
  pid: Type.Integer(),
  uid: Type.Integer(),
  binary: Text,
  arguments: Type.Array(Text),
});

export const ProcessSchema = Type.Object({
  ...AncestorSchema.properties,
  arguments_truncated: Flag,
  raw_arguments: Type.Optional(
    Type.String({
      contentEncoding: 'base64',
      description: 'Exact argv, each string ended by NUL, when `arguments` had to be changed to be UTF-8.',
    }),
  ),
  cwd: Text,
  start_time: Time('When the process (not the image) started.'),
  origin: Type.String({ description: 'exec, fork, running or unknown: how the sensor learned of it.' }),
  kernel_thread: Flag,
  entered: Type.Optional(
    Type.Enum(Object.values(Entered), {
      description:
        "How it, or the one it descends from, came into its container from outside: a kubelet's probe or hook, somebody's exec, debug (an ephemeral container), or unknown where the pod was not known. Absent: it grew up there.",
    }),
  ),
  entry_arguments: Type.Optional(
    Type.Array(Text, { description: 'Of one that entered: argv of the program with which it came in, cut to 256 bytes.' }),
  ),
  parent_exec_id: Type.Optional(ExecId),
  kernel_parent_exec_id: Type.Optional(
    Type.String({ description: 'The parent that the kernel names, where that is not the process that forked this one.' }),
  ),
  kernel_parent_pid: Type.Optional(Type.Integer()),
});

export const ContainerSchema = Type.Object({
  id: Text,
  name: Type.Optional(Text),
  image: Type.Optional(Text),
  image_id: Type.Optional(Text),
  runtime: Type.Optional(Text),
  privileged: Flag,
  sandbox: Flag,
  unconfirmed: Type.Optional(
    Type.Literal(true, {
      description: "The runtime's own record of it was not found on the node: the name of its cgroup alone says that it is this container.",
    }),
  ),
  cgroup_path: Type.Optional(Text),
});

export const PodSchema = Type.Object({
  uid: Text,
  namespace: Type.Optional(Text),
  name: Type.Optional(Text),
  workload: Type.Optional(Text),
  workload_kind: Type.Optional(Text),
  labels: Type.Optional(Names),
  annotations: Type.Optional(Names),
  service_account: Type.Optional(Text),
  ips: Type.Optional(Type.Array(Text)),
  qos_class: Type.Optional(Text),
  unresolved: Flag,
});
export const AncestorsSchema = Type.Array(AncestorSchema, { description: 'Nearest first, up to init, unless `ancestors_cut`.' });
const AncestorsCut = Type.Optional(
  Type.Literal(true, { description: 'There are more ancestors than those here: the parent and 31 further ones at most.' }),
);

const DestinationSchema = Type.Object(
  {
    namespace: Type.Optional(Text),
    pod: Type.Optional(Text),
    workload: Type.Optional(Text),
    workload_kind: Type.Optional(Text),
    service: Type.Optional(Text),
    node: Type.Optional(Text),
  },
  { description: 'What the remote end of a connection belongs to in the cluster.' },
);

/** A loss of the live feed alone, with reason `slow_client` or `events_discarded`, says it in the server's time and the stream's numbers. */
const FEED_LOSS = {
  from: Time('Live feed: when the first of them happened.'),
  to: Time('Live feed: when the last of them happened.'),
  first_stream_sequence: Type.Integer({ description: 'Live feed, events_discarded: the first message of EVENTS that is missing.' }),
  last_stream_sequence: Type.Integer({ description: 'Live feed, events_discarded: the last one.' }),
};
const KIND_SCHEMAS = {
  ...detailSchemas,
  loss: { ...detailSchemas.loss, properties: { ...detailSchemas.loss.properties, ...FEED_LOSS } },
};

const EventSchema = Type.Object(
  {
    id: Type.Optional(Type.String({ description: '<cluster>:<node>:<sequence>; of a loss without a number, that of its message.' })),
    time: Time('When it happened.'),
    kind: Text,
    cluster: Type.String({ description: 'Name of the cluster; nodes of two clusters may have one name.' }),
    node: Text,
    boot: Type.String({ description: "One run of the node's sensor." }),
    sequence: Type.Integer({ description: "The node's own count of everything that happened there; 0: none." }),
    ktime_ns: Type.String({ pattern: '^\\d{1,20}$', description: 'CLOCK_BOOTTIME in nanoseconds: passes 2^53 after 104 days.' }),
    recorded: Type.Optional(Type.Literal(true, { description: 'Played from a capture.' })),
    namespace: Type.String({ description: 'A Kubernetes namespace, `_host` or `_none`.' }),
    workload: Type.String({ description: 'A workload; on `_host` the node, on `_none` the container.' }),
    tid: Type.Optional(Type.Integer({ description: 'Thread that did it; absent where an interrupt did.' })),
    process: Type.Optional(ProcessSchema),
    parent: Type.Optional(ProcessSchema),
    ancestors: Type.Optional(AncestorsSchema),
    ancestors_cut: AncestorsCut,
    container: Type.Optional(ContainerSchema),
    pod: Type.Optional(PodSchema),
    destination: Type.Optional(DestinationSchema),
    ...Object.fromEntries(Object.entries(KIND_SCHEMAS).map(([kind, schema]) => [kind, Type.Optional(schema)])),
  },
  {
    description:
      "The kind's own fields are under the kind's name: all of them, zeros too. 64-bit ones that can pass 2^53 are decimal strings.",
  },
);

/** One process with those it started. */
const ProcessNode = {
  process: ProcessSchema,
  exec: Type.Optional(reference('Event')),
  exit: Type.Optional(reference('Event')),
  children: Type.Array(reference('ProcessNode'), { description: 'Processes it started, each with its own.' }),
};

/** What answers have in common, by the name under which the OpenAPI document has it. */
export const SHARED_SCHEMAS = { Event: EventSchema, ProcessNode: Type.Object(ProcessNode) };

export function reference(name: 'Event' | 'ProcessNode'): Schema {
  return { $ref: `${name}#` };
}

export const TreeSchema = Type.Object({
  node: Text,
  recorded: Type.Optional(Type.Literal(true)),
  ...ProcessNode,
  ancestors: AncestorsSchema,
  ancestors_cut: AncestorsCut,
  container: Type.Optional(ContainerSchema),
  pod: Type.Optional(PodSchema),
  not_searched: Type.Array(
    Type.Object({ kinds: Type.Array(Text), from: Time('The first message was stored.'), to: Time('The last one was.') }),
    {
      description: 'Where there may be descendants, or an exit, that the tree does not have.',
    },
  ),
  processes_left_out: Type.Optional(
    Type.Literal(true, {
      description: `There may be more: a tree shows ${MAX_TREE_PROCESSES} processes and ${MAX_ANCESTORS} generations.`,
    }),
  ),
  complete: Type.Boolean({ description: 'Everything was searched, and nothing left out.' }),
});

export const ErrorSchema = Type.Object({
  error: Type.Object({
    code: Type.String(),
    message: Type.String(),
    faults: Type.Optional(Type.Array(Type.Object({ field: Type.String(), expected: Type.String(), got: Type.String() }))),
  }),
});

type Status = (typeof ApiErrorCatalogue)[keyof typeof ApiErrorCatalogue]['status'];

/** The error answers of a route, described from the catalogue. */
export function errorResponses(...statuses: Status[]): Record<number, Schema> {
  return Object.fromEntries(
    statuses.map(status => {
      const errors = Object.entries(ApiErrorCatalogue).filter(([, error]) => error.status === status);
      return [status, { ...ErrorSchema, description: errors.map(([code, { meaning }]) => `${code}: ${meaning}`).join(' ') }];
    }),
  );
}
