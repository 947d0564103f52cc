// How the server does: what waits, what runs together, what failed, memory, callers.

import { hasToken } from "./api.js";
import { h, s, say, table } from "./dom.js";
import { bytes, count, duration, milliseconds } from "./numbers.js";

export class OperationView {
  constructor() {
    this.title = "Operation";
    this.heading = h("h1", { tabindex: -1 }, "Operation");
    this.subtitle = h("p", { class: "faint" });
    this.tiles = new Map();
    this.tileList = h("dl", { class: "tiles" });
    this.models = h("div");
    this.batches = h("div", { class: "batches" });
    this.callers = h("div");
    const section = (title, ...parts) => h("section", { class: "panel" }, h("h2", {}, title), ...parts);
    this.element = h(
      "div",
      {},
      h("div", { class: "heading" }, this.heading, this.subtitle),
      this.tileList,
      section("Models", this.models),
      section("Rows that ran together", h("p", { class: "faint" }, "Runs since the start, by their number of rows."), this.batches),
      section("Callers", this.callers)
    );
  }

  open() {}

  close() {}

  poll({ server, models, process, callers }) {
    say(this.subtitle, `${server.name} ${server.version}, up for ${duration(server.uptime_s)}`);
    this.tile("memory", bytes(process.memory_bytes));
    this.tile("connections", count(process.connections));
    this.tile("calls in flight", count(process.calls_in_flight));
    this.tile("calls waiting", count(process.waiting_calls));
    this.tile("calls shed", count(process.shed_calls));
    this.tile("runs of this page", count(process.page_calls));
    const rows = models.map((model) => [
      model.name,
      count(model.calls),
      count(model.waiting),
      milliseconds(model.p50_ms),
      milliseconds(model.p99_ms),
      errors(model.errors),
    ]);
    refill(this.models, "Models and their calls", ["model", "calls", "waiting", "p50", "p99", "errors"], rows);
    const ran = models.filter(({ batches }) => Object.keys(batches).length);
    this.batches.replaceChildren(...(ran.length ? ran.map(batchesOf) : [h("p", { class: "faint" }, "No run yet.")]));
    if (callers.length) refill(this.callers, "Callers and their calls", ["caller", "calls"], callers.map(({ name, calls }) => [name, count(calls)]));
    else this.callers.replaceChildren(h("p", { class: "faint" }, hasToken() ? "No call has ended since this page was opened first." : "Without tokens the server does not know who calls."));
  }

  tile(name, text) {
    if (!this.tiles.has(name)) {
      const value = h("dd");
      this.tiles.set(name, value);
      this.tileList.append(h("div", { class: "tile" }, h("dt", {}, name), value));
    }
    say(this.tiles.get(name), text);
  }
}

// Puts a table in place of the last one. Its frame stays, which may have the focus.
function refill(room, caption, heads, rows) {
  const made = table(caption, heads, rows, "quiet");
  if (room.firstElementChild?.classList.contains("scroll")) room.firstElementChild.replaceChildren(...made.childNodes);
  else room.replaceChildren(made);
}

function errors(byCode) {
  const found = Object.entries(byCode).filter(([, times]) => times > 0);
  return found.length ? found.map(([code, times]) => `${code} ${count(times)}`).join(", ") : "none";
}

// Columns of runs by their number of rows, with the numbers in words.
function batchesOf({ name, batches }) {
  const found = Object.entries(batches).sort(([one], [other]) => Number(one) - Number(other));
  const most = Math.max(1, ...found.map(([, runs]) => runs));
  const bars = found.map(([rows, runs]) =>
    h(
      "li",
      {},
      h("span", { class: "faint" }, `${rows} ${rows === "1" ? "row" : "rows"}`),
      s("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, s("rect", { width: Math.max(1, (100 * runs) / most), height: 8 })),
      h("span", {}, count(runs))
    )
  );
  return h("div", {}, h("h3", {}, name), h("ul", { class: "runs" }, bars));
}
