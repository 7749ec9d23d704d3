/** Follows events with one filter, until stopped: what happened recently, then what happens, also after the connection was lost. */
import { attempt, getJson } from './requests.js';

const INITIAL_EVENTS = 100;
const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 10_000;

/**
 * @param query URLSearchParams of the filter
 * @param onEvent called with an event, and whether it happens just now
 * @param onState called with `connecting`, `live`, `disconnected` or `refused`, and why
 * @param onFault called with what the user has to know, or undefined when there is nothing any more
 * @returns a function that stops it; nothing is called afterwards
 */
export function follow(query, { onEvent, onState, onFault }) {
  const stopped = new AbortController();
  let retryMs = RETRY_MIN_MS;
  let retryTimer;
  let socket;
  /** Names what comes next; the feed sends it behind the events of a frame. */
  let cursor;
  let wasOpen = false;
  let isAccepted = false;

  async function connect() {
    onState('connecting');
    // A WebSocket cannot tell why it was refused; a page of history can.
    const refusal = isAccepted ? undefined : await attempt(readEvents(query, 1, stopped.signal));
    if (stopped.signal.aborted) return;
    if (refusal?.error?.isFinal) {
      onFault(refusal.error.message);
      onState('refused');
    } else if (refusal?.error) retryLater(refusal.error.message);
    else {
      isAccepted = true;
      openSocket();
    }
  }

  function openSocket() {
    const live = new URLSearchParams(query);
    live.set('cursors', 'true');
    live.set('pace', 'live');
    if (cursor) live.set('cursor', cursor);
    const url = new URL(`api/v1/events/live?${live}`, location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    socket = new WebSocket(url);
    socket.onopen = () => {
      retryMs = RETRY_MIN_MS;
      onState('live');
      onFault(undefined);
      if (!wasOpen) void showRecent();
      wasOpen = true;
    };
    socket.onmessage = ({ data }) => {
      for (const line of data.split('\n')) if (line !== '') receive(JSON.parse(line));
    };
    socket.onclose = ({ reason }) => retryLater(reason);
  }

  /** What happened before the page was opened; asked for when the feed is open, so that nothing falls in between. */
  async function showRecent() {
    const { value, error } = await attempt(readEvents(query, INITIAL_EVENTS, stopped.signal));
    if (stopped.signal.aborted) return;
    if (error) onFault(`Earlier events could not be read, only new ones are shown: ${error.message}`);
    else for (const event of value.reverse()) onEvent(event, false);
  }

  function receive(said) {
    if ('cursor' in said) cursor = said.cursor;
    else onEvent(said, true);
  }

  function retryLater(reason) {
    onState('disconnected', reason);
    retryTimer = setTimeout(() => void connect(), retryMs);
    retryMs = Math.min(retryMs * 2, RETRY_MAX_MS);
  }

  void connect();
  return () => {
    stopped.abort();
    clearTimeout(retryTimer);
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    socket?.close();
  };
}

async function readEvents(query, limit, signal) {
  return (await getJson(`api/v1/events?${query}&limit=${limit}`, signal)).events;
}
