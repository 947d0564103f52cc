// The page: finds the view of an address, asks the server how it does once a second, and for a
// token where the server wants one.

import { overview, setToken } from "./api.js";
import { h, say } from "./dom.js";
import { ModelView } from "./model.js";
import { OperationView } from "./operation.js";
import { StartView } from "./start.js";

const EVERY_MS = 1000;
const KEPT = 60; // polls that a sparkline shows

const place = document.getElementById("view");
const trouble = document.getElementById("trouble");
const state = document.getElementById("live");
const dialog = document.getElementById("token-dialog");
const field = document.getElementById("token");
const forget = document.getElementById("token-button");

const histories = new Map();
let view = null;
let known = null; // the last overview
let polling = false;
let timer = 0;
let tokens = 0; // that were given or forgotten

const app = {
  failed(error) {
    if (error.status === 401) askForToken(error.message);
  },
  // Calls a second between polls, the newest last.
  history(name) {
    return histories.get(name) ?? { rates: [] };
  },
};

function viewOf(hash) {
  const parts = hash.replace(/^#\/?/, "").split("/").map(decoded);
  const [kind, name, versions, version] = parts;
  if (kind === "operation") return new OperationView();
  if (kind === "models" && name) return new ModelView(name, versions === "versions" && version ? version : null, app);
  return new StartView(app);
}

// A hand may have written an address that is no encoding of anything.
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function show(focus) {
  view?.close();
  view = viewOf(location.hash);
  place.replaceChildren(view.element);
  document.title = `${view.title} \u2013 Forwardpass`;
  const isStart = view instanceof StartView;
  current("nav-models", isStart);
  current("nav-operation", view instanceof OperationView);
  if (known) view.poll(known);
  view.open();
  if (focus) {
    // A screen reader says where it is now; the top of the page is shown.
    view.heading.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function current(id, is) {
  const link = document.getElementById(id);
  if (is) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

async function poll() {
  clearTimeout(timer);
  if (polling || document.hidden || dialog.open) return;
  polling = true;
  const asked = tokens;
  try {
    const found = await overview();
    if (asked === tokens) live(found);
  } catch (error) {
    if (asked === tokens) lost(error);
  }
  polling = false;
  // What came for another token than there is now is not shown.
  if (!dialog.open) timer = setTimeout(poll, asked === tokens ? EVERY_MS : 0);
}

function live(found) {
  known = found;
  remember(known);
  trouble.hidden = true;
  say(state, "live");
  view.poll(known);
}

function lost(error) {
  say(state, "not live");
  if (error.status === 401) askForToken(error.message);
  else {
    say(trouble, `${error.message}. Trying again.`);
    trouble.hidden = false;
  }
}

function remember({ models }) {
  const now = performance.now();
  for (const { name, calls } of models) {
    const last = histories.get(name);
    if (!last) {
      histories.set(name, { now, calls, rates: [] });
      continue;
    }
    // A server that was started again counts from 0.
    const rate = (1000 * Math.max(0, calls - last.calls)) / Math.max(1, now - last.now);
    histories.set(name, { now, calls, rates: [...last.rates, rate].slice(-KEPT) });
  }
}

function askForToken(why) {
  if (dialog.open) return;
  say(document.getElementById("token-why"), why);
  field.value = "";
  dialog.showModal();
}

document.getElementById("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  changeToken(field.value.trim());
});
dialog.addEventListener("close", () => {
  field.value = "";
});
// Escape, too, is a cancel.
dialog.addEventListener("cancel", withoutToken);
document.getElementById("token-cancel").addEventListener("click", () => {
  dialog.close();
  withoutToken();
});

function withoutToken() {
  const again = h("button", { type: "button", class: "main", on: { click: () => askForToken("") } }, "Give a token");
  place.replaceChildren(h("h1", {}, "Who are you?"), h("p", {}, "This server shows its models to callers with a token."), again);
}

forget.addEventListener("click", () => changeToken(""));

function changeToken(text) {
  tokens += 1;
  known = null;
  setToken(text);
  forget.hidden = text === "";
  histories.clear();
  if (dialog.open) dialog.close();
  show(false);
  poll();
}

document.getElementById("skip").addEventListener("click", (event) => {
  // The part after # is the address of a view.
  event.preventDefault();
  place.focus();
});
addEventListener("hashchange", () => show(true));
document.addEventListener("visibilitychange", poll);
show(false);
poll();
