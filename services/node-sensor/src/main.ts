import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { subjectToken } from '@tidegate/contracts';
import { NatsRole, connectService, createMetrics, loadConfig, runService, startHealthServer } from '@tidegate/runtime';
import { bpfObjectFile, cgroupRoot, cgroupV1Root, filtersOf, nodeName, sensorConfig } from './config.ts';
import { createSensor, type Sensor } from './sensor.ts';

await runService('node-sensor', async ({ logger, env, signal }) => {
  const config = loadConfig(sensorConfig, env);
  const node = nodeName(config);
  const metrics = createMetrics('node-sensor');
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };
  // Health is served while the sensor still starts.
  const running: { sensor?: Sensor } = {};
  const health = await startHealthServer({
    host: config.healthHost,
    port: config.healthPort,
    readiness: () => running.sensor?.readiness() ?? ['starting'],
    registry: metrics.registry,
  });
  logger.info({ url: health.url, node }, 'health and metrics');
  const sensor = (running.sensor = await createSensor(
    {
      node,
      version,
      connect: connectSignal =>
        connectService(config, {
          role: NatsRole.sensor,
          node: config.natsInboxByNode ? node : undefined,
          name: `tidegate-node-sensor ${node}`,
          logger,
          signal: connectSignal,
        }),
      // By name: numbers are the node's, and a machine that gets another name begins with that one's.
      folder: join(resolve(config.dataDir), 'sensor', subjectToken(node)),
      spoolMaxBytes: config.spoolMaxBytes,
      windowBytes: config.windowBytes,
      keptMaxBytes: config.keptMaxBytes,
      reader: {
        objectFile: bpfObjectFile(config),
        pinDirectory: config.pin ? config.pinDirectory : null,
        lifecycleRingBytes: config.lifecycleRingBytes,
        dataRingBytes: config.dataRingBytes,
        batchMaxBytes: config.batchMaxBytes,
        lingerMs: config.lingerMs,
        queueMaxBatches: config.queueMaxBatches,
        procRoot: config.procRoot,
        cgroupRoot: cgroupRoot(config),
        cgroupV1Root: cgroupV1Root(config),
        hostRoot: config.hostRoot,
        compression: config.compression,
        filters: filtersOf(config),
      },
      keepPins: config.keepPins,
      metrics,
      logger,
    },
    signal,
  ));
  return {
    async close() {
      await sensor.close();
      await health.close();
    },
  };
});
