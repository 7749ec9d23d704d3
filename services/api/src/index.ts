export { createApi, type Api, type ApiOptions } from './api.ts';
export { apiSettings, type ApiSettings } from './config.ts';
export { ApiErrorCatalogue, type ApiErrorCode, type Fault } from './errors.ts';
export type { Page } from '@tidegate/events';
export type { ProcessCandidate } from './process-candidates.ts';
export type { ProcessTree } from './process-tree.ts';
export type { ProcessNode } from './tree-builder.ts';
export type { SensorReport, StatusReport, StreamReport, EnricherReport, LagReport } from './status.ts';
