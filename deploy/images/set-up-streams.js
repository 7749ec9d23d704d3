/** Creates Tidegate's streams and buckets, or brings them up to date, and exits: before the enricher starts. May run any number of times, also at once. */
import { BUCKETS, STREAMS } from '@tidegate/contracts';
import {
  COMMON_SETTINGS,
  connectService,
  ensureBuckets,
  ensureStreams,
  integer,
  loadConfig,
  NatsRole,
  runService,
} from '@tidegate/runtime';

const { natsUrl, natsUser, natsPassword, natsCredentialsFile, logLevel } = COMMON_SETTINGS;
const HOUR_MS = 3_600_000;
const MIB = 1024 ** 2;

const settings = {
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

await runService('setup', async ({ logger, env, signal }) => {
  const config = loadConfig(settings, env);
  const nc = await connectService(config, { role: NatsRole.setup, logger, signal });
  const streams = [
    { ...STREAMS.raw, maxBytes: config.rawMaxMib * MIB, maxAgeMs: config.rawMaxAgeHours * HOUR_MS },
    { ...STREAMS.events, maxBytes: config.eventsMaxMib * MIB, maxAgeMs: config.eventsMaxAgeHours * HOUR_MS },
    STREAMS.deadLetter,
  ];
  try {
    await ensureStreams(nc, streams, { replicas: config.natsReplicas });
    await ensureBuckets(nc, Object.values(BUCKETS), { replicas: config.natsReplicas });
    logger.info(
      { streams: streams.map(({ name, maxBytes, maxAgeMs }) => ({ name, maxBytes, maxAgeMs })) },
      'streams and buckets are there',
    );
  } finally {
    await nc.close();
  }
  process.exit(0);
});

function maxMib({ name, maxBytes }) {
  return integer({ default: maxBytes / MIB, minimum: 1, description: `Size of stream ${name}, in MiB; then the oldest messages go.` });
}

function maxAgeHours({ name, maxAgeMs }) {
  return integer({ default: maxAgeMs / HOUR_MS, minimum: 1, description: `How long stream ${name} keeps messages, in hours.` });
}
