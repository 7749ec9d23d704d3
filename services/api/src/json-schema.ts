/** JSON Schema as fastify and OpenAPI take it: words for the few forms that parameters and answers have. Properties are required unless `Optional`. */

export type Schema = Readonly<Record<string, unknown>>;

export interface ObjectSchema extends Schema {
  readonly properties: Readonly<Record<string, Schema>>;
}

/** Marks a schema in the properties of an object; no part of the schema. */
const OPTIONAL = Symbol('optional');

const Optional = (schema: Schema): Schema => Object.defineProperty({ ...schema }, OPTIONAL, { value: true });

export const Type = {
  Optional,
  String: (more: Schema = {}): Schema => ({ type: 'string', ...more }),
  Integer: (more: Schema = {}): Schema => ({ type: 'integer', ...more }),
  Number: (more: Schema = {}): Schema => ({ type: 'number', ...more }),
  Boolean: (more: Schema = {}): Schema => ({ type: 'boolean', ...more }),
  Null: (): Schema => ({ type: 'null' }),
  Literal: (value: string | boolean, more: Schema = {}): Schema => ({ type: typeof value, const: value, ...more }),
  Enum: (values: readonly string[], more: Schema = {}): Schema => ({ type: 'string', enum: values, ...more }),
  Union: (schemas: readonly Schema[], more: Schema = {}): Schema => ({ anyOf: schemas, ...more }),
  Array: (items: Schema, more: Schema = {}): Schema => ({ type: 'array', items, ...more }),
  /** Any names, each with a value of the schema. */
  Record: (values: Schema): Schema => ({ type: 'object', additionalProperties: values }),
  Object(properties: Readonly<Record<string, Schema>>, more: Schema = {}): ObjectSchema {
    const required = Object.keys(properties).filter(name => !(OPTIONAL in properties[name]!));
    return { type: 'object', properties, ...(required.length > 0 && { required }), ...more };
  },
};
