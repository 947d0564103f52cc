// The controls of a row: sliders with numbers, boxes, drawing boards, samples, and pasted rows.

import { firstRow, flat, isInteger, isNumeric, matched, read, readField, remark } from "./fields.js";
import { fresh, h, say } from "./dom.js";
import { exact, pasted, short } from "./numbers.js";
import { Canvas, side, tones } from "./pixels.js";

const MANY = 30; // features; of more there is a search, and the most important come first

export class Inputs {
  // changed() is called after each change of `values`. pictures: figures to put beside an image.
  constructor(description, inputs, pictures, changed) {
    this.inputs = inputs;
    this.description = description;
    this.changed = changed;
    this.pictures = pictures;
    this.values = firstRow(inputs, description);
    this.pinned = null;
    this.rows = new Map(); // of fields that are drawn
    this.boards = new Map();
    this.lists = new Map();
    this.element = h(
      "section",
      { class: "inputs panel", "aria-labelledby": "inputs-title" },
      h("h2", { id: "inputs-title" }, "Input"),
      this.fillers(),
      inputs.map((each) => this.part(each))
    );
    this.refresh();
  }

  // Takes a row as it is, given by input.
  take(values) {
    this.values = Object.fromEntries(Object.entries(values).map(([name, row]) => [name, [...row]]));
    this.refresh();
    this.changed();
  }

  // Marks what differs from a row; null: from none.
  compare(values) {
    this.pinned = values;
    this.refresh();
  }

  refresh() {
    for (const row of this.rows.values()) row.show();
    for (const [name, board] of this.boards) board.set(this.values[name]);
    for (const [name, list] of this.lists) list.value = this.values[name].map(exact).join(", ");
  }

  fillers() {
    const samples = this.description.samples;
    const stored = samples.map((sample, index) => h("option", { value: index }, sample.name));
    const more = h("optgroup", { label: "pasted rows" });
    const choice = h(
      "select",
      { id: fresh("sample"), on: { change: () => this.choose(choice.value) } },
      h("option", { value: "" }, "your own"),
      stored.length ? h("optgroup", { label: "stored in the file" }, stored) : null
    );
    if (samples.length) choice.value = "0";
    this.choice = choice;
    this.more = more;
    const box = h("textarea", {
      id: fresh("paste"),
      rows: 3,
      spellcheck: "false",
      placeholder: "5.1, 3.5, 1.4\nor a header and rows",
    });
    const why = h("p", { class: "faint", role: "status" });
    const use = h("button", { type: "button", on: { click: () => say(why, this.paste(box.value)) } }, "Use the row");
    return h(
      "div",
      { class: "fillers" },
      h("div", { class: "line" }, h("label", { for: choice.id }, "Row"), choice),
      h("details", {}, h("summary", {}, "Paste a row"), h("label", { for: box.id }, "Numbers, or lines of CSV"), box, h("div", { class: "buttons" }, use), why)
    );
  }

  choose(key) {
    if (key === "") return;
    const [kind, index] = key.startsWith("p") ? ["pasted", key.slice(1)] : ["stored", key];
    if (kind === "pasted") this.take(this.pastedRows[index]);
    else {
      const { inputs } = this.description.samples[index];
      this.take(Object.fromEntries(Object.entries(inputs).map(([name, row]) => [name, flat(row)])));
    }
  }

  // Reads a pasted text; returns what has become of it.
  paste(text) {
    const { error, header, rows } = pasted(text);
    if (error) return error;
    const found = [];
    for (const [index, cells] of rows.entries()) {
      const row = matched(this.inputs, header, cells);
      if (row.error) return `${rows.length > 1 ? `row ${index + 1}: ` : ""}${row.error}`;
      // What is in a box has no cells.
      found.push({ ...this.values, ...row.values });
    }
    if (!found.length) return "there is a header, and no row";
    this.pastedRows = found;
    this.more.replaceChildren(...found.map((_, index) => h("option", { value: `p${index}` }, `pasted row ${index + 1}`)));
    this.choice.append(this.more);
    this.choice.value = "p0";
    this.take(found[0]);
    return found.length > 1 ? `${found.length} rows: choose one above` : "the row is in use";
  }

