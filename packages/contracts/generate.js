/**
 * Makes generated/ from the schema: codecs, the JSON of each kind's own fields, and the numbers of its fields and enums for code that reads or writes the wire format
 * itself, as a module for TypeScript and as a header for native/. `npm run generate` runs it, and scripts/setup.js when the schema or the generator is newer than what was made.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';
import { pbjs, pbts } from 'protobufjs-cli';
import { detailsDeclarationsOf, detailsModuleOf } from './generator/event-details.js';
import { exactCodecs } from './generator/exact-codecs.js';

const FOLDER = fileURLToPath(new URL('.', import.meta.url));
const SCHEMA = 'proto/tidegate/v1/events.proto';
const CODEC_OPTIONS =
  '--target static-module --wrap esm --force-number --no-create --no-convert --no-verify --no-delimited --no-typeurl --no-service'.split(
    ' ',
  );
/** Fields with a tag of one byte: those that every batch has, and tables that all versions know. */
const MAX_HEADER_FIELD = 15;
const GENERATED = `Generated from ${SCHEMA}: edit that.`;

/**
 * @typedef {object} Numbers what a schema numbers
 * @property {{ name: string, fields: { name: string, number: number }[] }[]} messages fields as the schema spells them, in its order
 * @property {{ name: string, values: { name: string, number: number }[] }[]} enums values without the enum's name before them
 * @property {number} detailBase the field of Event that holds an event's detail is this plus the kind's number
 * @property {[number, number]} tables first and last field of EventBatch that are for tables of a newer schema
 */

/**
 * @param {string} text a .proto file of package tidegate.v1
 * @returns {Numbers}
 * @throws {Error} when the schema breaks a rule that readers of the wire format rely on
 */
export function numbersOf(text) {
  const schema = protobuf.parse(text, { keepCase: true }).root.lookup('tidegate.v1');
  const types = schema.nestedArray;
  const enums = types
    .filter(type => type instanceof protobuf.Enum)
    .map(({ name, values }) => ({
      name,
      values: Object.entries(values).map(([value, number]) => ({ name: value.slice(constantCase(name).length + 1), number })),
    }));
  const messages = types
    .filter(type => type instanceof protobuf.Type)
    .map(({ name, fieldsArray }) => ({ name, fields: fieldsArray.map(field => ({ name: field.name, number: field.id })) }));
  return { messages, enums, detailBase: detailBaseOf(messages, enums), tables: tablesOf(schema) };
}

/** What is reserved in EventBatch, with the tables that have taken a number of it since. */
function tablesOf(schema) {
  const { reserved, fieldsArray } = schema.lookupType('EventBatch');
  const last = Math.max(...reserved.map(([, end]) => end));
  const tables = fieldsArray.filter(field => field.id > MAX_HEADER_FIELD && field.id <= last);
  const isTable = field => field.repeated && field.resolve().resolvedType?.fieldsById?.[1]?.name === 'id';
  const faults = tables.filter(field => !isTable(field));
  if (faults.length > 0) {
    const each = ({ name, id }) =>
      `EventBatch.${name}: expected a repeated message that begins with id = 1, as fields ${MAX_HEADER_FIELD + 1} to ${last} are for tables, got ${id}`;
    throw new Error(`fields for tables\n${faults.map(each).join('\n')}`);
  }
  return [MAX_HEADER_FIELD + 1, last];
}

/** A kind and the field of its detail have the same name, and their numbers differ by the same for all. */
function detailBaseOf(messages, enums) {
  const kinds = new Map(enums.find(each => each.name === 'Kind').values.map(({ name, number }) => [name.toLowerCase(), number]));
  const { fields } = messages.find(each => each.name === 'Event');
  const details = fields.filter(field => kinds.has(field.name));
  const base = details[0].number - kinds.get(details[0].name);
  const faults = details.filter(({ name, number }) => number !== base + kinds.get(name));
  if (faults.length > 0) {
    const each = ({ name, number }) => `Event.${name}: expected ${base + kinds.get(name)} (${base} + its kind), got ${number}`;
    throw new Error(`field numbers of details\n${faults.map(each).join('\n')}`);
  }
  return base;
}

