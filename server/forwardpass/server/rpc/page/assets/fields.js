// The row of a model as its fields: one for each number, truth value or text of each input.

import { parsed } from "./numbers.js";

// Inputs with more elements than this are lists in a box: nobody moves so many sliders.
const MAX_FIELDS = 4096;
// More elements do not fit into what the server takes of a page.
const MAX_ELEMENTS = 2 ** 18;

// One entry for each input: {input, axes, size, fields}. axes: its shape without the axis of rows.
// size: elements of a row, null if the file leaves it open. fields: [] for a list in a box.
export function inputsOf(description) {
  return description.inputs.map((input) => {
    const axes = input.shape.slice(1);
    const size = axes.some((axis) => axis < 0) ? null : axes.reduce((all, axis) => all * axis, 1);
    const few = size !== null && size <= MAX_FIELDS;
    const samples = description.samples.map((sample) => flat(sample.inputs[input.name] ?? []));
    const importance = description.importance?.[input.name] ?? [];
    const fields = Array.from({ length: few ? size : 0 }, (_, index) => ({
      input: input.name,
      index,
      datatype: input.datatype,
      label: input.labels[index] ?? (size === 1 ? input.name : `${input.name}[${index}]`),
      unit: input.units[index] ?? "",
      importance: importance[index] ?? 0,
      // What the model puts in place of NaN; null: nothing.
      fill: input.fill[index] ?? null,
      categories: size === 1 && input.categories.length ? input.categories : null,
      // Whether a text may be empty: then it is missing, and the model knows what it counts as.
      mayMiss: input.datatype === "BYTES" && (input.missing !== null || input.unknown !== "refuse"),
      refuses: input.unknown === "refuse",
      ...range(input, index, samples),
    }));
    return { input, axes, size, fields };
  });
}

export function flat(values) {
  return Array.isArray(values) ? values.flat(Infinity) : [values];
}

// The elements of the only row of an output; one without an axis of rows is that row.
export function onlyRow(rows) {
  return flat(Array.isArray(rows) ? rows[0] ?? [] : rows);
}

// Whether an input takes numbers that a slider can have.
export function isNumeric(datatype) {
  return datatype !== "BYTES" && datatype !== "BOOL";
}

export function isInteger(datatype) {
  return /^U?INT/.test(datatype);
}

// Where a slider ends: by the file's range, or else by the samples, with room around them.
// stated: whether the file says so, and a value beyond is worth a word.
function range(input, index, samples) {
  if (input.low.length > index && input.high.length > index) {
    return { low: input.low[index], high: input.high[index], stated: true };
  }
  const seen = samples.map((sample) => Number(sample[index])).filter(Number.isFinite);
  if (!seen.length) return { low: -1, high: 1, stated: false };
  const [least, most] = [Math.min(...seen), Math.max(...seen)];
  const room = most > least ? (most - least) / 2 : Math.max(1, Math.abs(most) / 2);
  return { low: least - room, high: most + room, stated: false };
}

// The row to begin with: the first sample, or the middle of each range.
export function firstRow(inputs, description) {
  const [sample] = description.samples;
  return Object.fromEntries(
    inputs.map(({ input, size, fields }) => {
      const stored = sample?.inputs[input.name];
      if (stored !== undefined) return [input.name, flat(stored)];
      return [input.name, fields.length ? fields.map(middle) : Array(Math.min(size ?? 0, MAX_ELEMENTS)).fill(0)];
    })
  );
}

function middle({ datatype, low, high, categories }) {
  if (categories) return categories[0];
  if (datatype === "BYTES") return "";
  if (datatype === "BOOL") return false;
  return isInteger(datatype) ? Math.round((low + high) / 2) + 0 : (low + high) / 2;
}

// What the text of a field says, or why it says nothing: {value} or {error}.
export function readField(text, { datatype, fill, categories, mayMiss, refuses }) {
  if (fill !== null && text.trim() === "") return { value: "NaN" };
  const { value, error } = read(text, datatype);
  const known = error || !categories || !refuses || categories.includes(value) || (mayMiss && value === "");
  return known ? { value, error } : { error: `none of the categories ${categories.slice(0, 8).join(", ")}` };
}

// What a text says, or why it says nothing: {value} or {error}.
export function read(text, datatype) {
  if (datatype === "BYTES") return { value: text };
  if (datatype === "BOOL") {
    const truth = { true: true, 1: true, false: false, 0: false }[text.trim().toLowerCase()];
    return truth === undefined ? { error: "not true or false" } : { value: truth };
  }
  const value = parsed(text);
  if (value === null) return { error: "not a number" };
  if (isInteger(datatype)) {
    // Integers have no negative zero.
    if (value === 0) return { value: 0 };
    // JavaScript's numbers have 53 bits: a larger one would be sent as another one.
    if (!Number.isSafeInteger(value)) return { error: "not an integer that this page can send" };
  }
  return { value };
}

// Why a value is worth a word, in words; empty if it is not.
export function remark({ stated, low, high, unit, fill }, value) {
  if (value === "NaN" && fill !== null) return "";
  if (value === "NaN") return "NaN is no number: the answer may be none, too";
  if (!stated) return "";
  const of = unit ? ` ${unit}` : "";
  if (Number(value) < low) return `below ${low}${of}, the lowest in the data`;
  if (Number(value) > high) return `above ${high}${of}, the highest in the data`;
  return "";
}

// Nests a row's elements as the server takes them, with the axis of rows: (1, ...axes). Of axes
// that the file leaves open the last takes what there is, and those before it are 1.
export function nested(values, axes) {
  const last = axes.lastIndexOf(-1);
  const known = axes.map((axis, at) => (axis >= 0 ? axis : at === last ? null : 1));
  const others = known.reduce((all, axis) => all * (axis ?? 1), 1);
  if (last >= 0) known[last] = Math.floor(values.length / Math.max(1, others));
  let parts = values;
  for (const axis of known.slice(1).reverse()) {
    parts = Array.from({ length: Math.ceil(parts.length / Math.max(1, axis)) }, (_, at) =>
      parts.slice(at * axis, (at + 1) * axis)
    );
  }
  return known.length ? [parts] : [values[0]];
}

// The row of pasted cells, by the labels of the header or by position: {values} or {error}.
export function matched(inputs, header, cells) {
  const fields = inputs.flatMap((each) => each.fields);
  const open = inputs.length === 1 && !fields.length ? inputs[0] : null;
  let given = cells;
  if (header && fields.length) {
    const at = new Map(header.map((name, column) => [name, column]));
    const missing = fields.filter((field) => !at.has(field.label));
    if (missing.length === fields.length) return { error: "no column of the header is a feature's name" };
    if (missing.length) {
      const names = missing.slice(0, 3).map((field) => field.label).join(", ");
      return { error: `the header lacks ${missing.length} of the features: ${names}` };
    }
    given = fields.map((field) => cells[at.get(field.label)]);
  }
  const wanted = open ? open.size : fields.length;
  if (wanted !== null && given.length !== wanted) {
    return { error: `${given.length} values came, and the model takes ${wanted}` };
  }
  const values = {};
  for (const [index, cell] of given.entries()) {
    const field = fields[index] ?? {
      input: open.input.name,
      datatype: open.input.datatype,
      label: `value ${index + 1}`,
      fill: null,
      categories: null,
    };
    const { input, label } = field;
    const { value, error } = readField(cell, field);
    if (error) return { error: `${label}: ${JSON.stringify(cell)} is ${error}` };
    (values[input] ??= []).push(value);
  }
  return { values };
}
