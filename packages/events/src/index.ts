// What a consumer of events needs.
export { connectEvents, openEvents, type Events, type EventsOptions } from './events.ts';
export type { ConsumedBatch, ConsumerOptions, ConsumerStart, EventConsumer } from './consumer.ts';
export { only, type EventFilter, type Selection } from './event-filter.ts';
export type { ConsumerPosition, PositionStore } from './position.ts';
export type { Scope } from './scope.ts';

// What the API makes its answers of besides: pages with cursors, the live feed, and walks of its own.
export type { EventPlace } from './batch-order.ts';
export type { BatchSearch } from './batch-search.ts';
export { BatchWalk, Order, type Place } from './batch-walk.ts';
export { filterDigest, formatCursor, MAX_CURSOR_LENGTH, parseCursor, sourceKey, type Cursor } from './cursor.ts';
export { createMatcher, filterSubjects, selects, type EventMatcher } from './event-filter.ts';
export { EventMessage } from './event-message.ts';
export { CLOCK_SKEW_MS, type History, type HistoryQuery, type Page } from './history.ts';
export type { Follower, LiveFeed, LiveFeeds } from './live-feed.ts';
export { readerLossJson, type ReaderLoss, type ReaderLossJson } from './loss-json.ts';
export { resumePlace, type ResumedPlace } from './position.ts';
export { WorkMeter } from './work-meter.ts';
