/** The live page: follows /api/v1/events/live and shows the latest events. All text goes in as text, never as markup. */

/** Rows shown; older ones go. */
const MAX_ROWS = 500;
/** Events that wait to be shown, also while paused; beyond, the oldest are left out and counted. */
const MAX_WAITING = 2000;
const INITIAL_EVENTS = 100;
const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 10_000;
const RATE_INTERVAL_MS = 1000;
const SHOWN_CHILDREN = 50;
const FILTERS = ['kind', 'namespace', 'workload', 'container', 'binary', 'text'];

const element = id => document.getElementById(id);
const rows = element('rows');

let socket;
let retryMs = RETRY_MIN_MS;
let retryTimer;
let lastTime;
let isPaused = false;
let waiting = [];
let isFrameAsked = false;
let lostCount = 0;
let arrivedCount = 0;
/** Ids of the events in the table and in `waiting`: a replay after a reconnect brings some again. */
let shownIds = new Set();

function filterQuery() {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(element('filters'))) if (value.trim() !== '') query.set(name, value.trim());
  return query;
}

/** Starts anew with the filters of the form. */
async function start() {
  const query = filterQuery();
  history.replaceState(null, '', query.size > 0 ? `?${query}` : location.pathname);
  clearRows();
  lastTime = undefined;
  retryMs = RETRY_MIN_MS;
  const fault = await faultOf(query);
  element('fault').hidden = fault === undefined;
  element('fault').textContent = fault ?? '';
  disconnect();
  if (fault === undefined) connect(query);
}

/** A WebSocket cannot tell why it was refused; a page of history can. */
async function faultOf(query) {
  try {
    const response = await fetch(`api/v1/events?${query}&limit=1`);
    return response.status === 400 ? (await response.json()).error.message : undefined;
  } catch {
    return undefined;
  }
}

function disconnect() {
  clearTimeout(retryTimer);
  if (socket) socket.onclose = socket.onmessage = null;
  socket?.close();
  socket = undefined;
}

function connect(query) {
  setState('connecting', 'connecting');
  const live = new URLSearchParams(query);
  live.set('batch', 'true');
  if (lastTime) live.set('from', lastTime);
  const url = new URL(`api/v1/events/live?${live}`, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  const opened = (socket = new WebSocket(url));
  opened.onopen = () => {
    retryMs = RETRY_MIN_MS;
    setState('live', 'live');
    if (!lastTime) void showRecent(query);
  };
  opened.onmessage = ({ data }) => {
    for (const line of data.split('\n')) if (line !== '') receive(JSON.parse(line));
  };
  opened.onclose = ({ reason }) => {
    setState('disconnected', `disconnected${reason ? `: ${reason}` : ''}`);
    retryTimer = setTimeout(connect, retryMs, query);
    retryMs = Math.min(retryMs * 2, RETRY_MAX_MS);
  };
}

/** What happened before the page was opened. */
async function showRecent(query) {
  const response = await fetch(`api/v1/events?${query}&limit=${INITIAL_EVENTS}`);
  if (!response.ok) return;
  const { events } = await response.json();
  for (const event of events.reverse()) receive(event);
}

function receive(event) {
  const { id, kind, time, loss } = event;
  if (id !== undefined) {
    if (shownIds.has(id)) return;
    shownIds.add(id);
  }
  arrivedCount++;
  if (kind === 'loss') {
    lostCount += loss?.count ?? 0;
    element('lost').hidden = false;
    element('lost').textContent = `${lostCount.toLocaleString()} lost`;
  }
  if (lastTime === undefined || time > lastTime) lastTime = time;
  waiting.push(event);
  if (waiting.length > MAX_WAITING) for (const left of waiting.splice(0, waiting.length - MAX_WAITING)) shownIds.delete(left.id);
  if (isPaused) element('pause').textContent = `Resume (${waiting.length}${waiting.length === MAX_WAITING ? '+' : ''})`;
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

function showWaiting() {
  if (waiting.length === 0) return;
  const latest = waiting.splice(0).sort((a, b) => (a.time < b.time ? -1 : 1));
  for (const left of latest.splice(0, Math.max(0, latest.length - MAX_ROWS))) shownIds.delete(left.id);
  rows.prepend(...latest.reverse().map(rowOf));
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
}

function rowOf(event) {
  const { id, kind, time, namespace, workload, pod, process, recorded } = event;
  const kindCell = make('td', {}, badge(kind, kind));
  if (recorded) kindCell.append(badge('recorded', 'recorded'));
  const place = pod?.name ?? workload;
  const row = make(
    'tr',
    { tabIndex: 0 },
    make('td', { title: time }, clock(time)),
    kindCell,
    make('td', { title: `${namespace}/${place}` }, make('span', { className: 'faint' }, namespace === '' ? '' : `${namespace}/`), place),
    make(
      'td',
      { title: process?.binary ?? '' },
      process?.binary ?? '',
      make('span', { className: 'faint' }, process ? ` ${process.pid}` : ''),
    ),
    make('td', {}, visible(summary(event))),
  );
  row.dataset.kind = kind;
  if (id !== undefined) row.dataset.id = id;
  row.onclick = () => void showDetails(event, row);
  row.onkeydown = ({ key }) => {
    if (key === 'Enter') void showDetails(event, row);
  };
  return row;
}

/** One line of what is particular to an event. */
function summary({ kind, process, exec, exit, loss, connect, accept, listen, close, destination }) {
  switch (kind) {
    case 'exec':
      return process ? process.arguments.slice(1).join(' ') : (exec?.raw_path ?? '');
    case 'exit':
      return `${ending(exit)} after ${duration(Number(exit.duration_ns))}`;
    case 'loss':
      return `${loss.count || 'an unknown number of'} events lost: ${loss.reason.replaceAll('_', ' ')}`;
    case 'listen':
      return address(listen.source_ip, listen.source_port);
    case 'connect':
    case 'accept':
    case 'close': {
      const it = connect ?? accept ?? close;
      const arrow = kind === 'accept' ? '←' : '→';
      const known = destination?.service ?? destination?.pod ?? destination?.node;
      const bytes = kind === 'close' ? `  ${size(it.bytes_sent)} out, ${size(it.bytes_received)} in` : '';
      const failure = it.error ? `  failed (errno ${it.error})` : '';
      return `${arrow} ${address(it.destination_ip, it.destination_port)}${known ? ` (${known})` : ''}${bytes}${failure}`;
    }
    default:
      return '';
  }
}

async function showDetails(event, row) {
  for (const selected of rows.querySelectorAll('[aria-selected]')) selected.removeAttribute('aria-selected');
  row.setAttribute('aria-selected', 'true');
  const { process, pod, container } = event;
  element('details').hidden = false;
  element('title').textContent = process?.binary ?? event.kind;
  const facts = {
    Time: event.time,
    Node: event.node,
    ...(process && {
      Process: `${process.pid}, uid ${process.uid}`,
      Arguments: process.arguments.map(quoted).join(' '),
      Directory: process.cwd,
      Started: process.start_time,
    }),
    ...(pod && { Pod: `${pod.namespace ?? ''}/${pod.name ?? pod.uid}` }),
    ...(container && { Container: `${container.name ?? ''} ${container.image ?? ''} ${container.id.slice(0, 12)}`.trim() }),
    ...(event.recorded && { Recorded: 'played from a capture' }),
  };
  element('facts').replaceChildren(
    ...Object.entries(facts).flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, visible(String(value)))]),
  );
  element('json').textContent = JSON.stringify(event, null, 2);
  element('tree').replaceChildren(make('li', { className: 'faint' }, process ? 'looking…' : 'no process'));
  if (!process) return;
  const tree = await fetchTree(process.exec_id);
  if (element('json').textContent.includes(process.exec_id)) showTree(tree ?? fromEvent(event));
}

