import { NatsRole, connectService, loadConfig, runService } from '@tidegate/runtime';
import { createApi } from './api.ts';
import { apiSettings } from './config.ts';

await runService('api', async ({ logger, env, signal }) => {
  const config = loadConfig(apiSettings, env);
  const nc = await connectService(config, { role: NatsRole.api, logger, signal });
  try {
    const api = await createApi({
      nc,
      logger,
      host: config.apiHost,
      port: config.apiPort,
      allowedHosts: config.apiAllowedHosts,
      maxLiveClients: config.apiMaxLiveClients,
    });
    return {
      close: async () => {
        await api.close();
        await nc.close();
      },
    };
  } catch (error) {
    await nc.close();
    throw error;
  }
});
