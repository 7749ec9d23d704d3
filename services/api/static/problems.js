/** What `tidegate status` says is wrong, above the events: why they have no pods, for one, is not in them. */
import { element, make } from './elements.js';
import { printable } from './plain-text.js';
import { attempt, getJson } from './requests.js';

const INTERVAL_MS = 10_000;
const box = element('problems');

export function watchProblems() {
  void show();
  setInterval(() => {
    if (!document.hidden) void show();
  }, INTERVAL_MS);
}

async function show() {
  const { value } = await attempt(getJson('api/v1/status'));
  // That the API is away shows in the state of the feed.
  if (!value) return;
  const { problems } = value;
  box.hidden = problems.length === 0;
  box.querySelector('summary').textContent = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
  box.querySelector('ul').replaceChildren(...problems.map(problem => make('li', {}, printable(problem))));
}
