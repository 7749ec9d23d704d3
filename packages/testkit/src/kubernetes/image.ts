import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { findProgram } from './programs.ts';

/** Programs of busybox that the image has in /bin. */
const APPLETS = ['cat', 'echo', 'env', 'id', 'ls', 'nc', 'ps', 'sh', 'sleep', 'touch', 'true', 'wget'];

const execute = promisify(execFile);

/**
 * Makes an image of the machine's static busybox, as an archive that `ctr images import` takes: no registry and no image builder.
 * @returns path of the archive, in `folder`
 */
export async function buildBusyboxImage(
  folder: string,
  { tag, entrypoint }: { tag: string; entrypoint: readonly string[] },
): Promise<string> {
  const busybox = findProgram('busybox');
  if (busybox === undefined) throw new Error('no busybox on this machine: prepareCluster installs it');
  const bin = join(folder, 'root', 'bin');
  mkdirSync(bin, { recursive: true });
  copyFileSync(busybox, join(bin, 'busybox'));
  for (const applet of APPLETS) symlinkSync('busybox', join(bin, applet));
  await execute('tar', ['-C', join(folder, 'root'), '--owner=0', '--group=0', '-cf', join(folder, 'layer.tar'), '.']);
  const layerDigest = createHash('sha256')
    .update(readFileSync(join(folder, 'layer.tar')))
    .digest('hex');
  const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
  const config = {
    architecture,
    os: 'linux',
    config: { Entrypoint: entrypoint, Env: ['PATH=/bin'] },
    rootfs: { type: 'layers', diff_ids: [`sha256:${layerDigest}`] },
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  writeFileSync(join(folder, 'manifest.json'), JSON.stringify([{ Config: 'config.json', RepoTags: [tag], Layers: ['layer.tar'] }]));
  const archive = join(folder, 'image.tar');
  await execute('tar', ['-C', folder, '-cf', archive, 'config.json', 'manifest.json', 'layer.tar']);
  return archive;
}
