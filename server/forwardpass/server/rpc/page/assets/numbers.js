// Numbers as text, and text as numbers. The server writes the shortest text that gives the same
// bits, and so does String(): what is kept in `data-value` is the server's number to the bit.

// The full text of a number of the server's, which may be "NaN", "Infinity" or "-Infinity".
export function exact(value) {
  return Object.is(value, -0) ? "-0" : String(value);
}

// JSON with the sign of zero, which JSON.stringify leaves out; as a float for all who read it.
export function written(value) {
  if (Array.isArray(value)) return `[${value.map(written).join()}]`;
  if (Object.is(value, -0)) return "-0.0";
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}:${written(each)}`).join()}}`;
}

// A number that is short enough to read: four digits.
export function short(value) {
  const number = Number(value);
  if (!Number.isFinite(number)) return String(value);
  if (number === 0) return "0";
  const size = Math.abs(number);
  if (size >= 1e6 || size < 1e-4) return number.toExponential(2).replace("e+", "e");
  return String(Number(number.toPrecision(size >= 1000 ? Math.ceil(Math.log10(size)) : 4)));
}

// A measurement that is only looked at: three digits.
export function few(value) {
  return short(value >= 100 ? Math.round(value) : Number(value.toPrecision(3)));
}

// A count, with thin separators.
export function count(value) {
  return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
}

// Milliseconds, or a dash where there were no calls.
export function milliseconds(value) {
  return value === null || value === undefined ? "\u2013" : `${few(value)} ms`;
}

// A size in memory, or a dash where the system does not report it.
export function bytes(value) {
  if (value === null) return "\u2013";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, value)) / 10)));
  return `${short(value / 1024 ** step)} ${units[step]}`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

const NAMED = new Map([
  ["nan", "NaN"],
  ["inf", "Infinity"],
  ["infinity", "Infinity"],
  ["+inf", "Infinity"],
  ["+infinity", "Infinity"],
  ["-inf", "-Infinity"],
  ["-infinity", "-Infinity"],
]);

// What a text says: a number, "NaN", "Infinity" or "-Infinity"; null if it is none of them.
export function parsed(text) {
  const trimmed = text.trim();
  const named = NAMED.get(trimmed.toLowerCase());
  if (named !== undefined) return named;
  // Number() also reads hexadecimal digits, and nothing as 0.
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(trimmed)) return null;
  const value = Number(trimmed);
  return Number.isFinite(value) ? value : null;
}

// The difference of two numbers of the server's, with its sign; "0" where the bits are the same.
export function difference(now, then) {
  if (Object.is(now, then)) return "0";
  const by = Number(now) - Number(then);
  if (Number.isNaN(by)) return "not comparable";
  return by > 0 ? `+${short(by)}` : short(by).replace("-", "\u2212");
}

// Reads pasted rows: numbers between commas, semicolons, tabs or blanks, each row on its line, with
// a header or without; brackets of a list are ignored. Returns {header, rows} or {error}.
export function pasted(text, maxRows = 64) {
  // A list as Python or JSON writes it may go over several lines, and has a bracket after each row.
  const plain = /^\s*\[/.test(text)
    ? text.replace(/\s+/g, " ").replace(/\]\s*,/g, "\n").replace(/[[\]]/g, " ")
    : text;
  const lines = plain.split(/\r?\n/).filter((line) => line.trim());
  if (!lines.length) return { error: "there is nothing in the box" };
  const separator = [",", ";", "\t"].find((each) => cells(lines[0], each).length > 1) ?? " ";
  const table = lines.slice(0, maxRows + 1).map((line) => cells(line, separator));
  const isHeader = table.length > 1 && table[0].some((cell) => cell !== "" && parsed(cell) === null);
  const header = isHeader ? table.shift() : null;
  const rows = [];
  for (const [index, row] of table.slice(0, maxRows).entries()) {
    if (header && row.length !== header.length) {
      return { error: `row ${index + 1} has ${row.length} columns, and the header ${header.length}` };
    }
    rows.push(row);
  }
  return { header, rows };
}

function cells(line, separator) {
  if (separator === " ") return line.trim().split(/\s+/);
  const found = [];
  let cell = "";
  let quoted = false;
  for (const letter of line) {
    if (letter === '"') quoted = !quoted;
    else if (letter === separator && !quoted) {
      found.push(cell);
      cell = "";
    } else cell += letter;
  }
  found.push(cell);
  // A comma at the end of a row ends it, and begins no other cell.
  if (found.length > 1 && !found.at(-1).trim()) found.pop();
  return found.map((each) => each.trim());
}
