export * from './config.ts';
export * from './nats/feed.ts';
export * from './nats/listeners.ts';
