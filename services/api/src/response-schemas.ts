/** Schemas of answers, for OpenAPI. Answers are not checked against them. */
import { Type, type TSchema } from 'typebox';
import { ApiErrorCatalogue } from './errors.ts';

const Open = { additionalProperties: true } as const;

export const ProcessSchema = Type.Object(
  {
    exec_id: Type.String(),
    pid: Type.Integer(),
    uid: Type.Integer(),
    binary: Type.String(),
    arguments: Type.Array(Type.String()),
    cwd: Type.String(),
    start_time: Type.String({ format: 'date-time' }),
    origin: Type.String({ description: 'exec, fork, running or unknown: how the sensor learned of it.' }),
    parent_exec_id: Type.Optional(Type.String()),
  },
  Open,
);

const AncestorSchema = Type.Object(
  { exec_id: Type.String(), pid: Type.Integer(), uid: Type.Integer(), binary: Type.String(), arguments: Type.Array(Type.String()) },
  Open,
);
export const ContainerSchema = Type.Object(
  { id: Type.String(), name: Type.Optional(Type.String()), image: Type.Optional(Type.String()) },
  Open,
);
export const PodSchema = Type.Object(
  {
    uid: Type.String(),
    namespace: Type.Optional(Type.String()),
    name: Type.Optional(Type.String()),
    workload: Type.Optional(Type.String()),
  },
  Open,
);
export const AncestorsSchema = Type.Array(AncestorSchema, { description: 'Nearest first, up to init.' });

export const EventSchema = Type.Object(
  {
    id: Type.Optional(Type.String({ description: '<node>:<sequence>; absent for a loss found after the sensor.' })),
    time: Type.String({ format: 'date-time' }),
    kind: Type.String(),
    node: Type.String(),
    boot: Type.String(),
    sequence: Type.Integer(),
    ktime_ns: Type.Integer(),
    recorded: Type.Optional(Type.Boolean({ description: 'Played from a capture.' })),
    namespace: Type.String(),
    workload: Type.String(),
    process: Type.Optional(ProcessSchema),
    parent: Type.Optional(ProcessSchema),
    ancestors: Type.Optional(AncestorsSchema),
    container: Type.Optional(ContainerSchema),
    pod: Type.Optional(PodSchema),
  },
  { ...Open, description: "The kind's own fields are under the kind's name, as in the published schema." },
);

export const ErrorSchema = Type.Object({
  error: Type.Object({
    code: Type.String(),
    message: Type.String(),
    faults: Type.Optional(Type.Array(Type.Object({ field: Type.String(), expected: Type.String(), got: Type.String() }))),
  }),
});

type Status = (typeof ApiErrorCatalogue)[keyof typeof ApiErrorCatalogue]['status'];

/** The error answers of a route, described from the catalogue. */
export function errorResponses(...statuses: Status[]): Record<number, TSchema> {
  return Object.fromEntries(
    statuses.map(status => {
      const errors = Object.entries(ApiErrorCatalogue).filter(([, error]) => error.status === status);
      return [status, { ...ErrorSchema, description: errors.map(([code, { meaning }]) => `${code}: ${meaning}`).join(' ') }];
    }),
  );
}
