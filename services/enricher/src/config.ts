import { COMMON_SETTINGS } from '@tidegate/runtime';
import { Type } from 'typebox';

/** Settings of the enricher. */
export const enricherConfig = Type.Object({
  ...COMMON_SETTINGS,
  healthPort: Type.Integer({ default: 7403, minimum: 0, maximum: 65_535, description: 'Port of health and metrics; 0: any free one.' }),
  maxInFlightBytes: Type.Integer({
    default: 16 * 1024 * 1024,
    minimum: 4 * 1024 * 1024,
    description: 'Bytes of RAW held in memory at most while their outputs are not stored.',
  }),
});
