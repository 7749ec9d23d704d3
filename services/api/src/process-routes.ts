import type { FastifyInstance } from 'fastify';
import { Type } from './json-schema.ts';
import { faultsError } from './errors.ts';
import { abortSignal } from './event-routes.ts';
import { parseExecId } from './exec-id.ts';
import { filterParameters } from './filter-parameters.ts';
import { integer, parametersSchema, parseParameters } from './parameters.ts';
import type { ProcessCandidates } from './process-candidates.ts';
import type { ProcessTrees } from './process-tree.ts';
import type { RequestSlots } from './request-slots.ts';
import { ContainerSchema, errorResponses, PodSchema, ProcessSchema, TreeSchema } from './response-schemas.ts';

const DEFAULT_CANDIDATES = 10;
const MAX_CANDIDATES = 100;
const MAX_PID = 4_194_304;
const MAX_SEQUENCE = 999_999_999_999_999;

export const candidateParameters = {
  pid: integer({ description: 'Process id on the node. Required.', example: '1' }, 1, MAX_PID),
  node: filterParameters.node,
  limit: integer(
    { description: `Ends the search when so many are found. Default: ${DEFAULT_CANDIDATES}.`, example: '5' },
    1,
    MAX_CANDIDATES,
  ),
  cursor: integer({ description: 'Goes on where the answer with this cursor ended.', example: '' }, 0, MAX_SEQUENCE),
} as const;

const CandidatesSchema = Type.Object({
  processes: Type.Array(
    Type.Object({
      node: Type.String(),
      seen_at: Type.String({ format: 'date-time' }),
      process: ProcessSchema,
      container: Type.Optional(ContainerSchema),
      pod: Type.Optional(PodSchema),
    }),
  ),
  cursor: Type.Union([Type.String(), Type.Null()], { description: 'For what is older; null: the beginning of the stream was reached.' }),
  complete: Type.Boolean({
    description:
      'false: there may be older ones. Ask again with the cursor, also after an answer without processes: one request does a bounded amount of work.',
  }),
});

export function registerProcessRoutes(app: FastifyInstance, trees: ProcessTrees, candidates: ProcessCandidates, slots: RequestSlots): void {
  app.get<{ Params: { exec_id: string } }>(
    '/api/v1/processes/:exec_id',
    {
      schema: {
        summary: 'One process with its ancestors and descendants',
        description:
          'Found through its exec and exit events, looked for from where its exec_id says that it began. One request does a bounded amount of work: `not_searched` says what it did not get to.',
        tags: ['processes'],
        params: Type.Object({ exec_id: Type.String({ description: 'As events have it; `/` and `+` escaped, or as base64url.' }) }),
        querystring: parametersSchema({}),
        response: { 200: { ...TreeSchema, description: 'The process.' }, ...errorResponses(400, 404, 503) },
      },
    },
    async (request, reply) => {
      parseParameters(request.query, {});
      const execId = parseExecId(request.params.exec_id);
      if (!execId)
        throw faultsError([
          { field: 'exec_id', expected: 'base64 of <node>:<ktime>:<pid>', got: JSON.stringify(request.params.exec_id.slice(0, 80)) },
        ]);
      return withSlot(slots, () => trees.tree(execId, abortSignal(reply)));
    },
  );

  app.get(
    '/api/v1/processes',
    {
      schema: {
        summary: 'Processes that a pid may mean',
        description: 'Newest first: a pid is used again and again, and on every node.',
        tags: ['processes'],
        querystring: parametersSchema(candidateParameters),
        response: { 200: { ...CandidatesSchema, description: 'Candidates.' }, ...errorResponses(400, 503) },
      },
    },
    async (request, reply) => {
      const { pid, node, limit = DEFAULT_CANDIDATES, cursor } = parseParameters(request.query, candidateParameters);
      if (pid === undefined) throw faultsError([{ field: 'pid', expected: candidateParameters.pid.expected, got: 'nothing' }]);
      return withSlot(slots, () => candidates.find({ pid, node, limit, cursor }, abortSignal(reply)));
    },
  );
}

async function withSlot<T>(slots: RequestSlots, work: () => Promise<T>): Promise<T> {
  const release = slots.take();
  try {
    return await work();
  } finally {
    release();
  }
}
