/** Limits of the streams for the disk they are on: a server refuses streams that may grow larger than its disk. */
import { readdir, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { STREAMS, type StreamDefinition } from '@tidegate/contracts';

/** Of the disk's free space, streams may take this part at most. */
const DISK_SHARE = 0.6;
/** Limits are multiples of it, so that they do not change with each start. */
const STEP_BYTES = 16 * 1024 * 1024;
/** For key-value buckets and what the server keeps besides. */
const EXTRA_BYTES = 256 * 1024 * 1024;

export interface StorageBudget {
  streams: StreamDefinition[];
  /** For the server's jetstream.max_file_store. */
  maxStoreBytes: number;
  /** The streams are smaller than they would be on a larger disk. */
  isReduced: boolean;
}

/** @param folder of the server's stores, which may not exist yet inside its parent */
export async function fitStorage(folder: string): Promise<StorageBudget> {
  const definitions: StreamDefinition[] = Object.values(STREAMS);
  const { bavail, bsize } = await statfs(join(folder, '..'));
  const budgetBytes = (bavail * bsize + (await folderBytes(folder))) * DISK_SHARE;
  const wantedBytes = definitions.reduce((sum, stream) => sum + stream.maxBytes, 0);
  const scale = Math.min(1, budgetBytes / wantedBytes);
  const streams = definitions.map(stream => ({
    ...stream,
    maxBytes: Math.max(1, Math.floor((stream.maxBytes * scale) / STEP_BYTES)) * STEP_BYTES,
  }));
  return { streams, maxStoreBytes: streams.reduce((sum, stream) => sum + stream.maxBytes, EXTRA_BYTES), isReduced: scale < 1 };
}

/** What the stores take already: 0 when there are none. */
async function folderBytes(folder: string): Promise<number> {
  try {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true });
    const sizes = await Promise.all(
      entries.filter(entry => entry.isFile()).map(async entry => (await stat(join(entry.parentPath, entry.name))).size),
    );
    return sizes.reduce((sum, size) => sum + size, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
}
