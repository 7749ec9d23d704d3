import { hasErrorCode, type ErrorMeaning } from '@tidegate/runtime';

/** Every error code the API answers with: its HTTP status, what it means and what to do. Codes are stable. docs/errors.md is written from it. */
export const ApiErrorCatalogue = {
  PARAMETERS_INVALID: {
    status: 400,
    meaning: 'One or more parameters are malformed or unknown; `faults` lists them all.',
    remedy: 'Correct what `faults` names; `/docs` says what each parameter takes.',
  },
  BAD_REQUEST: {
    status: 400,
    meaning: 'The request is not one that an HTTP server can read; its own status (400 to 417) is more exact.',
    remedy: 'The message says what is wrong with it.',
  },
  ORIGIN_NOT_ALLOWED: {
    status: 403,
    meaning: 'A page of another site sent the request.',
    remedy: 'Ask from the page of this API, or from a program that sends no Origin.',
  },
  NOT_FOUND: {
    status: 404,
    meaning: 'There is nothing at this path.',
    remedy: '`/docs` lists the paths.',
  },
  PROCESS_NOT_FOUND: {
    status: 404,
    meaning: 'No event of this process was found in what was searched.',
    remedy: 'Widen the time that is searched, or ask by exec_id instead of pid; the events may be older than the stream.',
  },
  NODE_NOT_FOUND: {
    status: 404,
    meaning: 'No node of this name is known.',
    remedy: '`GET /api/v1/nodes?all=true` lists the names.',
  },
  NODE_REPORTING: {
    status: 409,
    meaning: 'The sensor of the node runs and would bring the node back; end it first.',
    remedy: 'End the sensor of the node, then ask again.',
  },
  CURSOR_EXPIRED: {
    status: 410,
    meaning: 'The stream has discarded the events at which the cursor points; begin anew.',
    remedy: 'Ask again without `cursor`.',
  },
  HOST_NOT_ALLOWED: {
    status: 421,
    meaning: 'The Host header names a host that this API does not serve (DNS rebinding).',
    remedy: 'Use a loopback address, or list the name in TIDEGATE_API_ALLOWED_HOSTS.',
  },
  UPGRADE_REQUIRED: {
    status: 426,
    meaning: 'The path is a WebSocket, and the request is none.',
    remedy: 'Connect with a WebSocket client.',
  },
  INTERNAL: {
    status: 500,
    meaning: 'A fault of the API; its log says more.',
    remedy: 'Look in the log of the API, and report it.',
  },
  BUSY: {
    status: 503,
    meaning: 'As many requests as may run at one time are running; try again.',
    remedy: 'Try again after a moment.',
  },
  STREAM_UNAVAILABLE: {
    status: 503,
    meaning: 'NATS does not answer, or the stream does not exist yet; try again.',
    remedy: 'Try again; see that nats-server and the enricher run.',
  },
} as const satisfies Record<string, ErrorMeaning & { status: number }>;

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
  if (hasErrorCode(error, 'STREAM_UNAVAILABLE')) return new ApiError('STREAM_UNAVAILABLE', error.message, { cause: error });
  if (hasErrorCode(error, 'CURSOR_EXPIRED')) return new ApiError('CURSOR_EXPIRED', error.message, { cause: error });
  return undefined;
}

/** PARAMETERS_INVALID with every fault in its message. */
export function faultsError(faults: readonly Fault[]): ApiError {
  const lines = faults.map(fault => `${fault.field}: expected ${fault.expected}, got ${fault.got}`);
  return new ApiError('PARAMETERS_INVALID', lines.join('; '), { faults });
}
