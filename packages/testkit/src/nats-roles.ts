/** Users of a test server as an installation has them: one for each role, with its permissions and no others. */
import { NatsRole, connectNats, roleInboxPrefix, rolePermissions, type NatsUser } from '@tidegate/runtime';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Host } from './host.ts';

/** Their passwords are the names of their roles. */
export function roleUsers(roles: readonly NatsRole[] = Object.values(NatsRole)): NatsUser[] {
  return roles.map(role => ({ user: role, password: role, permissions: rolePermissions(role) }));
}

/** As one of them; closed at the end of the host. */
export async function connectAs(role: NatsRole, url: string, host: Host): Promise<NatsConnection> {
  const inboxPrefix = roleInboxPrefix(role);
  const nc = await connectNats({ url, name: role, user: role, password: role, inboxPrefix, logger: host.logger });
  host.defer(() => nc.close());
  return nc;
}
