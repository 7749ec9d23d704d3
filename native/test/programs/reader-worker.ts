/** A worker thread that reads events, posts its first batch, and ends as it is told; for tests. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { parentPort, workerData } from 'node:worker_threads';
import { Reader } from '../../src/index.ts';
import { readerOptions } from '../sensor.ts';

const { folder, manner } = workerData as { folder: string; manner: string };
const reader = new Reader(readerOptions(folder), batch => {
  parentPort?.postMessage(batch.payload);
});
reader.start();
execFileSync('/bin/true');
if (parentPort) {
  await once(parentPort, 'message');
  if (manner === 'close') {
    await reader.close({ unpin: true });
    parentPort.close();
  } else {
    process.exit(0);
  }
}
