/** Under which node name this data folder last ran: a machine that gets another one, with a cluster or from its network, leaves no silent node behind. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RemovedBy } from '@tidegate/contracts';
import { createBuckets, createLogger, createNodeRegistry } from '@tidegate/runtime';
import type { NatsConnection } from '@nats-io/nats-core';

const NAME_FILE = 'node';

/**
 * Takes out the node that this machine was, if that has another name; its events stay. Whoever may have taken that name meanwhile is back with its next report.
 * Returns the old name; undefined: nothing to do.
 * @throws {TidegateError} STREAM_UNAVAILABLE
 */
export async function leaveOldName(nc: NatsConnection, folder: string, name: string): Promise<string | undefined> {
  const file = join(folder, NAME_FILE);
  const old = readName(file);
  if (old === name) return undefined;
  const buckets = await createBuckets({ nc, logger: createLogger({ name: 'tidegate', level: 'silent' }) });
  try {
    const registry = createNodeRegistry(buckets);
    const known = old === undefined ? undefined : await registry.find(old);
    const isGone = known?.sensor !== undefined && !known.sensor.value.recorded;
    if (isGone) await registry.remove(old!, RemovedBy.administrator);
    writeFileSync(file, `${name}\n`);
    return isGone ? old : undefined;
  } finally {
    buckets.close();
  }
}

function readName(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim() || undefined;
  } catch {
    return undefined;
  }
}
