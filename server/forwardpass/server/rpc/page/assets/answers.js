// The outputs of a row: bars with labels, thresholds and the verdict, and what a pinned row had.

import { columnLabels } from "./drawing.js";
import { flat, onlyRow } from "./fields.js";
import { h, say, table } from "./dom.js";
import { Picture, side, tones } from "./pixels.js";
import { difference, exact, short } from "./numbers.js";

const MAX_BARS = 24; // of a wider output the largest are shown, as many as this
const SHARES = new Set(["Sigmoid", "Softmax", "HardSigmoid"]);

export class Answers {
  constructor(description) {
    // What decides comes before what measures.
    const ordered = [...description.outputs].sort((one, other) => decides(other) - decides(one));
    this.outputs = ordered.map((output) => new Output(output, description));
    this.element = h("div", { class: "answers" }, this.outputs.map((output) => output.element));
    // What the row comes to, in a word for each output; it stays in sight on a narrow screen.
    this.summary = h("div", { class: "summary" }, this.outputs.map((output) => output.summary));
  }

  // answer, pinned: {outputs, verdicts} of the server, of one row; pinned may be null.
  show(answer, pinned) {
    for (const output of this.outputs) output.show(answer, pinned);
    this.summary.hidden = this.outputs.every((output) => output.summary.hidden);
  }

  // Images that come out, to be put beside the one that goes in.
  pictures() {
    return this.outputs.map((output) => output.figure).filter(Boolean);
  }
}

class Output {
  constructor(output, description) {
    this.output = output;
    this.description = description;
    this.verdict = h("strong", {});
    // Numbers change too often to be read out.
    const spoken = decides(output) ? { role: "status", "aria-atomic": "true" } : {};
    this.summary = h("p", { class: "verdict", hidden: true, ...spoken }, h("span", { class: "faint" }, output.name), " ", this.verdict);
    this.bars = h("div", { class: "bars" });
    this.rows = null;
    this.largest = [];
    this.most = 0; // of all columns
    for (const sample of description.samples) this.remember(flat(sample.outputs[output.name] ?? []), 1.5);
    const twin = description.inputs.find((input) => side(input) !== null && side(input) === side(output));
    const width = twin ? side(output) : null;
    this.picture = width === null ? null : new Picture(width, tones(twin, description.samples), `${output.name} as an image`);
    this.figure = this.picture ? h("figure", {}, this.picture.element, h("figcaption", { class: "faint" }, output.name)) : null;
    this.element = h(
      "section",
      { class: "output", "aria-label": `Output ${output.name}` },
      h("h3", {}, output.name),
      output.description ? h("p", { class: "faint" }, output.description) : null,
      this.picture ? h("p", { class: "faint" }, "An image, beside the input.") : this.bars
    );
  }

  // Bars end at the largest of the stored answers with some room, or at what was larger since.
  remember(values, room = 1) {
    for (const [column, value] of values.entries()) {
      const size = Math.abs(Number(value)) * room;
      if (!Number.isFinite(size)) continue;
      this.largest[column] = Math.max(this.largest[column] ?? 0, size);
      this.most = Math.max(this.most, size);
    }
  }

  show(answer, pinned) {
    const values = onlyRow(answer.outputs[this.output.name]);
    const before = pinned ? onlyRow(pinned.outputs[this.output.name]) : null;
    this.conclude(values, answer.verdicts[this.output.name]?.[0], pinned?.verdicts[this.output.name]?.[0]);
    if (this.picture) {
      this.picture.show(values);
      return;
    }
    this.remember(values);
    // Numbers beyond those that are shown at first are in the table of all values.
    const columns = values.map((_, column) => column);
    const shown =
      columns.length <= MAX_BARS
        ? columns
        : columns.sort((one, other) => Number(values[other]) - Number(values[one])).slice(0, MAX_BARS);
    if (this.rows?.length !== shown.length) this.build(shown.length, values.length);
    for (const [at, column] of shown.entries()) this.fill(this.rows[at], column, values, before);
  }

  // Of an image the largest pixel is no answer; of a single number without a verdict, it is.
  conclude(values, verdict, before) {
    const [unit = ""] = this.output.units;
    const single = values.length === 1 ? `${short(values[0])} ${unit}`.trim() : "";
    const said = this.picture ? "" : spoken(verdict) || single;
    const was = before === undefined || spoken(before) === spoken(verdict) ? "" : ` (pinned row: ${spoken(before)})`;
    say(this.verdict, said + was);
    this.summary.hidden = said === "";
  }

