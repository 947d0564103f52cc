// How much each feature of the row contributes to a column of an output, as bars.

import { columnLabels } from "./drawing.js";
import { h, say } from "./dom.js";
import { exact, short } from "./numbers.js";

const MAX_COLUMNS = 64; // that can be chosen
const MAX_BARS = 24; // the largest contributions, as many as this

export class Explanation {
  // changed: called when another column is chosen.
  constructor(description, changed) {
    this.description = description;
    const targets = this.possible() ? description.outputs.filter(explainable).flatMap(columns) : [];
    this.choice = h(
      "select",
      { on: { change: changed } },
      h("option", { value: "" }, "nothing"),
      targets.slice(0, MAX_COLUMNS).map(({ value, text }) => h("option", { value }, text))
    );
    this.bars = h("div", { class: "bars" });
    this.note = h("p", { class: "faint" });
    this.element = h(
      "section",
      { class: "output", "aria-label": "Explanation", hidden: targets.length === 0 },
      h("label", {}, "Explain ", this.choice),
      this.bars,
      this.note
    );
  }

  get asked() {
    return this.choice.value;
  }

  // Rows of numbers and categories; of other models the server says that it cannot.
  possible() {
    return this.description.inputs.every(
      ({ datatype, shape }) =>
        shape.length === 2 && (datatype === "FP32" || (shape[1] === 1 && (datatype === "BYTES" || datatype === "INT64")))
    );
  }

  show(explanation) {
    const [values] = explanation?.attributions ?? [[]];
    const names = explanation?.features ?? [];
    const largest = Math.max(...values.map((value) => Math.abs(Number(value)))) || 1;
    const shown = values
      .map((value, column) => ({ value, name: names[column] ?? `feature ${column + 1}` }))
      .sort((one, other) => Math.abs(Number(other.value)) - Math.abs(Number(one.value)))
      .slice(0, MAX_BARS);
    this.bars.replaceChildren(...shown.map(({ value, name }) => bar(name, value, Number(value) / largest)));
    const rest = values.length - shown.length;
    const parts = [
      `Contributions to the answer, compared with that of the baseline; they are ${short(explanation?.error[0] ?? 0)} off in sum.`,
      rest > 0 ? `${rest} smaller ones are left out.` : "",
    ];
    say(this.note, explanation ? parts.join(" ").trim() : "");
  }
}

function explainable({ datatype, shape }) {
  return datatype === "FP32" && shape.length === 2 && shape[1] > 0;
}

function columns({ name, labels, shape }) {
  const names = columnLabels(labels, shape[1]);
  return Array.from({ length: shape[1] }, (_, column) => ({
    value: `${name}:${column}`,
    text: shape[1] === 1 ? name : `${name}: ${names[column] ?? column}`,
  }));
}

function bar(name, value, share) {
  const fill = h("span", { class: share < 0 ? "bar-fill negative" : "bar-fill" });
  fill.style.left = `${50 + Math.min(0, share * 50)}%`;
  fill.style.width = `${Math.abs(share) * 50}%`;
  return h(
    "div",
    { class: "bar" },
    h("span", { class: "bar-label" }, name),
    h("span", { class: "bar-value", title: exact(value) }, short(value)),
    h("span", { class: "bar-track", "aria-hidden": "true" }, fill),
    h("span", { class: "bar-note" })
  );
}
