// Elements without HTML text: whatever a model file says gets into the page as text alone.

const SVG = "http://www.w3.org/2000/svg";

// Makes an element. Properties: `class`, `data-*`, `aria-*` and other attributes; `on` has
// listeners by event; null, undefined and false leave an attribute out. Children: nodes, texts,
// lists of them, null for none.
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

// The same of SVG.
export function s(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

// Writes a text only where it is another one: a live region speaks at every write.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let ids = 0;

// An id that the page does not have yet, for labels and descriptions.
export function fresh(name) {
  ids += 1;
  return `${name}-${ids}`;
}

// A table with a head; each cell of a row is a text or a node. The first column names its row.
export function table(caption, heads, rows, className = "") {
  const head = h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)));
  const body = rows.map(([name, ...cells]) =>
    h("tr", {}, h("th", { scope: "row" }, name), cells.map((cell) => h("td", {}, cell)))
  );
  // A wide table scrolls by itself, not the page; with the keyboard, too.
  return h(
    "div",
    { class: `scroll ${className}`, tabindex: 0, role: "group", "aria-label": caption },
    h("table", {}, h("caption", {}, caption), h("thead", {}, head), h("tbody", {}, body))
  );
}
