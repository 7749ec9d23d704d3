import { openEvents } from '@tidegate/events';
import { connectService, createMetrics, loadConfig, malformedEntries, NatsRole, runService, startHealthServer } from '@tidegate/runtime';
import { connectorsConfig } from './config.ts';
import { createFeed } from './nats/feed.ts';

await runService('connectors', async ({ logger, env, signal }) => {
  const config = loadConfig(connectorsConfig, env);
  const nc = await connectService(config, { role: NatsRole.connectors, logger, signal });
  const metrics = createMetrics('connectors');
  const events = await openEvents(nc, { logger, malformed: malformedEntries(metrics) });
  const feed = createFeed({ nc, events, logger, metrics, kinds: config.feedKinds });
  const health = await startHealthServer({
    host: config.healthHost,
    port: config.healthPort,
    readiness: () => feed.readiness(),
    registry: metrics.registry,
  });
  logger.info({ url: health.url }, 'health and metrics');
  return {
    async close() {
      await feed.close();
      events.close();
      await health.close();
      await nc.close();
    },
  };
});
