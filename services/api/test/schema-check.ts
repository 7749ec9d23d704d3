/** Holds answers against the OpenAPI document, in both directions: what an answer has that no schema describes, and what schemas describe that no answer had. */

export interface JsonSchema {
  $ref?: string;
  type?: string;
  const?: unknown;
  anyOf?: JsonSchema[];
  pattern?: string;
  format?: string;
  properties?: Record<string, JsonSchema>;
  patternProperties?: Record<string, JsonSchema>;
  additionalProperties?: boolean | JsonSchema;
  required?: string[];
  items?: JsonSchema;
}

export interface OpenApiDocument {
  openapi: string;
  paths: Record<string, { get: { responses: Record<string, { content?: Record<string, { schema: JsonSchema }> }> } }>;
  components?: { schemas?: Record<string, JsonSchema> };
}

const DATE_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;

export class SchemaCheck {
  readonly #document: OpenApiDocument;
  readonly #seen = new Set<JsonSchema>();

  constructor(document: OpenApiDocument) {
    this.#document = document;
  }

  /** Faults of an answer: `path: what is wrong`. */
  faults(path: string, status: number, body: unknown): string[] {
    const schema = this.#document.paths[path]?.get.responses[status]?.content?.['application/json']?.schema;
    return schema ? this.#check(schema, body, '$') : [`${path} ${status}: not described`];
  }

  /** Properties that are described and were in no answer. */
  unseen(path: string, status: number): string[] {
    const missing: string[] = [];
    const walked = new Set<JsonSchema>();
    const walk = (given: JsonSchema, at: string): void => {
      const schema = this.#resolve(given);
      if (walked.has(schema)) return;
      walked.add(schema);
      for (const [name, property] of Object.entries(schema.properties ?? {})) {
        if (!this.#seen.has(property)) missing.push(`${at}.${name}`);
        else walk(property, `${at}.${name}`);
      }
      if (schema.items) walk(schema.items, `${at}[]`);
      for (const option of schema.anyOf ?? []) walk(option, at);
    };
    walk(this.#document.paths[path]!.get.responses[status]!.content!['application/json']!.schema, '$');
    return missing;
  }

  #resolve(schema: JsonSchema): JsonSchema {
    if (schema.$ref === undefined) return schema;
    const name = schema.$ref.replace('#/components/schemas/', '');
    const resolved = this.#document.components?.schemas?.[name];
    if (!resolved) throw new Error(`nothing at ${schema.$ref}`);
    return resolved;
  }

  #check(given: JsonSchema, value: unknown, at: string): string[] {
    const schema = this.#resolve(given);
    if (schema.anyOf) {
      const results = schema.anyOf.map(option => this.#check(option, value, at));
      return results.some(faults => faults.length === 0) ? [] : results.flat();
    }
    if (schema.const !== undefined)
      return value === schema.const ? [] : [`${at}: ${JSON.stringify(value)} is not ${JSON.stringify(schema.const)}`];
    const fault = typeFault(schema, value);
    if (fault) return [`${at}: ${fault}`];
    if (Array.isArray(value))
      return value.flatMap((item, i) =>
        schema.items ? this.#check(schema.items, item, `${at}[${i}]`) : [`${at}: items are not described`],
      );
    if (typeof value === 'object' && value !== null) return this.#checkObject(schema, value, at);
    return [];
  }

  #checkObject(schema: JsonSchema, value: object, at: string): string[] {
    const faults = (schema.required ?? []).filter(name => !Object.hasOwn(value, name)).map(name => `${at}.${name}: missing`);
    for (const [name, item] of Object.entries(value)) {
      const property = schema.properties?.[name];
      const other =
        Object.entries(schema.patternProperties ?? {}).find(([pattern]) => new RegExp(pattern).test(name))?.[1] ??
        schema.additionalProperties;
      if (property) {
        this.#seen.add(property);
        faults.push(...this.#check(property, item, `${at}.${name}`));
      } else if (typeof other === 'object') faults.push(...this.#check(other, item, `${at}.${name}`));
      else if (other !== true) faults.push(`${at}.${name}: not described`);
    }
    return faults;
  }
}

function typeFault({ type, pattern, format }: JsonSchema, value: unknown): string | undefined {
  const actual = value === null ? 'null' : Array.isArray(value) ? 'array' : Number.isSafeInteger(value) ? 'integer' : typeof value;
  if (type !== undefined && type !== actual && !(type === 'number' && actual === 'integer'))
    return `expected ${type}, got ${actual} ${JSON.stringify(value)}`;
  if (typeof value !== 'string') return undefined;
  if (pattern !== undefined && !new RegExp(pattern).test(value)) return `${value} does not match ${pattern}`;
  if (format === 'date-time' && !DATE_TIME.test(value)) return `${value} is no RFC 3339 time in UTC`;
  return undefined;
}
