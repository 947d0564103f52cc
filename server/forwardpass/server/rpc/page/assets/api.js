// The server's JSON. A token stays in this module: never in the address, a cookie or storage.

import { written } from "./numbers.js";

let token = "";

class ServerError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status; // 0: nothing answered
  }
}

export function setToken(text) {
  token = text;
}

export function hasToken() {
  return token !== "";
}

export function overview() {
  return ask("/ui/api/overview");
}

export function describe(name, version) {
  return ask(place(name, version));
}

// Runs one row. inputs: by name, each nested as the server wants it, with its axis of rows.
// explain: OUTPUT:COLUMN, or an empty text.
export function run(name, version, inputs, explain = "") {
  return ask(`${place(name, version)}/run`, {
    method: "POST",
    body: written(explain ? { inputs, explain } : { inputs }),
    headers: { "Content-Type": "application/json" },
  });
}

function place(name, version) {
  const model = `/ui/api/models/${encodeURIComponent(name)}`;
  return version === null ? model : `${model}/versions/${encodeURIComponent(version)}`;
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  let body;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
    body = await response.json();
  } catch (error) {
    // A network error, or a body that is no JSON, as of a proxy in between.
    throw new ServerError(response?.status ?? 0, response ? `unexpected answer (${response.status})` : "the server does not answer");
  }
  if (!response.ok) throw new ServerError(response.status, body.error ?? `status ${response.status}`);
  return body;
}

// Sends what is the newest, one request at a time: values that came meanwhile replace one another.
// Each answer goes to `done` with the values it is for; `failed` gets an error in its place.
export function newestWins(send, done, failed) {
  let busy = false;
  let next = null;
  return async function ask(values) {
    next = { values };
    if (busy) return;
    busy = true;
    while (next !== null) {
      const { values: sent } = next;
      next = null;
      try {
        done(await send(sent), sent);
      } catch (error) {
        failed(error, sent);
      }
    }
    busy = false;
  };
}
