import {
  BUCKETS,
  CONNECTOR_POSITION_PREFIX,
  DEAD_LETTER_PREFIX,
  EVENTS_PREFIX,
  FEED_PREFIX,
  LEFT_PREFIX,
  PACE_PREFIX,
  RAW_PREFIX,
  STREAMS,
  nodeKey,
  paceSubject,
  subjectToken,
} from '@tidegate/contracts';
import { bucketPrefix, bucketStream } from './stream-setup.ts';

/**
 * Who may do what on NATS. One user for each service, with the least it needs and an inbox prefix of its own, so that no service reads
 * another's replies and a compromised node can only speak for itself.
 */
export const NatsRole = {
  sensor: 'sensor',
  enricher: 'enricher',
  gateway: 'gateway',
  api: 'api',
  connectors: 'connectors',
  setup: 'setup',
  admin: 'admin',
} as const;
export type NatsRole = (typeof NatsRole)[keyof typeof NatsRole];

/** A user as `authorization.users` of nats-server's configuration has it. */
export interface NatsUser {
  user: string;
  password: string;
  permissions: NatsPermissions;
}

export interface NatsPermissions {
  publish: { allow: string[] };
  subscribe: { allow: string[] };
}

/** Where any user who may publish here is told, by each server, of the account's connections and what they subscribe to; nats-server 2.8. */
export const LISTENERS_SUBJECT = '$SYS.REQ.ACCOUNT.PING.CONNZ';

const LEFT_NODES = `${bucketPrefix(BUCKETS.nodes.name)}${LEFT_PREFIX}*`;

/**
 * The inbox prefix a role connects with.
 * @param node for sensors, the node's name
 */
export function roleInboxPrefix(role: NatsRole, node?: string): string {
  return node === undefined ? `_INBOX_${role}` : `_INBOX_${role}_${subjectToken(node)}`;
}

/**
 * The permissions of a role. A sensor's are its node's.
 * @param node for sensors; left out, the user may speak for every node
 */
export function rolePermissions(role: NatsRole, node?: string): NatsPermissions {
  const inbox = `${roleInboxPrefix(role, node)}.>`;
  switch (role) {
    case 'sensor': {
      const rawSubject = `${RAW_PREFIX}.${node === undefined ? '*' : subjectToken(node)}`;
      const status = `${bucketPrefix(BUCKETS.sensors.name)}${node === undefined ? '*' : nodeKey(node)}`;
      const left = `${bucketPrefix(BUCKETS.nodes.name)}${LEFT_PREFIX}${node === undefined ? '*' : nodeKey(node)}`;
      const reads = [
        `${STREAMS.raw.name}.${rawSubject}`,
        `${bucketStream(BUCKETS.sensors.name)}.${status}`,
        `${bucketStream(BUCKETS.nodes.name)}.${left}`,
      ];
      const paces = node === undefined ? [`${PACE_PREFIX}.*`] : [paceSubject(node), paceSubject()];
      return allow([rawSubject, status, ...reads.map(subject => `$JS.API.DIRECT.GET.${subject}`)], [inbox, ...paces]);
    }
    case 'enricher':
      return allow(
        [
          ...readStream(STREAMS.raw.name),
          ...[BUCKETS.pods, BUCKETS.destinations, BUCKETS.nodes, BUCKETS.sensors, BUCKETS.settings].flatMap(bucket =>
            readStream(bucketStream(bucket.name)),
          ),
          ...writeBucket(BUCKETS.enrichers.name),
          LEFT_NODES,
          // What it has written it reads again when NATS may have lost it.
          ...readStream(STREAMS.events.name),
          `${EVENTS_PREFIX}.>`,
          `${DEAD_LETTER_PREFIX}.>`,
          `${PACE_PREFIX}.*`,
        ],
        [inbox],
      );
    case 'gateway':
      return allow(
        [
          // Purge: delete markers of dead pods are removed, or their number would only grow.
          ...[BUCKETS.pods, BUCKETS.destinations, BUCKETS.nodes].flatMap(bucket => [
            ...writeBucket(bucket.name),
            `$JS.API.STREAM.PURGE.${bucketStream(bucket.name)}`,
          ]),
          ...[BUCKETS.sensors, BUCKETS.gateways, BUCKETS.settings].flatMap(bucket => writeBucket(bucket.name)),
        ],
        [inbox],
      );
    case 'api':
      // Writes only that a node has left, and how soon somebody wants to see events.
      return allow([...readEverything(), `${PACE_PREFIX}.*`, LEFT_NODES, `${bucketPrefix(BUCKETS.sensors.name)}*`], [inbox]);
    case 'connectors':
      return allow(
        [
          ...readStream(STREAMS.events.name),
          ...readStream(bucketStream(BUCKETS.positions.name)),
          `${bucketPrefix(BUCKETS.positions.name)}${CONNECTOR_POSITION_PREFIX}*`,
          `${bucketPrefix(BUCKETS.connectors.name)}*`,
          `${FEED_PREFIX}.>`,
          LISTENERS_SUBJECT,
        ],
        [inbox],
      );
    case 'setup':
      return allow(
        [...Object.values(STREAMS).map(stream => stream.name), ...Object.values(BUCKETS).map(bucket => bucketStream(bucket.name))].flatMap(
          stream => ['INFO', 'CREATE', 'UPDATE'].map(action => `$JS.API.STREAM.${action}.${stream}`),
        ),
        [inbox],
      );
    case 'admin':
      return allow(['>'], ['>']);
  }
}

/** Programs of one's own: they read everything and write nothing, and take any client's default inbox. */
export function consumerPermissions(): NatsPermissions {
  return allow(readEverything(), ['_INBOX.>', `${EVENTS_PREFIX}.>`, `${FEED_PREFIX}.>`]);
}

/** All it takes to read streams and buckets, and nothing else. */
function readEverything(): string[] {
  return [...Object.values(STREAMS).map(({ name }) => name), ...Object.values(BUCKETS).map(({ name }) => bucketStream(name))].flatMap(
    readStream,
  );
}

/** What reading a stream takes: its state, consumers of one's own, acks, and messages by number or subject. */
function readStream(stream: string): string[] {
  return [
    '$JS.API.INFO',
    `$JS.API.STREAM.INFO.${stream}`,
    `$JS.API.STREAM.MSG.GET.${stream}`,
    `$JS.API.DIRECT.GET.${stream}`,
    `$JS.API.DIRECT.GET.${stream}.>`,
    `$JS.API.CONSUMER.CREATE.${stream}.>`,
    `$JS.API.CONSUMER.CREATE.${stream}`,
    `$JS.API.CONSUMER.DURABLE.CREATE.${stream}.*`,
    `$JS.API.CONSUMER.INFO.${stream}.*`,
    `$JS.API.CONSUMER.LIST.${stream}`,
    `$JS.API.CONSUMER.MSG.NEXT.${stream}.*`,
    `$JS.API.CONSUMER.DELETE.${stream}.*`,
    `$JS.ACK.${stream}.>`,
    `$JS.FC.${stream}.>`,
  ];
}

function writeBucket(bucket: string): string[] {
  return [...readStream(bucketStream(bucket)), `${bucketPrefix(bucket)}>`];
}

function allow(publish: string[], subscribe: string[]): NatsPermissions {
  return { publish: { allow: [...new Set(publish)] }, subscribe: { allow: subscribe } };
}
