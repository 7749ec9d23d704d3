/** The live page: follows /api/v1/events/live and shows the latest events. */
import { hideDetails, showDetails } from './details.js';
import { element, make, parts } from './elements.js';
import { eventOrigin, eventSummary, processName } from './event-summary.js';
import { follow } from './feed.js';
import { quoted } from './plain-text.js';
import { watchProblems } from './problems.js';

/** Rows shown; older ones go. */
const MAX_ROWS = 500;
/** Events that wait to be shown, also while paused; beyond, the oldest are left out and counted. */
const MAX_WAITING = 2000;
const RATE_INTERVAL_MS = 1000;
const NO_EVENT = 'Waiting for events. Run a program on this machine and it shows up here.';
const NO_MATCH = 'No event matches so far.';
const FILTERS = ['kind', 'namespace', 'workload', 'container', 'entered', 'binary', 'text'];

const rows = element('rows');

let stop = () => undefined;
let isPaused = false;
let waiting = [];
let isFrameAsked = false;
let lostCount = 0;
let arrivedCount = 0;
/** Ids of the events in the table and in `waiting`: what happened just before the page was opened may come from the history and from the feed. */
let shownIds = new Set();

/** Starts anew with the filters of the form. */
function start() {
  stop();
  const query = filterQuery();
  history.replaceState(null, '', query.size > 0 ? `?${query}` : location.pathname);
  clearRows();
  element('empty').textContent = query.size > 0 ? NO_MATCH : NO_EVENT;
  setPaused(false);
  showFault(undefined);
  stop = follow(query, { onEvent: receive, onState: showState, onFault: showFault });
}

function filterQuery() {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(element('filters'))) if (value.trim() !== '') query.set(name, value.trim());
  return query;
}

function receive(event, isNew) {
  const { id, kind, loss } = event;
  if (id !== undefined) {
    if (shownIds.has(id)) return;
    shownIds.add(id);
  }
  if (isNew) arrivedCount++;
  if (kind === 'loss') {
    lostCount += loss?.count ?? 0;
    element('lost').hidden = false;
    element('lost').textContent = `${lostCount.toLocaleString()} lost`;
  }
  waiting.push(event);
  if (waiting.length > MAX_WAITING) for (const left of waiting.splice(0, waiting.length - MAX_WAITING)) shownIds.delete(left.id);
  if (isPaused) showPaused();
  else askFrame();
}

function askFrame() {
  if (isFrameAsked) return;
  isFrameAsked = true;
  requestAnimationFrame(() => {
    isFrameAsked = false;
    if (!isPaused) showWaiting();
  });
}

/** Newest first; what comes late goes where it belongs. */
function showWaiting() {
  if (waiting.length === 0) return;
  const latest = waiting.splice(0).sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
  for (const left of latest.splice(0, Math.max(0, latest.length - MAX_ROWS))) shownIds.delete(left.id);
  let below = rows.firstElementChild;
  for (const event of latest.reverse()) {
    while (below && below.dataset.time > event.time) below = below.nextElementSibling;
    rows.insertBefore(rowOf(event), below);
  }
  while (rows.childElementCount > MAX_ROWS) {
    shownIds.delete(rows.lastElementChild.dataset.id);
    rows.lastElementChild.remove();
  }
  element('empty').hidden = true;
}

function clearRows() {
  rows.replaceChildren();
  waiting = [];
  shownIds = new Set();
  lostCount = 0;
  element('lost').hidden = true;
  element('empty').hidden = false;
  showPaused();
}

function rowOf(event) {
  const { id, kind, time, process, recorded } = event;
  const kindCell = make('td', { className: 'kind' }, badge(kind, kind));
  if (recorded) kindCell.append(badge('recorded', 'recorded'));
  const row = make(
    'tr',
    { tabIndex: 0 },
    make('td', { className: 'time', title: time }, clock(time)),
    kindCell,
    textCell('place', [{ text: eventOrigin(event) }]),
    textCell('process', [{ text: process ? processName(process) : '' }], process ? quoted(process.binary) : ''),
    textCell('what', eventSummary(event)),
  );
  row.dataset.kind = kind;
  row.dataset.time = time;
  if (id !== undefined) row.dataset.id = id;
  row.onclick = () => select(event, row);
  row.onkeydown = ({ key }) => {
    if (key === 'Enter') select(event, row);
  };
  return row;
}

/** Cut off where it is too long; the whole of it is its title. */
function textCell(className, pieces, title = pieces.map(({ text }) => text).join('')) {
  return make('td', { className, title }, ...parts(pieces));
}

function select(event, row) {
  for (const selected of rows.querySelectorAll('[aria-selected]')) selected.removeAttribute('aria-selected');
  row.setAttribute('aria-selected', 'true');
  void showDetails(event);
  // The panel takes room from the table, which may be laid out anew.
  row.scrollIntoView({ block: 'nearest' });
}

function badge(text, kind) {
  const made = make('span', { className: kind === 'recorded' ? 'badge recorded' : 'badge' }, text);
  made.dataset.kind = kind;
  return made;
}

function clock(time) {
  const date = new Date(time);
  return `${date.toLocaleTimeString('en-GB')}.${time.slice(20, 23)}`;
}

function showState(state, reason) {
  element('state').dataset.state = state;
  element('state').textContent = reason ? `${state}: ${reason}` : state;
  element('empty').hidden = rows.childElementCount > 0 || state === 'refused';
}

function showFault(fault) {
  element('fault').hidden = fault === undefined;
  element('fault').textContent = fault ?? '';
}

function setPaused(value) {
  isPaused = value;
  element('pause').setAttribute('aria-pressed', String(isPaused));
  showPaused();
  if (!isPaused) showWaiting();
}

function showPaused() {
  const count = waiting.length === 0 ? '' : ` (${waiting.length}${waiting.length === MAX_WAITING ? '+' : ''})`;
  element('pause').textContent = isPaused ? `Resume${count}` : 'Pause';
}

element('filters').onsubmit = event => {
  event.preventDefault();
  start();
};
element('pause').onclick = () => setPaused(!isPaused);
element('clear').onclick = clearRows;
element('close').onclick = hideDetails;
document.onkeydown = ({ key }) => {
  if (key === 'Escape') hideDetails();
};
setInterval(() => {
  element('rate').textContent = `${arrivedCount.toLocaleString()} events/s`;
  arrivedCount = 0;
}, RATE_INTERVAL_MS);

const given = new URLSearchParams(location.search);
for (const name of FILTERS) element('filters').elements[name].value = given.get(name) ?? '';
start();
watchProblems();
