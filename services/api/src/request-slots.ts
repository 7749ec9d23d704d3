import { ApiError } from './errors.ts';

/** How many requests read history at one time: what each may hold in memory is bounded, so this bounds all of it. */
export interface RequestSlots {
  /** Returns what gives the slot back. @throws {ApiError} BUSY */
  take(): () => void;
}

export const MAX_HISTORY_REQUESTS = 16;

export function createRequestSlots(): RequestSlots {
  let taken = 0;
  return {
    take() {
      if (taken >= MAX_HISTORY_REQUESTS) throw new ApiError('BUSY', `${MAX_HISTORY_REQUESTS} requests are reading history: try again`);
      taken++;
      let isReleased = false;
      return () => {
        if (isReleased) return;
        isReleased = true;
        taken--;
      };
    },
  };
}
