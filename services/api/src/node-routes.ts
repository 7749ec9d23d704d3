import { RemovedBy, type NodeReport } from '@tidegate/contracts';
import type { KnownNode, NodeRegistry } from '@tidegate/runtime';
import type { FastifyInstance } from 'fastify';
import { Type } from './json-schema.ts';
import { ApiError } from './errors.ts';
import { choice, parametersSchema, parseParameters } from './parameters.ts';
import { errorResponses } from './response-schemas.ts';

export const nodeListParameters = {
  all: choice({ description: 'true: those that have left too. Default: false.', example: 'true' }, ['true', 'false']),
} as const;

const NodeSchema = Type.Object({
  node: Type.String(),
  state: Type.Enum(['up', 'silent', 'none', 'left'], {
    description:
      'up: its sensor reports. silent: it should and does not. none: Kubernetes has the node, and no sensor reported from it. left: it is gone.',
  }),
  in_cluster: Type.Boolean({ description: 'Whether Kubernetes has it.' }),
  recorded: Type.Boolean({ description: 'Its events are played from a capture.' }),
  last_sequence: Type.Integer({ description: 'Highest of its sequence numbers that is known to have been given out.' }),
  reported_at: Type.Optional(Type.String({ format: 'date-time' })),
  left_at: Type.Optional(Type.String({ format: 'date-time' })),
  removed_by: Type.Optional(Type.Enum(Object.values(RemovedBy))),
});

export function registerNodeRoutes(app: FastifyInstance, registry: NodeRegistry): void {
  app.get(
    '/api/v1/nodes',
    {
      schema: {
        summary: 'Nodes',
        description: 'Those that report or that Kubernetes has, by name.',
        tags: ['nodes'],
        querystring: parametersSchema(nodeListParameters),
        response: {
          200: { ...Type.Object({ nodes: Type.Array(NodeSchema) }), description: 'The nodes.' },
          ...errorResponses(400, 503),
        },
      },
    },
    async request => {
      const { all } = parseParameters(request.query, nodeListParameters);
      return { nodes: (await registry.list({ all: all === 'true' })).map(nodeReport) };
    },
  );

  app.delete<{ Params: { node: string } }>(
    '/api/v1/nodes/:node',
    {
      schema: {
        summary: 'Say that a node has left',
        description: 'Its state is forgotten, its last number kept: a node that gets the same name goes on counting. Events stay.',
        tags: ['nodes'],
        params: Type.Object({ node: Type.String() }),
        querystring: parametersSchema({}),
        response: { 200: { ...NodeSchema, description: 'What is kept of it.' }, ...errorResponses(400, 404, 409, 503) },
      },
    },
    async request => {
      parseParameters(request.query, {});
      const { node } = request.params;
      const known = await registry.find(node);
      if (!known?.sensor) throw new ApiError('NODE_NOT_FOUND', missingText(node, known));
      if (!known.isSilent) {
        const { reportedAt } = known.sensor.value;
        throw new ApiError('NODE_REPORTING', `the sensor of this node reported at ${reportedAt}: end it first, or it brings the node back`);
      }
      const left = await registry.remove(node, RemovedBy.administrator);
      return nodeReport({ node, isSilent: false, ...(known.cluster && { cluster: known.cluster }), ...(left && { left }) });
    },
  );
}

function missingText(node: string, known: KnownNode | undefined): string {
  if (known?.left) return `node ${node} has left already, at ${known.left.leftAt}`;
  return known ? `no sensor reported from node ${node}; it leaves with its Kubernetes node` : `no node ${node} is known`;
}

function nodeReport({ node, sensor, isSilent, cluster, left }: KnownNode): NodeReport {
  return {
    node,
    state: left ? 'left' : !sensor ? 'none' : isSilent ? 'silent' : 'up',
    in_cluster: cluster !== undefined,
    recorded: sensor?.value.recorded ?? false,
    last_sequence: Math.max(sensor?.value.lastSequence ?? 0, left?.lastSequence ?? 0),
    ...(sensor && { reported_at: sensor.value.reportedAt }),
    ...(left && { left_at: left.leftAt, removed_by: left.removedBy }),
  };
}
