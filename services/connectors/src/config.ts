import { KIND_NAMES } from '@tidegate/contracts';
import { COMMON_SETTINGS, integer, wordList, type ConfigSchema } from '@tidegate/runtime';

/** Settings of the connectors. */
export const connectorsConfig = {
  ...COMMON_SETTINGS,
  healthPort: integer({ default: 7405, minimum: 0, maximum: 65_535, description: 'Port of health and metrics; 0: any free one.' }),
  feedKinds: wordList(KIND_NAMES, {
    default: ['exec', 'exit', 'connect', 'accept', 'listen', 'loss'],
    description: 'Kinds of events that are published as JSON on `tidegate.feed.>` while somebody listens.',
  }),
} satisfies ConfigSchema;
