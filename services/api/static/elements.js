/** Elements of the page. Text goes in as text, never as markup. */

export const element = id => document.getElementById(id);

export function make(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Pieces of an event's line; each keeps its direction of writing to itself. */
export function parts(pieces) {
  return pieces.map(({ text, tone }) => make('bdi', tone === undefined ? {} : { className: tone }, text));
}
