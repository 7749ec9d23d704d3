import { COMMON_SETTINGS, integer, type ConfigSchema } from '@tidegate/runtime';

/** Settings of the enricher. */
export const enricherConfig = {
  ...COMMON_SETTINGS,
  healthPort: integer({ default: 7403, minimum: 0, maximum: 65_535, description: 'Port of health and metrics; 0: any free one.' }),
  maxInFlightBytes: integer({
    default: 16 * 1024 * 1024,
    minimum: 4 * 1024 * 1024,
    description: 'Bytes of RAW held in memory at most while their outputs are not stored.',
  }),
  workloadsPerNamespace: integer({
    default: 1_000,
    minimum: 1,
    description:
      'Workloads of a namespace (outside Kubernetes: containers) that get subjects of their own in a day; the others share `_more`.',
  }),
} satisfies ConfigSchema;
