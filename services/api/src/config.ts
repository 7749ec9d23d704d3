import { COMMON_SETTINGS, choice, integer, textList, type Config, type ConfigSchema } from '@tidegate/runtime';

const { natsUrl, natsUser, natsPassword, natsCredentialsFile, logLevel } = COMMON_SETTINGS;

/** Settings of the API. There is no sign-in yet, so it listens on loopback addresses only. */
export const apiSettings = {
  natsUrl,
  natsUser,
  natsPassword,
  natsCredentialsFile,
  logLevel,
  apiHost: choice(['127.0.0.1', '::1', 'localhost'], {
    default: '127.0.0.1',
    description: 'Address to listen on. Loopback only: there is no sign-in yet.',
  }),
  apiPort: integer({ default: 7400, minimum: 0, maximum: 65535, description: 'Port to listen on; 0: any free one.' }),
  apiAllowedHosts: textList({
    default: [],
    description: 'Host names besides loopback ones that a request may be addressed to, as behind a port forward with a name.',
  }),
  apiMaxLiveClients: integer({
    default: 100,
    minimum: 1,
    maximum: 10_000,
    description: 'WebSocket clients at one time; one more is refused.',
  }),
} satisfies ConfigSchema;

export type ApiSettings = Config<typeof apiSettings>;
