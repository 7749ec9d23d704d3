/**
 * Which nodes there are. A node is there while its sensor has an entry in KV `sensors` or Kubernetes has it (KV `nodes`). It leaves when Kubernetes
 * removes it or an administrator says so: then its sensor's entry goes, and what must outlive it, its last number, is kept in KV `nodes`.
 */
import {
  BUCKETS,
  LEFT_PREFIX,
  clusterNodeCodec,
  leftNodeCodec,
  leftNodeKey,
  nodeKey,
  sensorStatusCodec,
  tokenName,
  type ClusterNode,
  type LeftNode,
  type RemovedBy,
  type SensorStatus,
} from '@tidegate/contracts';
import type { Bucket, BucketEntry, Buckets, PresentEntry, ReadBucket } from './bucket.ts';
import { hasErrorCode } from './errors.ts';

/** Three reports of a sensor missed. */
export const SENSOR_SILENT_MS = 15_000;

/** What is known of a node; at least one of sensor, cluster and left is set. */
export interface KnownNode {
  node: string;
  sensor?: PresentEntry<SensorStatus>;
  /** Its sensor has not reported for SENSOR_SILENT_MS, as the clocks of this machine and of the server have it. */
  isSilent: boolean;
  /** As Kubernetes has it. */
  cluster?: ClusterNode;
  /** Set when it has left, and has not come back with a new sensor. */
  left?: LeftNode;
}

export interface NodeRegistry {
  /** Those that are there, by name; with `all` those that have left too, however long ago. @throws {TidegateError} STREAM_UNAVAILABLE */
  list(options?: { all?: boolean }): Promise<KnownNode[]>;
  /** undefined: nothing is known of it. @throws {TidegateError} STREAM_UNAVAILABLE */
  find(node: string): Promise<KnownNode | undefined>;
  /**
   * Takes a node out; what Kubernetes has stays. A sensor that still runs reports again within seconds. Returns what is kept; undefined: the node never had
   * a sensor, so there is nothing to keep. May be called again.
   * @throws {TidegateError} STREAM_UNAVAILABLE, PUBLISH_DENIED
   */
  remove(node: string, removedBy: RemovedBy): Promise<LeftNode | undefined>;
}

/** Others write the same two entries at most: the node's sensor, an enricher, another remover. */
const MAX_TRIES = 10;

export function createNodeRegistry(buckets: Buckets): NodeRegistry {
  const sensors: Bucket<SensorStatus> = buckets.open(BUCKETS.sensors, sensorStatusCodec);
  const clusterNodes: ReadBucket<ClusterNode> = buckets.open(BUCKETS.nodes, clusterNodeCodec);
  const leftNodes: Bucket<LeftNode> = buckets.open(BUCKETS.nodes, leftNodeCodec);

  async function find(node: string): Promise<KnownNode | undefined> {
    const key = nodeKey(node);
    const entries = await Promise.all([sensors.get(key), clusterNodes.get(key), leftNodes.get(leftNodeKey(node))]);
    return knownNode(node, ...entries);
  }

  async function remove(node: string, removedBy: RemovedBy): Promise<LeftNode | undefined> {
    const sensor = await sensors.get(nodeKey(node));
    const kept = await leftNodes.get(leftNodeKey(node));
    if (!sensor.value) return kept.value;
    const left: LeftNode = {
      ...kept.value,
      node,
      leftAt: new Date().toISOString(),
      removedBy,
      boot: sensor.value.boot,
      lastSequence: Math.max(sensor.value.lastSequence, kept.value?.lastSequence ?? 0),
    };
    // In this order: the number is nowhere else once the sensor's entry is gone.
    await leftNodes.update(leftNodeKey(node), left, kept.revision);
    await sensors.delete(nodeKey(node), sensor.revision);
    return left;
  }

  return {
    find,
    async list({ all = false } = {}) {
      const [reporting, inCluster] = await Promise.all([sensors.snapshot(), clusterNodes.snapshot('*')]);
      // Who has left matters to a sensor only that is silent; there may be many, of years.
      const isAsked = all || [...reporting.values()].some(isSilent);
      const gone = isAsked ? await leftNodes.snapshot(`${LEFT_PREFIX}*`) : new Map<string, PresentEntry<LeftNode>>();
      const tokens = new Set([...reporting.keys(), ...inCluster.keys(), ...[...gone.keys()].map(key => key.slice(LEFT_PREFIX.length))]);
      return [...tokens]
        .flatMap(token => knownNode(tokenName(token), reporting.get(token), inCluster.get(token), gone.get(LEFT_PREFIX + token)) ?? [])
        .filter(({ left, cluster }) => all || !left || cluster)
        .sort((a, b) => (a.node < b.node ? -1 : 1));
    },
    async remove(node, removedBy) {
      for (let tries = 1; ; tries++) {
        try {
          return await remove(node, removedBy);
        } catch (error) {
          if (!hasErrorCode(error, 'BUCKET_CONFLICT') || tries >= MAX_TRIES) throw error;
        }
      }
    },
  };
}

function knownNode(
  node: string,
  sensor: BucketEntry<SensorStatus> | undefined,
  cluster: BucketEntry<ClusterNode> | undefined,
  left: BucketEntry<LeftNode> | undefined,
): KnownNode | undefined {
  if (!sensor?.value && !cluster?.value && !left?.value) return undefined;
  // A sensor that was told to leave and still reports is there.
  const hasLeft = !sensor?.value || (sensor.value.boot === left?.value?.boot && isSilent(sensor));
  return {
    node,
    isSilent: isSilent(sensor),
    ...(sensor?.value && { sensor: { ...sensor, value: sensor.value } }),
    ...(cluster?.value && { cluster: cluster.value }),
    ...(hasLeft && left?.value && { left: left.value }),
  };
}

function isSilent(sensor: BucketEntry<SensorStatus> | undefined): boolean {
  return sensor?.value !== undefined && Date.now() - sensor.writtenAtMs > SENSOR_SILENT_MS;
}
