// A network as columns of neurons, as in the lecture's figures: what `forwardpass draw` shows, with
// the numbers of a row in it. Blue is above zero and orange below; as nobody has to see colors,
// what is below zero also has a minus sign or a dashed line.

import { s } from "./dom.js";
import { exact, short } from "./numbers.js";

const MAX_SHOWN = 16;
const MAX_SKIPPING = 16; // lines of one connection past a column: more would be unreadable
const MAX_WEIGHTS = 40000; // entries of a matrix that the server shows
const HEADING = 40;
const LANE = 26;
// Activations that are shares as they are; others are compared with the largest of their layer.
const BOUNDED = new Set(["Sigmoid", "Tanh", "Softmax", "Softsign", "HardSigmoid"]);

export class Drawing {
  // width: pixels to fill. small: a sketch, without texts and with fewer neurons.
  constructor(description, inputs, { width, small = false }) {
    this.inputs = inputs;
    this.small = small;
    this.radius = small ? 3.2 : 8;
    this.pitch = small ? 9 : 24;
    this.side = small ? 6 : width > 640 ? 196 : 40; // room for names beside, or for headings above
    this.labels = !small && width > 640;
    this.place(description, width);
    this.edges = [];
    this.hasBands = false;
    const lines = s("g", { class: "lines" });
    const neurons = s("g");
    for (const edge of description.edges) this.connect(edge, lines);
    for (const block of this.blocks.values()) this.populate(block, description, neurons);
    const sizes = [...this.blocks.values()].map((block) => block.size).join(" \u2013 ");
    this.element = s(
      "svg",
      {
        class: small ? "sketch" : "network",
        viewBox: `0 0 ${this.width} ${this.height}`,
        width: small ? null : this.width,
        height: small ? null : this.height,
        role: "img",
        "aria-label": `The network, by layers: ${sizes}`,
      },
      lines,
      neurons
    );
  }

  // Puts a block of neurons for each tensor into the column of its depth.
  place(description, width) {
    const tensors = description.tensors;
    const most = this.small ? 7 : tensors.length > 24 ? 6 : MAX_SHOWN;
    const all = [
      ...this.inputs
        .filter(({ size }) => size)
        .map(({ input, size }) => ({ name: input.name, title: input.name, size, depth: 0, kind: "features", isInput: true })),
      ...tensors,
    ];
    const columns = [];
    for (const each of all) (columns[each.depth] ??= []).push(each);
    const used = columns.filter(Boolean);
    const gap = (width - 2 * this.side) / Math.max(1, used.length - 1);
    const step = this.small ? gap : Math.max(52, Math.min(240, gap));
    const margin = Math.max(this.side, (width - step * (used.length - 1)) / 2);
    this.step = step;
    this.blocks = new Map();
    const heading = this.small ? 0 : HEADING;
    const heights = used.map((column) =>
      column.reduce((sum, each) => sum + heading + slots(each.size, most) * this.pitch + (this.small ? 4 : 10), 0)
    );
    const tallest = Math.max(...heights, 0);
    for (const [index, column] of used.entries()) {
      let y = (tallest - heights[index]) / 2;
      for (const each of column) {
        const shown = chosen(each, most, description.importance?.[each.name]);
        const split = each.size > most && !shown.important ? most / 2 : shown.length;
        y += heading;
        const ys = shown.map((_, at) => y + (at + (at >= split ? 1 : 0) + 0.5) * this.pitch);
        const rest = each.size > shown.length ? y + (Math.floor(split) + 0.5) * this.pitch : null;
        this.blocks.set(each.name, { ...each, column: index, x: margin + index * step, top: y, shown, ys, rest });
        y += slots(each.size, most) * this.pitch + (this.small ? 4 : 10);
      }
    }
    const skips = description.edges.filter((edge) => this.span(edge) > 1).length;
    this.lane = tallest + LANE / 2;
    this.width = Math.round(2 * margin + step * (used.length - 1));
    this.height = Math.round(tallest + (skips ? LANE * skips * (this.small ? 0.4 : 1) : 0) + (this.small ? 4 : 6));
  }

  span({ from, to }) {
    return (this.blocks.get(to)?.column ?? 0) - (this.blocks.get(from)?.column ?? 0);
  }

