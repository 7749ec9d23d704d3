/** Every code of NativeError: what it means, and what whoever meets it can do. docs/errors.md is written from it. */
export const NativeErrorCatalogue = {
  NATIVE_OPTIONS_INVALID: {
    meaning: 'Options of the reader are wrong; the message lists them all.',
    remedy: "Correct the sensor's settings that it lists.",
  },
  NATIVE_FILTERS_INVALID: {
    meaning: "Filters are wrong, or more than the kernel's maps hold; the message lists them all.",
    remedy: 'Correct TIDEGATE_KINDS, TIDEGATE_ALLOW_… and TIDEGATE_DENY_….',
  },
  NATIVE_STATE: {
    meaning: 'The reader was used before its start, or after its end.',
    remedy: 'A fault of the program that uses it: report it.',
  },
  NATIVE_ADDON_MISSING: {
    meaning: 'The compiled addon is not there, or does not load.',
    remedy: 'Build it with `npm run setup`; the message says which library is missing.',
  },
  NATIVE_LOAD_FAILED: {
    meaning: 'The kernel did not take the BPF programs, or their object file cannot be read.',
    remedy: "The message has the reason: privileges, BTF, or the kernel's lockdown. `make -C bpf` builds the object.",
  },
  NATIVE_STATE_FILE_LOCKED: {
    meaning: 'Another sensor uses the same state file.',
    remedy: 'End it, or give this one another TIDEGATE_DATA_DIR.',
  },
  NATIVE_SYSTEM_ERROR: {
    meaning: 'A call of the operating system failed; the message says which, and how.',
    remedy: 'Most often room or rights of the data folder or of bpffs.',
  },
} as const;

export type NativeErrorCode = keyof typeof NativeErrorCatalogue;

/** An error of the native core. The addon's own errors have a code too (native/src/addon.cc), and no more. */
export class NativeError extends Error {
  readonly code: NativeErrorCode;
  readonly field: string;
  readonly expected: string;
  readonly got: string;

  constructor(code: NativeErrorCode, message: string, field: string, expected: string, got: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'NativeError';
    this.code = code;
    this.field = field;
    this.expected = expected;
    this.got = got;
  }
}

interface Fault {
  field: string;
  expected: string;
  got: string;
}

/** Gathers every fault of an input, to tell them all at once. */
export class Faults {
  readonly #faults: Fault[] = [];

  check(good: boolean, field: string, expected: string, got: unknown): void {
    if (!good) this.#faults.push({ field, expected, got: String(got) });
  }

  integer(field: string, value: number, { min, max }: { min: number; max: number }): void {
    this.check(Number.isInteger(value) && value >= min && value <= max, field, `an integer from ${min} to ${max}`, value);
  }

  text(field: string, value: string, maxBytes: number): void {
    const bytes = Buffer.byteLength(value);
    this.check(
      bytes >= 1 && bytes <= maxBytes && !value.includes('\0'),
      field,
      `1 to ${maxBytes} bytes without NUL`,
      JSON.stringify(value),
    );
  }

  /** @throws {NativeError} when there was a fault. */
  raise(code: NativeErrorCode): void {
    const [first] = this.#faults;
    if (!first) return;
    const message = this.#faults.map(({ field, expected, got }) => `${field}: expected ${expected}, got ${got}`).join('; ');
    throw new NativeError(code, message, first.field, first.expected, first.got);
  }
}
