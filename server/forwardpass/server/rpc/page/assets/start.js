// All models, as cards.

import { describe } from "./api.js";
import { sketch } from "./drawing.js";
import { h, s, say } from "./dom.js";
import { inputsOf } from "./fields.js";
import { address } from "./model.js";
import { few, milliseconds } from "./numbers.js";

const STATES = { READY: "ready", UNAVAILABLE: "not served", LOADING: "loading", UNLOADING: "unloading", "": "unloaded" };

export class StartView {
  constructor(app) {
    this.app = app;
    this.title = "Models";
    this.cards = new Map();
    this.heading = h("h1", { tabindex: -1 }, "Models");
    this.list = h("div", { class: "cards" });
    this.empty = h("p", { class: "faint", hidden: true }, "There are no models yet, or none that you may read. What is put into the repository appears here.");
    this.element = h("div", {}, h("div", { class: "heading" }, this.heading), this.empty, this.list);
    this.sketches = Promise.resolve();
  }

  open() {}

  close() {
    this.closed = true;
  }

  poll(overview) {
    this.empty.hidden = overview.models.length > 0;
    const names = new Set(overview.models.map((model) => model.name));
    for (const [name, card] of this.cards) {
      if (!names.has(name)) {
        card.element.remove();
        this.cards.delete(name);
      }
    }
    for (const model of overview.models) {
      if (!this.cards.has(model.name)) {
        this.cards.set(model.name, new Card(model.name, this));
        this.list.append(this.cards.get(model.name).element);
      }
      this.cards.get(model.name).show(model, this.app.history(model.name));
    }
  }

  // Descriptions are asked for one after another: they have all weights that are drawn.
  draw(card) {
    this.sketches = this.sketches.then(() => (this.closed ? null : card.draw()));
  }
}

class Card {
  constructor(name, owner) {
    Object.assign(this, { name, owner, drawn: null });
    this.room = h("div", { class: "sketch-room", "aria-hidden": "true" });
    this.versions = h("ul", { class: "states" });
    this.rate = h("dd");
    this.p50 = h("dd");
    this.p99 = h("dd");
    this.line = s("polyline", { class: "spark", points: "" });
    const ground = s("path", { class: "ground", d: "M0 22.5h120" });
    const frame = { class: "sparkline", viewBox: "0 0 120 24", preserveAspectRatio: "none", "aria-hidden": "true" };
    const spark = s("svg", frame, ground, this.line);
    const figure = (term, value) => h("div", {}, h("dt", {}, term), value);
    this.element = h(
      "article",
      { class: "card" },
      h("h2", {}, h("a", { href: address(name) }, name)),
      this.room,
      this.versions,
      h(
        "div",
        { class: "card-foot" },
        h("dl", { class: "card-figures" }, figure("calls/s", this.rate), figure("p50", this.p50), figure("p99", this.p99)),
        spark
      )
    );
  }

  show(model, history) {
    const states = model.versions.map(({ version, state, reason }) => [version, state, reason]);
    const text = JSON.stringify(states);
    if (this.states !== text) {
      this.states = text;
      this.versions.replaceChildren(...states.map(([version, state, reason]) => stateOf(version, state, reason)));
      // Another version may have another shape.
      if (states.some(([, state]) => state === "READY")) this.owner.draw(this);
      else this.room.replaceChildren();
      this.room.hidden = !states.some(([, state]) => state === "READY");
    }
    const rates = history.rates;
    say(this.rate, rates.length ? few(rates.at(-1)) : "\u2013");
    say(this.p50, milliseconds(model.p50_ms));
    say(this.p99, milliseconds(model.p99_ms));
    const most = Math.max(1, ...rates);
    const points = rates.map((rate, at) => `${(120 * (at + 60 - rates.length)) / 59},${(22 - 20 * (rate / most)).toFixed(1)}`);
    this.line.setAttribute("points", points.join(" "));
  }

  async draw() {
    try {
      const description = await describe(this.name, null);
      this.room.replaceChildren(sketch(description, inputsOf(description)));
    } catch (error) {
      // Without a drawing the card still says how the model is.
      if (error.status === 401) this.owner.app.failed(error);
    }
  }
}

function stateOf(version, state, reason) {
  const ready = state === "READY";
  return h(
    "li",
    { class: ready ? "ready" : "failed" },
    h("span", { class: "chip" }, `${version} ${STATES[state] ?? state.toLowerCase()}`),
    reason && !ready ? h("span", { class: "reason" }, reason) : null
  );
}