  connect({ from, to, weights }, group) {
    const [source, target] = [this.blocks.get(from), this.blocks.get(to)];
    if (!source || !target) return;
    const span = this.span({ from, to });
    let pairs = [];
    if (weights) {
      for (const [row, unit] of target.shown.entries()) {
        for (const [column, feature] of source.shown.entries()) {
          const weight = Number(weights[unit]?.[feature] ?? 0);
          if (weight !== 0) pairs.push({ weight, feature, fromY: source.ys[column], toY: target.ys[row] });
        }
      }
    } else if (source.size === target.size && source.size ** 2 <= MAX_WEIGHTS) {
      // Element by element, as in a residual connection: one to one.
      pairs = target.shown
        .map((unit, row) => ({ weight: 1, feature: unit, fromY: source.ys[source.shown.indexOf(unit)], toY: target.ys[row] }))
        .filter((pair) => pair.fromY !== undefined);
    } else {
      group.append(band(source, target, this.radius));
      this.hasBands = true;
      return;
    }
    if (span > 1) {
      pairs.sort((one, other) => Math.abs(other.weight) - Math.abs(one.weight));
      pairs = pairs.slice(0, MAX_SKIPPING).sort((one, other) => one.fromY - other.fromY || one.toY - other.toY);
    }
    const lane = this.lane;
    if (span > 1) this.lane += this.small ? LANE * 0.4 : LANE;
    for (const [index, pair] of pairs.entries()) {
      const offset = (index - (pairs.length - 1) / 2) * Math.min(1.6, LANE / 2 / pairs.length) * (this.small ? 0.4 : 1);
      const d =
        span > 1
          ? around(source.x, pair.fromY, target.x, pair.toY, lane + offset, this.step)
          : `M${source.x} ${pair.fromY}L${target.x} ${pair.toY}`;
      pair.line = s("path", { d });
      group.append(pair.line);
    }
    this.edges.push({ from, pairs });
    this.stroke(pairs, pairs.map((pair) => pair.weight));
  }

  // Draws lines by what they carry, compared with the most that one of them does.
  stroke(pairs, flows) {
    const largest = flows.reduce((most, flow) => Math.max(most, Number.isFinite(flow) ? Math.abs(flow) : 0), 0);
    for (const [index, { line }] of pairs.entries()) {
      const flow = flows[index];
      const share = largest > 0 && Number.isFinite(flow) ? Math.abs(flow) / largest : 0;
      line.setAttribute("class", flow < 0 ? "negative" : "positive");
      line.setAttribute("stroke-width", (0.3 + (this.small ? 1.1 : 2.7) * share).toFixed(2));
      line.setAttribute("stroke-opacity", (0.05 + 0.75 * share).toFixed(3));
    }
  }

  populate(block, description, group) {
    const output = description.outputs.find((each) => each.name === block.name);
    const names = block.isInput
      ? this.inputs.find(({ input }) => input.name === block.name).fields.map((field) => field.label)
      : columnLabels(output?.labels ?? [], block.size);
    if (!this.small) this.head(block, output, group);
    block.neurons = block.shown.map((unit, at) => {
      const y = block.ys[at];
      const title = s("title", {}, this.name(block, names, unit));
      const fill = s("circle", { class: "fill", cx: block.x, cy: y, r: this.radius });
      const parts = [fill];
      let sign = null;
      let value = null;
      if (!this.small) {
        sign = s("path", { class: "minus", d: `M${block.x - 3.5} ${y}h7`, visibility: "hidden" });
        parts.push(sign, title);
        if (this.labels && (block.isInput || output)) {
          const left = block.isInput;
          const x = block.x + (left ? -1 : 1) * (this.radius + 7);
          value = s("tspan", { class: "value" });
          const name = s("tspan", {}, fitting(names[unit] ?? `${block.name}[${unit}]`, this.side - 86));
          const text = s("text", { x, y: y + 4, "text-anchor": left ? "end" : "start" }, name, " ", value);
          // Of a column that another one follows, names would lie on lines.
          if (left || block.column === this.lastColumn()) parts.push(text);
        }
      }
      group.append(s("g", { class: "neuron" }, s("circle", { class: "back", cx: block.x, cy: y, r: this.radius }), parts));
      return { fill, sign, title, value, unit, label: this.name(block, names, unit) };
    });
    if (block.rest !== null) {
      const more = this.small ? "\u22ee" : `\u22ee ${block.size - block.shown.length} more`;
      group.append(s("text", { class: "more", x: block.x, y: block.rest + 4, "text-anchor": "middle" }, more));
    }
  }

  lastColumn() {
    return Math.max(...[...this.blocks.values()].map((block) => block.column));
  }

  name(block, names, unit) {
    return names[unit] ?? `${block.title} ${unit + 1}`;
  }

  head(block, output, group) {
    const room = Math.min(this.step, 2 * block.x, 2 * (this.width - block.x)) - 6;
    const about = `${block.size} ${block.isInput ? (block.size === 1 ? "feature" : "features") : called(block.kind)}`;
    const full = output ? `${about}, output` : about;
    const line = fitting(full, room) === full ? full : fitting(about, room);
    group.append(
      s("text", { class: "title", x: block.x, y: block.top - 20, "text-anchor": "middle" }, fitting(block.title || block.name, room, TITLE)),
      s("text", { class: "about", x: block.x, y: block.top - 6, "text-anchor": "middle" }, line)
    );
  }

