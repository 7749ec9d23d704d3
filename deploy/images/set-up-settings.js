/** Settings of set-up-streams.js, from the environment. */
import { STREAMS } from '@tidegate/contracts';
import { COMMON_SETTINGS, integer } from '@tidegate/runtime';

const { natsUrl, natsUser, natsPassword, natsCredentialsFile, logLevel } = COMMON_SETTINGS;
const HOUR_MS = 3_600_000;
const MIB = 1024 ** 2;

export const setupSettings = {
  natsUrl,
  natsUser,
  natsPassword,
  natsCredentialsFile,
  logLevel,
  natsReplicas: integer({ default: 1, minimum: 1, maximum: 5, description: 'Copies of each stream and bucket in a NATS cluster.' }),
  rawMaxMib: maxMib(STREAMS.raw),
  rawMaxAgeHours: maxAgeHours(STREAMS.raw),
  eventsMaxMib: maxMib(STREAMS.events),
  eventsMaxAgeHours: maxAgeHours(STREAMS.events),
};

function maxMib({ name, maxBytes }) {
  return integer({ default: maxBytes / MIB, minimum: 1, description: `Size of stream ${name}, in MiB; then the oldest messages go.` });
}

function maxAgeHours({ name, maxAgeMs }) {
  return integer({ default: maxAgeMs / HOUR_MS, minimum: 1, description: `How long stream ${name} keeps messages, in hours.` });
}
