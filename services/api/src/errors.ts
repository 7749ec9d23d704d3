import { hasErrorCode } from '@tidegate/runtime';

/** Every error code the API answers with: its HTTP status and what it means. Codes are stable. */
export const ApiErrorCatalogue = {
  PARAMETERS_INVALID: { status: 400, meaning: 'One or more parameters are malformed or unknown; `faults` lists them all.' },
  ORIGIN_NOT_ALLOWED: { status: 403, meaning: 'A page of another site sent the request.' },
  NOT_FOUND: { status: 404, meaning: 'There is nothing at this path.' },
  PROCESS_NOT_FOUND: { status: 404, meaning: 'No event of this process was found in what was searched.' },
  NODE_NOT_FOUND: { status: 404, meaning: 'No node of this name is known.' },
  NODE_REPORTING: { status: 409, meaning: 'The sensor of the node runs and would bring the node back; end it first.' },
  CURSOR_EXPIRED: { status: 410, meaning: 'The stream has discarded the events at which the cursor points; begin anew.' },
  HOST_NOT_ALLOWED: { status: 421, meaning: 'The Host header names a host that this API does not serve (DNS rebinding).' },
  UPGRADE_REQUIRED: { status: 426, meaning: 'The path is a WebSocket, and the request is none.' },
  INTERNAL: { status: 500, meaning: 'A fault of the API; its log says more.' },
  BUSY: { status: 503, meaning: 'As many requests as may run at one time are running; try again.' },
  STREAM_UNAVAILABLE: { status: 503, meaning: 'NATS does not answer, or the stream does not exist yet; try again.' },
} as const;

export type ApiErrorCode = keyof typeof ApiErrorCatalogue;

/** One thing wrong with a request. */
export interface Fault {
  /** The parameter. */
  field: string;
  expected: string;
  got: string;
}

/** An answer that is not 2xx. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly code: ApiErrorCode;
  readonly statusCode: number;
  readonly faults: readonly Fault[];

  constructor(code: ApiErrorCode, message: string, { faults = [], cause }: { faults?: readonly Fault[]; cause?: unknown } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.statusCode = ApiErrorCatalogue[code].status;
    this.faults = faults;
  }

  /** The body of the answer. */
  toJSON(): { error: { code: ApiErrorCode; message: string; faults?: readonly Fault[] } } {
    return { error: { code: this.code, message: this.message, ...(this.faults.length > 0 ? { faults: this.faults } : {}) } };
  }
}

/** What to answer to an error; undefined: it is a fault of ours. */
export function toApiError(error: unknown): ApiError | undefined {
  if (error instanceof ApiError) return error;
  return hasErrorCode(error, 'STREAM_UNAVAILABLE') ? new ApiError('STREAM_UNAVAILABLE', error.message, { cause: error }) : undefined;
}

/** PARAMETERS_INVALID with every fault in its message. */
export function faultsError(faults: readonly Fault[]): ApiError {
  const lines = faults.map(fault => `${fault.field}: expected ${fault.expected}, got ${fault.got}`);
  return new ApiError('PARAMETERS_INVALID', lines.join('; '), { faults });
}
