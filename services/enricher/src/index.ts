export * from './config.ts';
export * from './enricher.ts';
export * from './identity-cache.ts';
export { DeadLetterHeader } from './node-session.ts';
export * from './splice.ts';