  // The controls of one input.
  part({ input, size, fields }) {
    // The only field of an input has its name already.
    const alone = fields.length === 1 && fields[0].label === input.name;
    const heading = this.inputs.length > 1 && !alone ? h("h3", {}, input.name) : null;
    const about = input.description ? h("p", { class: "faint" }, input.description) : null;
    const width = fields.length ? side(input) : null;
    if (width !== null) return h("div", {}, heading, about, this.board(input, width), h("details", {}, h("summary", {}, "Pixels as numbers"), this.list(fields)));
    return h("div", {}, heading, about, fields.length ? this.list(fields) : this.box(input, size));
  }

  board(input, width) {
    const canvas = new Canvas(width, tones(input, this.description.samples), input.name, (index, value) => {
      this.values[input.name][index] = value;
      this.rows.get(placeOf({ input: input.name, index }))?.show();
      this.edited();
    });
    this.boards.set(input.name, canvas);
    const figure = h("figure", {}, canvas.board, h("figcaption", { class: "faint" }, input.name));
    return h("div", { class: "image" }, h("div", { class: "images" }, figure, this.pictures), canvas.place, canvas.tools);
  }

  // A list of numbers in a box, for inputs that are too wide, or of a length that is open.
  box(input, size) {
    const why = h("p", { class: "note", role: "status" });
    const box = h("textarea", { id: fresh("list"), rows: 4, spellcheck: "false" });
    box.addEventListener("input", () => {
      const cells = box.value.split(/[\s,;[\]]+/).filter(Boolean);
      const found = cells.map((cell) => read(cell, input.datatype));
      const wrong = found.findIndex((each) => each.error);
      say(why, wrong >= 0 ? `value ${wrong + 1} is ${found[wrong].error}` : size !== null && cells.length !== size ? `${cells.length} values, and the model takes ${size}` : "");
      if (why.textContent) return;
      this.values[input.name] = found.map((each) => each.value);
      this.edited();
    });
    this.lists.set(input.name, box);
    return h("div", {}, h("label", { for: box.id }, `${input.name}, ${size === null ? "any number of" : size} values`), box, why);
  }

  list(fields) {
    const list = h("div", { class: "fields" });
    if (fields.length <= MANY) {
      list.append(...fields.map((field) => this.field(field)));
      return list;
    }
    const ranked = fields.some((field) => field.importance)
      ? [...fields].sort((one, other) => Number(other.importance) - Number(one.importance))
      : fields;
    const search = h("input", { type: "search", id: fresh("search"), autocomplete: "off" });
    const shown = h("p", { class: "faint", role: "status" });
    const all = h("button", { type: "button" }, `Show all ${fields.length}`);
    let most = MANY;
    const refill = () => {
      const word = search.value.trim().toLowerCase();
      const found = ranked.filter((field) => field.label.toLowerCase().includes(word));
      const listed = found.slice(0, most);
      list.replaceChildren(...listed.map((field) => this.field(field)));
      const order = ranked === fields ? "in the file's order" : "the most important first";
      say(shown, `${listed.length} of ${found.length} features, ${order}`);
      all.hidden = listed.length === found.length;
    };
    search.addEventListener("input", refill);
    all.addEventListener("click", () => {
      most = fields.length;
      refill();
    });
    refill();
    return h("div", { class: "fields" }, h("div", { class: "line" }, h("label", { for: search.id }, "Search"), search), shown, list, h("div", { class: "buttons" }, all));
  }

  field(field) {
    // What a search hides keeps its element.
    if (!this.rows.has(placeOf(field))) this.rows.set(placeOf(field), new Field(field, this));
    const row = this.rows.get(placeOf(field));
    row.show();
    return row.element;
  }

  edited() {
    this.choice.value = "";
    this.changed();
  }
}

