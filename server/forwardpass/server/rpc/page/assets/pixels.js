// Rows that are images: an input to draw on, with the pointer or the keyboard, and an output to see.

import { flat } from "./fields.js";
import { h, say } from "./dom.js";
import { short } from "./numbers.js";

const SIDES = [8, 28];
const FINE = 20; // pixels a side, from which one is too thin a line

// The side of the square image that a tensor's columns are, or null: by its shape, or by its
// labels or its description for a flat row of 64 or 784.
export function side({ shape, labels, description }) {
  const axes = shape.slice(1).filter((axis) => axis !== 1);
  if (axes.length === 2 && axes[0] === axes[1] && SIDES.includes(axes[0])) return axes[0];
  const found = axes.length === 1 ? SIDES.find((each) => each * each === axes[0]) : undefined;
  if (found === undefined) return null;
  const words = `${labels[0] ?? ""} ${labels.at(-1) ?? ""} ${description}`;
  return /pixel|image|8\s*[x\u00d7]\s*8|28\s*[x\u00d7]\s*28/i.test(words) ? found : null;
}

// The values of paper and ink: by the stated range; or else by the samples, where paper is 0.
export function tones(input, samples) {
  if (input.low.length) return { paper: Math.min(...input.low), ink: Math.max(...input.high) };
  const seen = samples.flatMap((sample) => flat(sample.inputs[input.name] ?? []).map(Number)).filter(Number.isFinite);
  return { paper: 0, ink: Math.max(1, Math.round(Math.max(0, ...seen))) };
}

// A square of pixels in shades of gray, dark where there is ink.
export class Picture {
  constructor(width, { paper, ink }, name) {
    Object.assign(this, { width, paper, ink });
    this.element = h("canvas", { class: "pixels", width, height: width, role: "img", "aria-label": name });
    this.context = this.element.getContext("2d");
  }

  show(values) {
    const image = this.context.createImageData(this.width, this.width);
    for (const [index, value] of values.entries()) {
      const share = (Number(value) - this.paper) / (this.ink - this.paper || 1);
      const shade = 255 - Math.round(235 * Math.max(0, Math.min(1, share || 0)));
      image.data.set([shade, shade, shade, 255], 4 * index);
    }
    this.context.putImageData(image, 0, 0);
  }
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// An image to draw on. changed(index, value) is called for each pixel that gets another value.
export class Canvas {
  constructor(width, shades, name, changed) {
    this.width = width;
    this.changed = changed;
    this.shades = shades;
    this.values = Array(width * width).fill(shades.paper);
    this.at = [0, 0];
    this.last = null; // where the pointer was before, in pixels
    this.pen = width < FINE ? 0 : 1; // its radius in pixels, as broad as the digits of MNIST
    this.picture = new Picture(width, shades, "");
    const surface = this.picture.element;
    surface.removeAttribute("role");
    surface.removeAttribute("aria-label");
    this.cursor = h("div", { class: "cursor" });
    this.place = h("p", { class: "faint", "aria-live": "polite" });
    this.board = h(
      "div",
      {
        class: "board",
        tabindex: 0,
        role: "application",
        "aria-roledescription": "drawing board",
        "aria-label": `${name}: arrows move, the space bar draws, Delete erases`,
        on: { keydown: (event) => this.key(event) },
      },
      surface,
      this.cursor
    );
    this.strength = h("input", { type: "range", min: 0, max: 100, value: 100, "aria-label": "Strength of the ink, in percent" });
    this.erasing = h("input", { type: "checkbox" });
    surface.addEventListener("pointerdown", (event) => {
      surface.setPointerCapture(event.pointerId);
      this.last = null;
      this.stroke(event);
    });
    surface.addEventListener("pointermove", (event) => event.buttons && this.stroke(event));
    this.tools = h(
      "div",
      { class: "buttons tools" },
      h("label", { class: "inline" }, "Ink", this.strength),
      h("label", { class: "inline" }, this.erasing, "Erase"),
      h("button", { type: "button", on: { click: () => this.clear() } }, "Clear")
    );
    this.move(0, 0);
    say(this.place, "Draw with the pointer, or with arrows and the space bar.");
  }

  set(values) {
    this.values = values.map(Number);
    this.picture.show(this.values);
  }

  clear() {
    for (const index of this.values.keys()) this.paint(index, this.shades.paper);
  }

  paint(index, value) {
    if (this.values[index] === value) return;
    this.values[index] = value;
    this.picture.show(this.values);
    this.changed(index, value);
  }

  // cover: how much of the pixel is under the pen, 0 to 1; of less than all, ink is only added.
  drawn(index, cover = 1) {
    const { paper, ink } = this.shades;
    if (!cover) return;
    const part = this.erasing.checked ? 0 : (cover * Number(this.strength.value)) / 100;
    const value = part === 1 ? ink : paper + (ink - paper) * part;
    const darker = Math.abs(value - paper) > Math.abs(this.values[index] - paper);
    if (cover === 1 || this.erasing.checked || darker) this.paint(index, value);
  }

  stroke(event) {
    const box = this.picture.element.getBoundingClientRect();
    const column = ((event.clientX - box.left) / box.width) * this.width;
    const row = ((event.clientY - box.top) / box.height) * this.width;
    // A fast pointer is seen at few places: the line between them is drawn.
    const [down, right] = this.last ? [row - this.last[0], column - this.last[1]] : [0, 0];
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(down, right)));
    for (let step = steps - 1; step >= 0; step -= 1) {
      this.dot(row - (down * step) / steps, column - (right * step) / steps);
    }
    this.last = [row, column];
  }

  // Draws where the pen is: a pixel, or what it covers if pixels are fine.
  dot(row, column) {
    const middle = [Math.floor(row), Math.floor(column)];
    if (Math.min(...middle) < 0 || Math.max(...middle) >= this.width) return;
    this.at = middle;
    const reach = Math.ceil(this.pen);
    for (let down = -reach; down <= reach; down += 1) {
      for (let right = -reach; right <= reach; right += 1) {
        const [y, x] = [middle[0] + down, middle[1] + right];
        if (Math.min(y, x) < 0 || Math.max(y, x) >= this.width) continue;
        const far = reach ? Math.hypot(y + 0.5 - row, x + 0.5 - column) : 0;
        this.drawn(y * this.width + x, Math.max(0, Math.min(1, this.pen + 0.5 - far)) || Number(!reach));
      }
    }
    this.move(0, 0);
  }

  key(event) {
    const step = STEPS[event.key];
    const index = this.at[0] * this.width + this.at[1];
    if (step) this.move(...step);
    else if (event.key === " ") this.drawn(index);
    else if (event.key === "Delete" || event.key === "Backspace") this.paint(index, this.shades.paper);
    else return;
    event.preventDefault();
    const [row, column] = this.at;
    say(this.place, `row ${row + 1}, column ${column + 1}: ${short(this.values[row * this.width + column])}`);
  }

  move(down, right) {
    this.at = [down, right].map((by, axis) => Math.max(0, Math.min(this.width - 1, this.at[axis] + by)));
    const part = 100 / this.width;
    Object.assign(this.cursor.style, {
      top: `${this.at[0] * part}%`,
      left: `${this.at[1] * part}%`,
      width: `${part}%`,
      height: `${part}%`,
    });
  }
}
