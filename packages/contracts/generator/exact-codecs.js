/** Codecs as pbjs writes them, except that 64-bit fields marked [jstype = JS_STRING] are read and written exactly, by what src/protobuf-numbers.ts adds to protobufjs. */
import protobuf from 'protobufjs';

const WIDE_TYPES = new Set(['int64', 'uint64', 'sint64', 'fixed64', 'sfixed64']);

/** Whether a field can pass 2^53. */
export function isExact(field) {
  return WIDE_TYPES.has(field.type) && field.options?.jstype === 'JS_STRING';
}

/**
 * @param {string} text what pbjs wrote
 * @param {import('protobufjs').Type[]} messages of the schema, names as it spells them
 * @returns {string} the same with other readers, writers and types for the exact fields
 * @throws {Error} when pbjs wrote something else than is looked for
 */
export function exactCodecs(text, messages) {
  for (const message of messages) {
    const exact = message.fieldsArray.filter(isExact);
    if (exact.length === 0) continue;
    const begin = text.indexOf(`v1.${message.name} = (function() {`);
    const end = text.indexOf(`return ${message.name};\n        })();`, begin);
    if (begin < 0 || end < 0) throw new Error(`pbjs wrote no ${message.name}`);
    let body = text.slice(begin, end);
    for (const { name, type } of exact) {
      const property = protobuf.util.jsonName(name);
      for (const [pattern, replacement] of [
        [new RegExp(`@property \\{number\\|null\\} \\[${property}\\]`), `@property {number|bigint|null} [${property}]`],
        [new RegExp(`@member \\{number(\\|null\\|undefined)?\\} ${property}\\n`), `@member {number|bigint$1} ${property}\n`],
        [new RegExp(`\\.${type}\\(message\\.${property}\\)`), `.${type}Exact(message.${property})`],
        // An optional field is assigned as it is read, any other looked at first.
        [
          new RegExp(
            `(?<=message\\.${property} = )reader\\.${type}\\(\\)|reader\\.${type}\\(\\)(?=[^\\n]*\\n\\s*message\\.${property} = value)`,
          ),
          `reader.${type}Exact()`,
        ],
      ]) {
        if (!pattern.test(body)) throw new Error(`pbjs wrote nothing like ${pattern} for ${message.name}.${name}`);
        body = body.replace(pattern, replacement);
      }
    }
    text = text.slice(0, begin) + body + text.slice(end);
  }
  return text;
}
