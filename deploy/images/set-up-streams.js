/** Creates Tidegate's streams and buckets, or brings them up to date, and exits: before the enricher starts. May run any number of times, also at once. */
import { BUCKETS, STREAMS } from '@tidegate/contracts';
import { connectService, ensureBuckets, ensureStreams, loadConfig, NatsRole, runService } from '@tidegate/runtime';
import { setupSettings } from './set-up-settings.js';

const HOUR_MS = 3_600_000;
const MIB = 1024 ** 2;

await runService('setup', async ({ logger, env, signal }) => {
  const config = loadConfig(setupSettings, env);
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