/** @param {Numbers} numbers */
export function moduleOf({ messages, detailBase, tables }) {
  const objects = messages.map(({ name, fields }) => {
    const lines = fields.map(field => `  ${protobuf.util.jsonName(field.name)}: ${field.number},\n`);
    return `export const ${name}Field = {\n${lines.join('')}};\n`;
  });
  const constants = [
    ['DETAIL_BASE', detailBase],
    ['FIRST_TABLE_FIELD', tables[0]],
    ['LAST_TABLE_FIELD', tables[1]],
  ];
  const lines = constants.map(([name, number]) => `export const ${name} = ${number};\n`);
  return `// ${GENERATED}\n\n${lines.join('')}\n${objects.join('\n')}`;
}

/** @param {Numbers} numbers */
export function declarationsOf({ messages, detailBase, tables }) {
  const objects = messages.map(({ name, fields }) => {
    const lines = fields.map(field => `  readonly ${protobuf.util.jsonName(field.name)}: ${field.number};\n`);
    return `/** Field numbers of ${name}. */\nexport declare const ${name}Field: {\n${lines.join('')}};\n`;
  });
  return `// ${GENERATED}

/** The field of Event that holds an event's detail is this plus the kind's number. */
export declare const DETAIL_BASE: ${detailBase};
/** Fields of EventBatch from the first to the last are tables: each entry begins with its id. */
export declare const FIRST_TABLE_FIELD: ${tables[0]};
export declare const LAST_TABLE_FIELD: ${tables[1]};

${objects.join('\n')}`;
}

/** @param {Numbers} numbers */
export function headerOf({ messages, enums, detailBase }) {
  const structs = messages.map(({ name, fields }) => {
    const lines = fields.map(field => `  static constexpr uint32_t ${field.name.toUpperCase()} = ${field.number};\n`);
    return `struct ${name} {\n${lines.join('')}};\n`;
  });
  const enumClasses = enums.map(({ name, values }) => {
    const lines = values.map(value => `  ${value.name} = ${value.number},\n`);
    return `enum class ${name} : uint16_t {\n${lines.join('')}};\n`;
  });
  return `// ${GENERATED}
#pragma once

#include <cstdint>

// Numbers of the schema's enums.
namespace tidegate::schema {

${enumClasses.join('\n')}
}  // namespace tidegate::schema

// Field numbers of the schema's messages.
namespace tidegate::field {

// The field of Event that holds an event's detail is this plus the kind's number.
constexpr uint32_t DETAIL_BASE = ${detailBase};

${structs.join('\n')}
}  // namespace tidegate::field
`;
}

/** ProcessOrigin: PROCESS_ORIGIN, which the values of the enum begin with. */
function constantCase(name) {
  return name.replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase();
}

async function generate() {
  const schema = join(FOLDER, SCHEMA);
  const output = name => join(FOLDER, 'generated', name);
  const text = readFileSync(schema, 'utf8');
  const numbers = numbersOf(text);
  mkdirSync(output(''), { recursive: true });
  const types = protobuf.parse(text, { keepCase: true, alternateCommentMode: true }).root.resolveAll().lookup('tidegate.v1');
  const messages = types.nestedArray.filter(type => type instanceof protobuf.Type);
  const codecs = exactCodecs(await outputOf(done => pbjs.main([...CODEC_OPTIONS, schema], done)), messages);
  writeFileSync(output('events.js'), codecs);
  writeFileSync(output('events.d.ts'), await outputOf(done => pbts.process(codecs, [], done)));
  writeFileSync(output('details.js'), detailsModuleOf(types));
  writeFileSync(output('details.d.ts'), detailsDeclarationsOf(types));
  writeFileSync(output('numbers.js'), moduleOf(numbers));
  writeFileSync(output('numbers.d.ts'), declarationsOf(numbers));
  writeFileSync(output('numbers.h'), headerOf(numbers));
}

/** @returns {Promise<string>} what a tool of protobufjs-cli wrote */
function outputOf(run) {
  return new Promise((resolve, reject) => {
    run((error, text) => {
      if (error instanceof Error) reject(error);
      else resolve(text);
    });
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await generate();
