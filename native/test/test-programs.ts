/** The programs under test/programs, built when a test first asks for them. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const FOLDER = fileURLToPath(new URL('..', import.meta.url));

/** Folder of the built programs. Test files run side by side: only one of them builds at a time, or one would run what another is still writing. */
export function buildTestPrograms(): string {
  execFileSync('flock', [join(FOLDER, 'build'), 'make', '-s', '-C', FOLDER, 'test-programs'], { stdio: ['ignore', 'ignore', 'inherit'] });
  return join(FOLDER, 'build/test');
}
