/** The panel that shows all about one event, with the tree of its process. */
import { element, make, parts } from './elements.js';
import { eventSummary, exitSummary, processArguments, processCommand, processName } from './event-summary.js';
import { printableJson, quoted } from './plain-text.js';
import { attempt, getJson } from './requests.js';

const SHOWN_CHILDREN = 50;

let reading = new AbortController();

export async function showDetails(event) {
  const { process } = event;
  reading.abort();
  const { signal } = (reading = new AbortController());
  element('details').hidden = false;
  element('details').scrollTop = 0;
  element('title').textContent = process?.binary ? quoted(process.binary) : event.kind;
  element('facts').replaceChildren(
    ...Object.entries(facts(event)).flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, ...[value].flat())]),
  );
  element('json').textContent = printableJson(event, 2);
  element('tree').replaceChildren(make('li', { className: 'faint' }, process ? 'looking…' : 'no process'));
  if (!process) return;
  const { value, error } = await attempt(getJson(`api/v1/processes/${encodeURIComponent(process.exec_id)}`, signal));
  if (signal.aborted) return;
  showTree(value ?? fromEvent(event));
  if (error) element('tree').append(make('li', { className: 'bad' }, `More of the tree could not be read: ${error.message}`));
}

export function hideDetails() {
  reading.abort();
  element('details').hidden = true;
}

function facts(event) {
  const { kind, process, parent, pod, container } = event;
  return {
    Time: event.time,
    Node: event.node,
    ...(process && {
      Process: `${process.pid}, uid ${process.uid}`,
      ...(parent && { Parent: processName(parent) }),
      Arguments: processArguments(process),
      Directory: quoted(process.cwd),
      Started: process.start_time,
      ...(process.entered && { Entered: `${process.entered}: ${(process.entry_arguments ?? []).map(word => quoted(word)).join(' ')}` }),
    }),
    ...(kind !== 'exec' && { Details: parts(eventSummary(event)) }),
    ...(pod && { Pod: pod.name === undefined ? `uid ${quoted(pod.uid)}` : quoted(`${pod.namespace}/${pod.name}`) }),
    ...(container && {
      Container: [container.name, container.image, container.id.slice(0, 12)]
        .filter(Boolean)
        .map(name => quoted(name))
        .join(' '),
    }),
    ...(event.recorded && { Recorded: 'played from a capture' }),
  };
}

/** The tree as far as the event itself knows it. */
function fromEvent({ process, parent, ancestors = [], ancestors_cut }) {
  return { process, ancestors_cut, children: [], ancestors: parent ? [parent, ...ancestors] : ancestors, complete: true };
}

function showTree(tree) {
  const top = make('ol', {});
  let list = top;
  if (tree.ancestors_cut) list = append(list, make('span', { className: 'faint' }, 'further ancestors, left out'));
  for (const process of tree.ancestors.toReversed()) list = append(list, processLine(process));
  list.append(treeItem(tree, true));
  if (!tree.complete || tree.processes_left_out) top.append(make('li', { className: 'faint' }, 'There may be more.'));
  element('tree').replaceChildren(...top.children);
}

/** Puts a line into the list; returns a list below it. */
function append(list, line) {
  const below = make('ol', {});
  list.append(make('li', {}, line, below));
  return below;
}

function treeItem({ process, exit, children }, isHere = false) {
  const item = make('li', {}, processLine(process, exit, isHere));
  if (children.length === 0) return item;
  const list = make('ol', {}, ...children.slice(0, SHOWN_CHILDREN).map(child => treeItem(child)));
  if (children.length > SHOWN_CHILDREN) list.append(make('li', { className: 'faint' }, `and ${children.length - SHOWN_CHILDREN} more`));
  item.append(list);
  return item;
}

function processLine(process, exit, isHere = false) {
  const command = make('bdi', isHere ? { className: 'here' } : {}, processCommand(process));
  const end = exit ? [', ', ...parts(exitSummary(exit.exit))] : [];
  return make('span', {}, command, make('span', { className: 'faint' }, ` ${process.pid}`, ...end));
}