class Field {
  constructor(field, owner) {
    Object.assign(this, { field, owner });
    const name = field.unit ? `${field.label} in ${field.unit}` : field.label;
    const id = fresh("field");
    this.note = h("p", { class: "note", id: `${id}-note` });
    const described = { id, "data-place": placeOf(field), "aria-describedby": this.note.id };
    if (field.categories) {
      this.choose(described);
      return;
    }
    this.number = h("input", {
      ...described,
      class: "number",
      type: "text",
      inputmode: isNumeric(field.datatype) ? "decimal" : "text",
      autocomplete: "off",
      placeholder: field.fill === null ? null : `missing: ${exact(field.fill)}`,
      on: { input: () => this.typed() },
    });
    this.slider = isNumeric(field.datatype)
      ? h("input", {
          type: "range",
          min: field.low,
          max: field.high,
          step: isInteger(field.datatype) ? 1 : "any",
          "aria-label": `${name}, slider`,
          on: { input: () => this.slid() },
        })
      : null;
    this.element = h(
      "div",
      { class: "field" },
      h("label", { for: id }, field.label, field.unit ? h("span", { class: "unit" }, ` ${field.unit}`) : null),
      this.number,
      this.slider,
      this.note
    );
  }

  // A list of categories in place of a number; a missing one where the model takes it.
  choose(described) {
    const { field } = this;
    const missing = field.mayMiss && !field.categories.includes("");
    this.options = missing ? [...field.categories, ""] : [...field.categories];
    this.select = h("select", { ...described, on: { change: () => this.set(this.options[this.select.value]) } });
    this.element = h("div", { class: "field" }, h("label", { for: described.id }, field.label), this.select, this.note);
  }

  get value() {
    return this.owner.values[this.field.input][this.field.index];
  }

  set value(value) {
    this.owner.values[this.field.input][this.field.index] = value;
  }

  show() {
    if (this.select) {
      // A stored row may have one that the model does not know.
      if (!this.options.includes(this.value)) this.options.push(this.value);
      const texts = this.options.map((each) => (each === "" && !this.field.categories.includes("") ? "missing" : String(each)));
      this.select.replaceChildren(...texts.map((text, index) => h("option", { value: index }, text)));
      this.select.value = String(this.options.indexOf(this.value));
      this.mark();
      return;
    }
    if (document.activeElement !== this.number) this.number.value = this.isFilled() ? "" : exact(this.value);
    this.number.removeAttribute("aria-invalid");
    this.mark();
  }

  isFilled() {
    return this.value === "NaN" && this.field.fill !== null;
  }

  mark() {
    const { value, field, slider } = this;
    if (slider) {
      const meant = this.isFilled() ? field.fill : value;
      slider.value = Number(meant);
      slider.setAttribute("aria-valuetext", `${short(meant)} ${field.unit}`.trim());
    }
    const before = this.owner.pinned?.[field.input][field.index];
    const differs = before !== undefined && !Object.is(before, value);
    const notes = [remark(field, value), differs ? `pinned: ${short(before)}` : ""].filter(Boolean);
    say(this.note, notes.join("; "));
    this.element.classList.toggle("outside", remark(field, value) !== "");
  }

  typed() {
    const { value, error } = readField(this.number.value, this.field);
    if (error) {
      this.number.setAttribute("aria-invalid", "true");
      say(this.note, error);
      return;
    }
    this.number.removeAttribute("aria-invalid");
    this.set(value);
  }

  slid() {
    // As many digits as a hand can choose: a slider has some hundred places.
    const raw = Number(this.slider.value);
    const step = (this.field.high - this.field.low) / 1000;
    const digits = Math.max(0, Math.min(20, -Math.floor(Math.log10(step || 1))));
    const value = isInteger(this.field.datatype) ? raw : Number(raw.toFixed(digits));
    this.number.value = exact(value);
    this.set(value);
  }

  set(value) {
    this.value = value;
    this.mark();
    const board = this.owner.boards.get(this.field.input);
    board?.set(this.owner.values[this.field.input]);
    this.owner.edited();
  }
}

function placeOf({ input, index }) {
  return `${input}/${index}`;
}
