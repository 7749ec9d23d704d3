/** How commands reach NATS, and the users of the embedded server. */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import {
  NatsRole,
  TidegateError,
  connectNats,
  consumerPermissions,
  createLogger,
  hasErrorCode,
  roleInboxPrefix,
  rolePermissions,
  type NatsUser,
} from '@tidegate/runtime';

const USERS_FILE = 'nats-users.json';
const CONNECT_TIMEOUT_MS = 5_000;

/** Who connects without a name: may read the streams and write nothing, with any client's default inbox. */
export const CONSUMER_USER = 'consumer';

export function dataFolder(env: NodeJS.ProcessEnv): string {
  return resolve(env.TIDEGATE_DATA_DIR || '.tidegate');
}

/** Passwords of the embedded server's users, made at the first start and readable by their owner alone. */
export function provideNatsPasswords(folder: string): Record<NatsRole, string> {
  const known = readNatsPasswords(folder);
  const passwords = Object.fromEntries(
    Object.values(NatsRole).map(role => [role, known?.[role] ?? randomBytes(24).toString('base64url')]),
  ) as Record<NatsRole, string>;
  writeFileSync(join(folder, USERS_FILE), `${JSON.stringify(passwords, undefined, 2)}\n`, { mode: 0o600 });
  return passwords;
}

export function embeddedNatsUsers(passwords: Readonly<Record<NatsRole, string>>): NatsUser[] {
  return [
    ...Object.values(NatsRole).map(role => ({ user: role, password: passwords[role], permissions: rolePermissions(role) })),
    {
      user: CONSUMER_USER,
      password: randomBytes(24).toString('base64url'),
      permissions: consumerPermissions(),
    },
  ];
}

export interface NatsAccess {
  user?: string | undefined;
  password?: string | undefined;
  credentialsFile?: string | undefined;
  inboxPrefix?: string | undefined;
}

/** What the environment says; else, for the server of this data folder, the role's own user; else none. */
export function natsAccess(env: NodeJS.ProcessEnv, role: NatsRole | undefined): NatsAccess {
  if (env.TIDEGATE_NATS_CREDENTIALS_FILE) return { credentialsFile: env.TIDEGATE_NATS_CREDENTIALS_FILE };
  if (env.TIDEGATE_NATS_USER) {
    const { TIDEGATE_NATS_USER: user, TIDEGATE_NATS_PASSWORD: password } = env;
    // A user named after a role has the role's permissions: replies come to the role's inbox alone.
    const namesake = Object.values(NatsRole).find(each => each === user);
    return { user, password, inboxPrefix: namesake && roleInboxPrefix(namesake) };
  }
  const password = role === undefined ? undefined : readNatsPasswords(dataFolder(env))?.[role];
  return role === undefined || password === undefined ? {} : { user: role, password, inboxPrefix: roleInboxPrefix(role) };
}

/**
 * Connects for a command, which gives up after some seconds where a service would wait.
 * @throws {TidegateError} NATS_UNREACHABLE, NATS_AUTHORIZATION
 */
export async function connectCommand(url: string, env: NodeJS.ProcessEnv, signal: AbortSignal, role?: NatsRole): Promise<NatsConnection> {
  const patience = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_TIMEOUT_MS)]);
  try {
    return await connectNats({
      url,
      name: 'tidegate',
      ...natsAccess(env, role),
      logger: createLogger({ name: 'tidegate', level: 'silent' }),
      signal: patience,
    });
  } catch (error) {
    if (!hasErrorCode(error, 'NATS_UNREACHABLE')) throw error;
    throw new TidegateError('NATS_UNREACHABLE', 'no NATS server answers; `tidegate up` starts one', {
      field: '--nats',
      got: url,
      cause: error,
    });
  }
}

function readNatsPasswords(folder: string): Partial<Record<NatsRole, string>> | undefined {
  try {
    return JSON.parse(readFileSync(join(folder, USERS_FILE), 'utf8')) as Partial<Record<NatsRole, string>>;
  } catch {
    // Not there, another user's, or half written by a start that was cut off: then new ones are made.
    return undefined;
  }
}
