import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { subjectToken } from '@tidegate/contracts';
import { connectService, createMetrics, loadConfig, NatsRole, runService, startHealthServer } from '@tidegate/runtime';
import { enricherConfig } from './config.ts';
import { createEnricher } from './enricher.ts';

await runService('enricher', async ({ logger, env, signal }) => {
  const config = loadConfig(enricherConfig, env);
  const nc = await connectService(config, { role: NatsRole.enricher, logger, signal });
  const metrics = createMetrics('enricher');
  // Random: a process that is started again must not be taken for the one before.
  const id = subjectToken(`${hostname()}-${randomBytes(4).toString('hex')}`);
  const enricher = createEnricher({
    nc,
    logger,
    metrics,
    id,
    maxInFlightBytes: config.maxInFlightBytes,
    workloadsPerNamespace: config.workloadsPerNamespace,
  });
  const health = await startHealthServer({
    host: config.healthHost,
    port: config.healthPort,
    readiness: () => enricher.readiness(),
    registry: metrics.registry,
  });
  logger.info({ url: health.url }, 'health and metrics');
  return {
    async close() {
      await enricher.close();
      await health.close();
      await nc.close();
    },
  };
});