async function fetchTree(execId) {
  try {
    const response = await fetch(`api/v1/processes/${encodeURIComponent(execId)}`);
    return response.ok ? await response.json() : undefined;
  } catch {
    return undefined;
  }
}

/** The tree as far as the event itself knows it. */
function fromEvent({ process, parent, ancestors = [] }) {
  return { process, children: [], ancestors: parent ? [parent, ...ancestors] : ancestors, complete: false };
}

function showTree(tree) {
  const top = make('ol', {});
  let list = top;
  for (const process of tree.ancestors.toReversed()) {
    const item = make('li', {}, processLine(process));
    list.append(item);
    list = make('ol', {});
    item.append(list);
  }
  list.append(treeItem(tree, true));
  if (!tree.complete) top.append(make('li', { className: 'faint' }, 'There may be more.'));
  element('tree').replaceChildren(...top.children);
}

function treeItem({ process, exit, children }, isHere = false) {
  const item = make('li', {}, processLine(process, exit, isHere));
  if (children.length === 0) return item;
  const list = make('ol', {}, ...children.slice(0, SHOWN_CHILDREN).map(child => treeItem(child)));
  if (children.length > SHOWN_CHILDREN) list.append(make('li', { className: 'faint' }, `and ${children.length - SHOWN_CHILDREN} more`));
  item.append(list);
  return item;
}

function processLine({ pid, binary, arguments: args }, exit, isHere = false) {
  const text = `${binary} ${(args ?? []).slice(1).map(quoted).join(' ')}`.trim();
  const line = make('span', isHere ? { className: 'here' } : {}, visible(text));
  const end = exit ? `, ${ending(exit.exit)}` : '';
  return make('span', {}, line, make('span', { className: 'faint' }, ` ${pid}${end}`));
}

function make(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function badge(text, kind) {
  const made = make('span', { className: kind === 'recorded' ? 'badge recorded' : 'badge' }, text);
  made.dataset.kind = kind;
  return made;
}

/** Control and direction characters made visible: a process chooses its own arguments. */
function visible(text) {
  return text.replaceAll(
    /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g,
    char => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function quoted(text) {
  return text !== '' && /^[\w./:=@%+,-]+$/.test(text) ? text : JSON.stringify(text);
}

function clock(time) {
  const date = new Date(time);
  return `${date.toLocaleTimeString('en-GB')}.${time.slice(20, 23)}`;
}

function ending({ signal, code }) {
  return signal ? `signal ${signal}` : `code ${code}`;
}

function duration(ns) {
  const ms = ns / 1e6;
  return ms < 1000 ? `${ms.toFixed(1)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function size(bytes) {
  return bytes < 1024 ? `${bytes} B` : bytes < 1024 ** 2 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
}

function address(ip, port) {
  return ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`;
}

function setState(state, text) {
  element('state').dataset.state = state;
  element('state').textContent = text;
}

element('filters').onsubmit = event => {
  event.preventDefault();
  void start();
};
element('pause').onclick = () => {
  isPaused = !isPaused;
  element('pause').setAttribute('aria-pressed', String(isPaused));
  element('pause').textContent = isPaused ? 'Resume' : 'Pause';
  if (!isPaused) showWaiting();
};
element('clear').onclick = clearRows;
element('close').onclick = () => (element('details').hidden = true);
setInterval(() => {
  element('rate').textContent = `${arrivedCount.toLocaleString()} events/s`;
  arrivedCount = 0;
}, RATE_INTERVAL_MS);

const given = new URLSearchParams(location.search);
for (const name of FILTERS) element('filters').elements[name].value = given.get(name) ?? '';
void start();
