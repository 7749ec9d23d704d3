/** What `tidegate status` says is wrong, above the events: why they have no pods, for one, is not in them. */
import { element, make } from './elements.js';
import { printable } from './plain-text.js';

const INTERVAL_MS = 10_000;
const box = element('problems');

export function watchProblems() {
  show();
  setInterval(() => {
    if (!document.hidden) show();
  }, INTERVAL_MS);
}

async function show() {
  let problems;
  try {
    const response = await fetch('api/v1/status');
    if (!response.ok) return;
    ({ problems } = await response.json());
  } catch {
    return; // That the API is away shows in the state of the feed.
  }
  box.hidden = problems.length === 0;
  box.querySelector('summary').textContent = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
  box.querySelector('ul').replaceChildren(...problems.map(problem => make('li', {}, printable(problem))));
}
