/** `shapes.object<Thing>({ name: shapes.text })`, for codecs that other packages define. */
export * as shapes from './json-shape.ts';
export * from './batch-walk.ts';
export * from './bucket-values.ts';
export * from './event-headers.ts';
export * from './event-json.ts';
export * from './keys.ts';
export * from './kinds.ts';
export * from './nodes.ts';
export type { Exact64 } from './protobuf-numbers.ts';
export * from './raw-headers.ts';
export * from './schema.ts';
export * from './sensor-status.ts';
export * from './streams.ts';
export * from './subjects.ts';
export * from './thin-batch.ts';
export { ShapeError, type Shape } from './json-shape.ts';
export { detailSchemas } from '#generated/details.js';
export type * from '#generated/details.js';