  // Fills neurons and lines by a row and its answer. Features count by their place in their range,
  // since the network scales them before they flow.
  light(values, layers) {
    const carried = new Map();
    for (const block of this.blocks.values()) {
      const raw = block.isInput ? values[block.name] : layers[block.name];
      if (!raw) continue;
      const activations = block.isInput ? this.placed(block, raw) : raw.map(Number);
      carried.set(block.name, activations);
      const bounded = block.isInput || BOUNDED.has(block.kind);
      const largest = bounded ? 1 : activations.reduce((most, each) => Math.max(most, Math.abs(each) || 0), 0);
      for (const { fill, sign, title, value, unit, label } of block.neurons) {
        const share = largest > 0 ? activations[unit] / largest : 0;
        const below = Number(block.isInput ? share : raw[unit]) < 0;
        fill.setAttribute("class", `fill ${Number.isNaN(share) ? "missing" : below ? "negative" : "positive"}`);
        fill.setAttribute("fill-opacity", Number.isNaN(share) ? 1 : Math.min(1, Math.abs(share)).toFixed(3));
        sign.setAttribute("visibility", below ? "visible" : "hidden");
        title.textContent = `${label}: ${exact(raw[unit])}`;
        if (value) {
          value.textContent = short(raw[unit]);
          value.setAttribute("data-value", exact(raw[unit]));
        }
      }
    }
    for (const { from, pairs } of this.edges) {
      const activations = carried.get(from);
      if (activations) this.stroke(pairs, pairs.map(({ weight, feature }) => weight * activations[feature]));
    }
  }

  // Features from -1, the low end of their range, to 1, the high one.
  placed(block, raw) {
    const { fields } = this.inputs.find(({ input }) => input.name === block.name);
    return raw.map((value, index) => {
      const { low, high } = fields[index] ?? { low: -1, high: 1 };
      const place = high > low ? (2 * (Number(value) - low)) / (high - low) - 1 : 0;
      return Math.max(-1.5, Math.min(1.5, place));
    });
  }
}

// A sketch for a card.
export function sketch(description, inputs) {
  return new Drawing(description, inputs, { width: 300, small: true }).element;
}

// A label for each column: two labels of one column are its two classes, and it scores the second.
export function columnLabels(labels, width) {
  if (width === 1 && labels.length === 2) return [labels[1]];
  return labels.length === width ? labels : [];
}

// What computes a layer, as networks are described here: a product alone is linear.
function called(kind) {
  return ["Gemm", "MatMul"].includes(kind) ? "linear" : kind.toLowerCase();
}

function slots(size, most) {
  return size > most ? most + 1 : size;
}

// Neurons that are drawn, by index: the most important features, or those at both ends.
function chosen({ size }, most, importance) {
  const all = Array.from({ length: Math.min(size, 100000) }, (_, index) => index);
  if (size <= most) return all;
  if (importance?.length === size) {
    const best = all.sort((one, other) => Number(importance[other]) - Number(importance[one]));
    const shown = best.slice(0, most).sort((one, other) => one - other);
    return Object.assign(shown, { important: true });
  }
  return [...all.slice(0, most / 2), ...all.slice(size - most / 2)];
}

function around(x0, y0, x1, y1, lane, step) {
  const bend = step * 0.4;
  return (
    `M${x0} ${y0}C${x0 + bend} ${y0} ${x0 + bend * 0.4} ${lane} ${x0 + bend * 1.6} ${lane}` +
    `L${x1 - bend * 1.6} ${lane}C${x1 - bend * 0.4} ${lane} ${x1 - bend} ${y1} ${x1} ${y1}`
  );
}

function band(source, target, radius) {
  const [top, bottom] = [source.ys[0] - radius, source.ys.at(-1) + radius];
  const [toTop, toBottom] = [target.ys[0] - radius, target.ys.at(-1) + radius];
  return s("path", { class: "band", d: `M${source.x} ${top}L${target.x} ${toTop}V${toBottom}L${source.x} ${bottom}Z` });
}

const context = document.createElement("canvas").getContext("2d");
const FAMILY = getComputedStyle(document.documentElement).fontFamily;
const [TEXT, TITLE] = [`12px ${FAMILY}`, `650 13px ${FAMILY}`];

// A text that is cut to fit into some pixels.
function fitting(text, pixels, font = TEXT) {
  context.font = font;
  let letters = text.length;
  const cut = () => (letters === text.length ? text : `${text.slice(0, letters).trimEnd()}\u2026`);
  while (letters > 1 && context.measureText(cut()).width > pixels) letters -= 1;
  return cut();
}
