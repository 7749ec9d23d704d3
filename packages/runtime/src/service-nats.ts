import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from './logging.ts';
import { roleInboxPrefix, type NatsRole } from './nats-permissions.ts';
import { connectNats } from './nats.ts';

/** Of COMMON_SETTINGS. */
export interface NatsSettings {
  readonly natsUrl: string;
  readonly natsUser: string | undefined;
  readonly natsPassword: string | undefined;
  readonly natsCredentialsFile: string | undefined;
}

export interface ServiceNatsOptions {
  role: NatsRole;
  /** For sensors whose user is their node's. */
  node?: string | undefined;
  /** Shown by the server's monitoring; default: `tidegate-<role>`. */
  name?: string;
  logger: Logger;
  signal: AbortSignal;
}

/** Connects as a service's settings say, with its role's inbox. @throws {TidegateError} as connectNats */
export function connectService(
  { natsUrl, natsUser, natsPassword, natsCredentialsFile }: NatsSettings,
  { role, node, name = `tidegate-${role}`, logger, signal }: ServiceNatsOptions,
): Promise<NatsConnection> {
  return connectNats({
    url: natsUrl,
    name,
    user: natsUser,
    password: natsPassword,
    credentialsFile: natsCredentialsFile,
    inboxPrefix: roleInboxPrefix(role, node),
    logger,
    signal,
  });
}
