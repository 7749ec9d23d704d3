/**
 * Every error code Tidegate raises, with what it means. Codes are stable: scripts and alerts may match on them.
 */
export const ErrorCatalogue = {
  CONFIG_INVALID: 'One or more settings are missing or malformed; the message lists them all.',
  NATS_AUTHORIZATION: 'The NATS server refused the user or its password.',
  NATS_UNREACHABLE: 'No NATS server answered before start-up was cancelled.',
  STREAM_MISMATCH: 'The server keeps a stream or bucket with settings other than those asked for.',
  PUBLISH_REJECTED: 'The stream refused a message for good: sending it again cannot help.',
  PUBLISH_TOO_LARGE: "A message is larger than the server's max_payload or the stream's largest message.",
  PUBLISH_DENIED: 'The user may not publish to this subject.',
  PUBLISH_QUEUE_FULL: 'More messages were handed to a publisher than it may hold; await ready() first.',
  PUBLISH_CLOSED: 'The publisher was closed before the stream stored the message.',
  BUCKET_CONFLICT: 'Somebody else wrote the entry of a bucket first.',
  STREAM_UNAVAILABLE: 'NATS does not answer, or the stream does not exist.',
  NATS_SERVER_MISSING: 'No usable nats-server program was found and none could be installed.',
  NATS_SERVER_EXITED: 'The nats-server child process ended before it was ready.',
  SHUTDOWN_TIMEOUT: 'Closing took longer than allowed.',
  SPOOL_CORRUPT: 'A spool segment holds bytes that are not a spool entry.',
  KUBERNETES_REFUSED: 'The Kubernetes API server refused a request; `status` is its HTTP status.',
  SENSOR_UNSUPPORTED: 'This machine lacks something the kernel sensor needs; the message says what.',
  INVALID_ARGUMENT: 'A value handed to a function or command is malformed.',
  AUDIT_TOO_SCATTERED: 'Sequence numbers or loss events are too many or too far apart to be audited in bounded memory.',
  CAPTURE_CORRUPT: 'A capture file is not one, ends too soon, or holds an entry that is damaged.',
  API_UNREACHABLE: 'The API did not answer at its address.',
  API_REFUSED: 'The API answered with an error.',
  ALREADY_RUNNING: 'Tidegate runs from this data folder already.',
  PORT_TAKEN: 'Another program listens on a port that is needed.',
  TIMEOUT: 'Something awaited did not happen in time.',
} as const;

export type ErrorCode = keyof typeof ErrorCatalogue;

export interface ErrorDetails {
  /** The setting, argument or message field at fault. */
  field?: string;
  /** What would have been right. */
  expected?: string;
  /** What was there instead; never a secret. */
  got?: string;
  cause?: unknown;
}

/** An error with a code of the catalogue; `message` carries field, expected and got as well. */
export class TidegateError extends Error {
  override readonly name = 'TidegateError';
  readonly code: ErrorCode;
  readonly field: string | undefined;
  readonly expected: string | undefined;
  readonly got: string | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    const parts = [
      details.field === undefined ? undefined : `field ${details.field}`,
      details.expected === undefined ? undefined : `expected ${details.expected}`,
      details.got === undefined ? undefined : `got ${details.got}`,
    ].filter(part => part !== undefined);
    super(
      parts.length === 0 ? message : `${message} (${parts.join(', ')})`,
      details.cause === undefined ? undefined : { cause: details.cause },
    );
    this.code = code;
    this.field = details.field;
    this.expected = details.expected;
    this.got = details.got;
  }
}

/** True for a TidegateError with that code. */
export function hasErrorCode(error: unknown, code: ErrorCode): error is TidegateError {
  return error instanceof TidegateError && error.code === code;
}
