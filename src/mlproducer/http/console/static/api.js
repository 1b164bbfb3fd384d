// Calls to the service. Who is signed in sends a cookie by itself; what changes something also brings the token.

const state = { csrf: null };

/** An error of the service, as RFC 9457 has it: `detail` says what is wrong. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function remember(session) {
  state.csrf = session.csrf ?? null;
}

export async function request(method, path, body, signal) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET") {
    if (state.csrf) headers["X-CSRF-Token"] = state.csrf;
    const name = operator();
    if (name) headers["X-Operator"] = name;
  }
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), credentials: "same-origin", signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "The service does not answer. Is it running?");
  }
  if (response.ok) return response;
  if (response.status === 401 && path !== "console/session") dispatchEvent(new Event("signed-out"));
  throw new Problem(response.status, await detailOf(response));
}

export async function call(method, path, body) {
  const response = await request(method, path, body);
  return response.status === 204 ? null : response.json();
}

/** A path below /api/ml with a query; empty values are left out. */
export function api(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  return `api/ml/${path}${text ? `?${text}` : ""}`;
}

/** Lines of NDJSON, as they come. */
export async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    held += value ?? "";
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
    if (done) return;
  }
}

/** The name that audits show beside the key; for this tab only. */
export function operator(name) {
  if (name !== undefined) sessionStorage.setItem("operator", name);
  return sessionStorage.getItem("operator") ?? "";
}

async function detailOf(response) {
  try {
    const problem = await response.json();
    return problem.detail ?? problem.title ?? `HTTP ${response.status}`;
  } catch {
    return `HTTP ${response.status}`;
  }
}
