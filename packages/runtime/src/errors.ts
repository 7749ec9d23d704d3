/** What an error code means, and what whoever meets it can do. */
export interface ErrorMeaning {
  meaning: string;
  remedy: string;
}

/** Every error code of TidegateError. Codes are stable: scripts and alerts may match on them. docs/errors.md is written from it. */
export const ErrorCatalogue = {
  CONFIG_INVALID: {
    meaning: 'One or more settings are missing or malformed; the message lists them all.',
    remedy: "Correct what it lists; the table in the service's README says what each setting takes.",
  },
  NATS_AUTHORIZATION: {
    meaning: 'The NATS server refused the user or its password.',
    remedy: 'Give TIDEGATE_NATS_USER and TIDEGATE_NATS_PASSWORD, or the credentials file, of a user that the server has.',
  },
  NATS_UNREACHABLE: {
    meaning: 'No NATS server answered before start-up was cancelled.',
    remedy: 'See that nats-server runs and that TIDEGATE_NATS_URL is its address; `tidegate up` starts one.',
  },
  STREAM_MISMATCH: {
    meaning: 'The server keeps a stream or bucket with settings other than those asked for.',
    remedy:
      'The message says which. A newer nats-server may be needed, or the stream was made by something else: correct it with the `nats` command, or remove it if what it holds may go.',
  },
  PUBLISH_REJECTED: {
    meaning: 'The stream refused a message for good: sending it again cannot help.',
    remedy: "The message has the server's reason: compare the stream's limits with those that `tidegate up` or the chart sets.",
  },
  PUBLISH_TOO_LARGE: {
    meaning: "A message is larger than the server's max_payload or the stream's largest message.",
    remedy: 'Set max_payload of nats-server to 8 MiB, as the chart does, or TIDEGATE_BATCH_MAX_BYTES lower.',
  },
  PUBLISH_DENIED: {
    meaning: 'The user may not publish to this subject.',
    remedy: 'Give the user the permissions of packages/runtime/src/nats-permissions.ts; for `tidegate play` use the admin user.',
  },
  PUBLISH_QUEUE_FULL: {
    meaning: 'More messages were handed to a publisher than it may hold; await ready() first.',
    remedy: 'A fault of the program that publishes: report it.',
  },
  PUBLISH_CLOSED: {
    meaning: 'The publisher was closed before the stream stored the message.',
    remedy: 'Nothing while a service stops; the sensor keeps such batches in its spool.',
  },
  BUCKET_CONFLICT: {
    meaning: 'Somebody else wrote the entry of a bucket first.',
    remedy: 'Read it anew and decide again; services do so by themselves.',
  },
  CURSOR_EXPIRED: {
    meaning: 'The stream has discarded the events at which a cursor points.',
    remedy: 'Begin anew, without the cursor.',
  },
  STREAM_UNAVAILABLE: {
    meaning: 'NATS does not answer, or the stream does not exist.',
    remedy:
      'See that nats-server runs with JetStream and room on its disk, and that the enricher (or the set-up of the chart) has made the streams.',
  },
  NATS_SERVER_MISSING: {
    meaning: 'No usable nats-server program was found and none could be installed.',
    remedy: 'Install nats-server 2.9.10 or newer, or name it in TIDEGATE_NATS_SERVER.',
  },
  NATS_SERVER_EXITED: {
    meaning: 'The nats-server child process ended before it was ready.',
    remedy: 'The message has the last of its log: most often a port that is taken or a disk that is full.',
  },
  SHUTDOWN_TIMEOUT: {
    meaning: 'Closing took longer than allowed.',
    remedy: 'Nothing is lost that the spool or the streams hold; look in the log for what was waited for, and report it if NATS was there.',
  },
  KUBERNETES_REFUSED: {
    meaning: 'The Kubernetes API server refused a request; `status` is its HTTP status.',
    remedy: '401 and 403: give the gateway the rights of deploy/helm/tidegate/templates/gateway.yaml.',
  },
  SENSOR_UNSUPPORTED: {
    meaning: 'This machine lacks something the kernel sensor needs; the message says what.',
    remedy: 'Do what it says; without kernel events, `tidegate up` plays a capture.',
  },
  NO_EVENTS: {
    meaning: '`tidegate up` started everything, and yet no event of a program that it ran came to EVENTS.',
    remedy:
      'The message names hooks that the kernel refused, with its reason. When there is none, the log of sensor and enricher may say more.',
  },
  INVALID_ARGUMENT: {
    meaning: 'A value handed to a function or command is malformed.',
    remedy: 'Correct what it names; the command has `--help`.',
  },
  AUDIT_TOO_SCATTERED: {
    meaning: 'Sequence numbers or loss events are too many or too far apart to be audited in bounded memory.',
    remedy: 'Audit one node (`--node`) or a shorter time.',
  },
  CAPTURE_CORRUPT: {
    meaning: 'A capture file is not one, ends too soon, or holds an entry that is damaged.',
    remedy: 'Copy or record it anew; what stands before the damage was read.',
  },
  API_UNREACHABLE: {
    meaning: 'The API did not answer at its address.',
    remedy: 'Start it (`tidegate up`), or give its address with `--api` or TIDEGATE_API_URL.',
  },
  API_REFUSED: {
    meaning: 'The API answered with an error.',
    remedy: "The message is the API's own; its codes are below.",
  },
  ALREADY_RUNNING: {
    meaning: 'Tidegate runs from this data folder already.',
    remedy: 'Use that one, end it, or choose another folder with `--data-dir` and other ports.',
  },
  PORT_TAKEN: {
    meaning: 'Another program listens on a port that is needed.',
    remedy: 'End it, or choose other ports: `--api-port`, `--nats-port`, `--health-ports`.',
  },
  TIMEOUT: {
    meaning: 'Something awaited did not happen in time.',
    remedy: 'The message says what; try again, and look at the log of whom it waited for.',
  },
} as const satisfies Record<string, ErrorMeaning>;

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