  build(length, width) {
    this.rows = Array.from({ length }, () => {
      const parts = {
        label: h("span", { class: "bar-label" }),
        fill: h("span", { class: "bar-fill" }),
        mark: h("span", { class: "bar-mark", hidden: true }),
        value: h("span", { class: "bar-value" }),
        note: h("span", { class: "bar-note faint" }),
      };
      const track = h("span", { class: "bar-track", "aria-hidden": "true" }, parts.fill, parts.mark);
      return { ...parts, element: h("div", { class: "bar" }, parts.label, parts.value, track, parts.note) };
    });
    const rest = width - length;
    this.bars.replaceChildren(
      ...this.rows.map((row) => row.element),
      ...(rest ? [h("p", { class: "faint" }, `${rest} lower values are in the table of all values.`)] : [])
    );
  }

  fill(row, column, values, before) {
    const { labels, units, name } = this.output;
    const names = columnLabels(labels, values.length);
    const value = values[column];
    const unit = units[column] ?? "";
    say(row.label, names[column] ?? (values.length === 1 ? name : `${name}[${column}]`));
    say(row.value, unit ? `${short(value)} ${unit}` : short(value));
    row.value.setAttribute("data-value", exact(value));
    row.value.setAttribute("data-place", `${name}/${column}`);
    row.value.title = exact(value);
    const scale = this.scale(column);
    const share = Math.max(-1, Math.min(1, Number(value) / scale || 0));
    // Of columns that may be below zero, zero is in the middle.
    const signed = !this.isShare() && this.hasNegative(values);
    const [left, width] = signed ? [50 + Math.min(0, share * 50), Math.abs(share) * 50] : [0, Math.max(0, share) * 100];
    row.fill.style.left = `${left}%`;
    row.fill.style.width = `${width}%`;
    row.fill.classList.toggle("negative", share < 0);
    const threshold = this.threshold(column, values.length);
    row.mark.hidden = threshold === null || Math.abs(threshold) > scale;
    if (threshold !== null) row.mark.style.left = `${signed ? 50 + (threshold / scale) * 50 : (threshold / scale) * 100}%`;
    const notes = [];
    if (threshold !== null) {
      // Rounded to the datatype of the column, as the server's verdicts compare them.
      const rounded = this.output.datatype === "FP32" ? Math.fround : Number;
      const above = rounded(value) > rounded(threshold);
      notes.push(`${above ? "above" : "not above"} the threshold ${short(threshold)}`);
    }
    if (before) notes.push(`${difference(value, before[column])} from the pinned row`);
    say(row.note, notes.join(" \u00b7 "));
  }

  threshold(column, width) {
    const { thresholds, labels } = this.output;
    if (thresholds.length) return thresholds[column] ?? thresholds[0];
    return width === 1 && labels.length === 2 ? 0.5 : null;
  }

  isShare() {
    return SHARES.has(this.description.tensors.find((tensor) => tensor.name === this.output.name)?.kind);
  }

  hasNegative(values) {
    this.wasNegative ||= values.some((value) => Number(value) < 0);
    return this.wasNegative;
  }

  // Columns with units are measured, each on its own scale; others compare with one another.
  scale(column) {
    if (this.isShare()) return 1;
    const measured = this.output.units.some(Boolean);
    return (measured ? this.largest[column] : this.most) || 1;
  }
}

// Whether an output has a verdict, and not a measurement alone.
function decides({ labels, units }) {
  return labels.length > 0 && !units.some(Boolean);
}

// A verdict in words: a label, the labels that apply, or nothing.
function spoken(verdict) {
  if (Array.isArray(verdict)) return verdict.length ? verdict.join(", ") : "no label applies";
  return verdict ?? "";
}

export const MAX_LISTED = 1024; // columns of a tensor in a table

// Every number of every layer and output, for a reader without eyes for the drawing.
export function everyValue(description, answer, values) {
  const tables = [];
  const add = (name, title, numbers, labels) => {
    const rows = numbers
      .slice(0, MAX_LISTED)
      .map((value, unit) => [
        labels[unit] ?? `${unit + 1}`,
        h("span", { "data-value": exact(value), "data-place": `${name}/${unit}` }, exact(value)),
      ]);
    const more = numbers.length > MAX_LISTED ? `, the first ${MAX_LISTED} of ${numbers.length}` : "";
    tables.push(table(`${title}${more}`, ["unit", "value"], rows, "tall"));
  };
  for (const input of description.inputs) add(input.name, `input ${input.name}`, values[input.name], input.labels);
  for (const tensor of description.tensors) {
    const numbers = answer.layers[tensor.name]?.[0];
    if (numbers && !(tensor.name in answer.outputs)) add(tensor.name, tensor.title || tensor.name, numbers, []);
  }
  for (const output of description.outputs) {
    const numbers = onlyRow(answer.outputs[output.name]);
    add(output.name, `output ${output.name}`, numbers, columnLabels(output.labels, numbers.length));
  }
  return tables;
}
