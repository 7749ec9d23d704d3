/** An error of the native core. Codes: NATIVE_OPTIONS_INVALID, NATIVE_FILTERS_INVALID, NATIVE_STATE, NATIVE_ADDON_MISSING; from C++ NATIVE_LOAD_FAILED, NATIVE_STATE_FILE_LOCKED, NATIVE_SYSTEM_ERROR. */
export class NativeError extends Error {
  readonly code: string;
  readonly field: string;
  readonly expected: string;
  readonly got: string;

  constructor(code: string, message: string, field: string, expected: string, got: string, options?: ErrorOptions) {
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
  raise(code: string): void {
    const [first] = this.#faults;
    if (!first) return;
    const message = this.#faults.map(({ field, expected, got }) => `${field}: expected ${expected}, got ${got}`).join('; ');
    throw new NativeError(code, message, first.field, first.expected, first.got);
  }
}
