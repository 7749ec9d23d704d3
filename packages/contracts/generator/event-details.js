/** Makes of the schema the JSON of each kind's own fields, its types, and its description for OpenAPI with the schema's comments. */
import protobuf from 'protobufjs';
import { isExact } from './exact-codecs.js';

const { jsonName } = protobuf.util;

/** @param {import('protobufjs').Namespace} schema */
export function detailsModuleOf(schema) {
  const { details, reachable } = detailsOf(schema);
  const functions = reachable.map(type => (type instanceof protobuf.Enum ? enumFunction(type) : messageFunction(type)));
  const table = new Map(details.map(({ name, resolvedType }) => [name, functionName(resolvedType)]));
  const schemas = Object.fromEntries(details.map(field => [field.name, jsonSchema(field.resolvedType)]));
  return `${functions.join('\n')}
export const detailJson = { ${[...table].map(([name, call]) => `${name}: ${call}`).join(', ')} };
export const detailSchemas = ${JSON.stringify(schemas, null, 2)};
`;
}

/** @param {import('protobufjs').Namespace} schema */
export function detailsDeclarationsOf(schema) {
  const { details, reachable } = detailsOf(schema);
  const interfaces = reachable.filter(type => type instanceof protobuf.Type).map(interfaceOf);
  const properties = (make, end) => details.map(field => `  ${field.name}${end} ${make(field.resolvedType)};`).join('\n');
  return `import type { tidegate } from './events.js';

${interfaces.join('\n')}
/** The own fields of each kind, by the kind's name. */
export interface DetailsJson {
${properties(type => `${type.name}Json`, ':')}
}
/** Makes the JSON of a kind's own fields. */
export const detailJson: {
${properties(type => `(message: tidegate.v1.${type.name}.$Properties) => ${type.name}Json`, ':')}
};
/** JSON schema of each kind's own fields. */
export const detailSchemas: Record<keyof DetailsJson, { type: 'object'; properties: Record<string, object>; required: string[] }>;
`;
}

/** The details of Event, and all types that they hold. */
function detailsOf(schema) {
  const details = schema.lookupType('Event').oneofs.detail.fieldsArray;
  const found = new Set(details.map(field => field.resolvedType));
  for (const type of found) for (const { resolvedType } of type.fieldsArray ?? []) if (resolvedType) found.add(resolvedType);
  return { details, reachable: [...found] };
}

function functionName({ name }) {
  return `${name[0].toLowerCase()}${name.slice(1)}Json`;
}

/** KIND_EXEC is `exec`; a number that the schema does not have is its decimal text. */
function enumFunction(type) {
  return `const ${type.name} = ${JSON.stringify(Object.fromEntries(enumNames(type)))};
function ${functionName(type)}(number) {
  return ${type.name}[number] ?? String(number);
}`;
}

function enumNames(type) {
  const prefix = `${type.name.replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase()}_`;
  return Object.entries(type.values).map(([name, number]) => [number, name.replace(prefix, '').toLowerCase()]);
}

/** Straight-line code. A field that has no presence is always there; others are where they are set. */
function messageFunction(type) {
  const lines = type.fieldsArray.map(field => {
    const value = `message.${jsonName(field.name)}`;
    const json = `json.${field.name} = `;
    if (field.map && convert(field, 'each') !== 'each') throw new Error(`${type.name}.${field.name}: no JSON is made of such a map yet`);
    if (field.map) return `${json}${value} ?? {};`;
    if (field.repeated) return `${json}(${value} ?? []).map(each => ${convert(field, 'each')});`;
    if (hasPresence(field)) return `if (${value} != null) ${json}${convert(field, value)};`;
    return `${json}${convert(field, `${value} ?? ${zero(field)}`)};`;
  });
  return `function ${functionName(type)}(message) {
  const json = {};
  ${lines.join('\n  ')}
  return json;
}`;
}

function hasPresence(field) {
  return field.resolvedType instanceof protobuf.Type || field.partOf !== null;
}

function zero({ type, resolvedType }) {
  if (resolvedType) return '0';
  return { string: "''", bool: 'false', bytes: 'new Uint8Array()' }[type] ?? '0';
}

function convert(field, value) {
  if (field.resolvedType) return `${functionName(field.resolvedType)}(${value})`;
  if (field.type === 'bytes') return `Buffer.from(${value}).toString('base64')`;
  return isExact(field) ? `String(${value})` : value;
}

function jsonSchema(type) {
  const fields = type.fieldsArray;
  return {
    type: 'object',
    ...described(type.comment),
    properties: Object.fromEntries(fields.map(field => [field.name, fieldSchema(field)])),
    required: fields.filter(field => field.map || field.repeated || !hasPresence(field)).map(field => field.name),
  };
}

function fieldSchema(field) {
  const value = valueSchema(field);
  const text = described(field.comment);
  if (field.map) return { type: 'object', additionalProperties: value, ...text };
  return field.repeated ? { type: 'array', items: value, ...text } : { ...value, ...text };
}

function valueSchema(field) {
  const { type, resolvedType } = field;
  if (resolvedType instanceof protobuf.Enum)
    return {
      type: 'string',
      description: `One of ${enumNames(resolvedType)
        .map(([, name]) => name)
        .join(', ')}.`,
    };
  if (resolvedType) return jsonSchema(resolvedType);
  if (type === 'bool') return { type: 'boolean' };
  if (type === 'string') return { type: 'string' };
  if (type === 'bytes') return { type: 'string', contentEncoding: 'base64' };
  if (isExact(field)) return { type: 'string', pattern: type.startsWith('u') || type === 'fixed64' ? '^\\d{1,20}$' : '^-?\\d{1,19}$' };
  return { type: 'integer' };
}

function described(comment) {
  return comment ? { description: comment.replaceAll(/\s+/g, ' ') } : {};
}

function interfaceOf(type) {
  const lines = type.fieldsArray.map(field => {
    const isOptional = !field.map && !field.repeated && hasPresence(field);
    const comment = field.comment ? `  /** ${field.comment.replaceAll(/\s+/g, ' ')} */\n` : '';
    return `${comment}  ${field.name}${isOptional ? '?' : ''}: ${fieldType(field)};`;
  });
  return `export interface ${type.name}Json {\n${lines.join('\n')}\n}`;
}

function fieldType(field) {
  const { type, resolvedType } = field;
  const value =
    resolvedType instanceof protobuf.Type
      ? `${resolvedType.name}Json`
      : resolvedType || type === 'string' || type === 'bytes' || isExact(field)
        ? 'string'
        : type === 'bool'
          ? 'boolean'
          : 'number';
  if (field.map) return `Record<string, ${value}>`;
  return field.repeated ? `${value}[]` : value;
}
