import { COMMON_SETTINGS, type ConfigSchema } from '@tidegate/runtime';
import { Type, type Static } from 'typebox';

const { natsUrl, natsUser, natsPassword, natsCredentialsFile, logLevel } = COMMON_SETTINGS;

/** Settings of the API. There is no sign-in yet, so it listens on loopback addresses only. */
export const apiSettings = Type.Object({
  natsUrl,
  natsUser,
  natsPassword,
  natsCredentialsFile,
  logLevel,
  apiHost: Type.Union([Type.Literal('127.0.0.1'), Type.Literal('::1'), Type.Literal('localhost')], {
    default: '127.0.0.1',
    description: 'Address to listen on. Loopback only: there is no sign-in yet.',
  }),
  apiPort: Type.Integer({ default: 7400, minimum: 0, maximum: 65535, description: 'Port to listen on; 0: any free one.' }),
  apiAllowedHosts: Type.Array(Type.String(), {
    default: [],
    description: 'Host names besides loopback ones that a request may be addressed to, as behind a port forward with a name.',
  }),
  apiMaxLiveClients: Type.Integer({
    default: 100,
    minimum: 1,
    maximum: 10_000,
    description: 'WebSocket clients at one time; one more is refused.',
  }),
}) satisfies ConfigSchema;

export type ApiSettings = Static<typeof apiSettings>;
