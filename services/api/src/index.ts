export { createApi, type Api, type ApiOptions } from './api.ts';
export { apiSettings, type ApiSettings } from './config.ts';
export { ApiErrorCatalogue, type ApiErrorCode, type Fault } from './errors.ts';
export type { Page } from '@tidegate/events';
