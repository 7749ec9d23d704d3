/** Requests to the API whose failures can be shown to people. */

const REQUEST_TIMEOUT_MS = 30_000;

/** @throws Error whose message is for people; `isFinal`: asking again is of no use */
export async function getJson(path, signal = new AbortController().signal) {
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.any([signal, AbortSignal.timeout(REQUEST_TIMEOUT_MS)]) });
    if (response.ok) return await response.json();
  } catch (cause) {
    throw new Error(cause.name === 'TimeoutError' ? 'the API does not answer' : 'the API cannot be reached', { cause });
  }
  const answer = await response.json().catch(() => undefined);
  const error = new Error(answer?.error?.message ?? `the API answered ${response.status}`);
  error.isFinal = response.status >= 400 && response.status < 500 && response.status !== 429;
  throw error;
}

export async function attempt(promise) {
  try {
    return { value: await promise };
  } catch (error) {
    return { error };
  }
}
