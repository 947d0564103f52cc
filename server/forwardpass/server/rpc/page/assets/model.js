// One model: its drawing, its inputs and answers, and what its file says of it.

import { describe, hasToken, newestWins, run } from "./api.js";
import { Answers, everyValue, MAX_LISTED } from "./answers.js";
import { Explanation } from "./explanation.js";
import { columnLabels, Drawing } from "./drawing.js";
import { fresh, h, say, table } from "./dom.js";
import { inputsOf, nested, onlyRow } from "./fields.js";
import { Inputs } from "./inputs.js";
import { count, difference, exact, milliseconds, short } from "./numbers.js";
import { snippets } from "./snippets.js";

const PASSING = new Set([0, 429, 503]); // statuses after which a server is asked again

export class ModelView {
  // version: null for the latest. app: what failed goes to app.failed(error).
  constructor(name, version, app) {
    Object.assign(this, { name, version, app });
    this.title = version === null ? name : `${name}, version ${version}`;
    this.body = h("div", {}, h("p", { class: "faint" }, "Asking the server\u2026"));
    this.figures = h("p", { class: "faint figures" });
    this.heading = h("h1", { tabindex: -1 }, name);
    this.element = h("div", {}, h("div", { class: "heading" }, this.heading, this.figures), this.body);
  }

  // Asks for the description and draws it; keep: the row to begin with, if it fits.
  async open(keep = null) {
    // The last one that was asked for counts, in whatever order they come.
    const opening = (this.opening = {});
    let description;
    try {
      description = await describe(this.name, this.version);
    } catch (error) {
      if (this.closed || opening !== this.opening) return;
      this.body.replaceChildren(h("p", { class: "notice", role: "alert" }, error.message));
      this.again = PASSING.has(error.status);
      this.app.failed(error);
      return;
    }
    if (this.closed || opening !== this.opening) return;
    this.description = description;
    this.rows = inputsOf(this.description);
    this.pinned = this.latest = this.other = null;
    this.build();
    if (keep && this.rows.every(({ input, size }) => keep[input.name]?.length === size)) this.inputs.take(keep);
    else this.ask();
  }

  close() {
    this.closed = true;
    this.watch?.disconnect();
  }

  poll(overview) {
    const model = overview.models.find((each) => each.name === this.name);
    if (!model) return;
    const failed = Object.values(model.errors).reduce((sum, each) => sum + each, 0);
    const texts = [
      `${count(model.calls)} calls${failed ? `, ${count(failed)} of them failed` : ""}`,
      `p50 ${milliseconds(model.p50_ms)}`,
      `p99 ${milliseconds(model.p99_ms)}`,
    ];
    say(this.figures, texts.join(" \u00b7 "));
    const ready = model.versions.filter(({ state }) => state === "READY").map(({ version }) => version).join();
    // Another latest version may have other names: it is drawn, with the row that is there.
    const changed = this.ready !== undefined && this.ready !== ready;
    this.ready = ready;
    if ((changed && this.version === null) || this.again) {
      this.again = false;
      this.open(this.inputs?.values);
    }
  }

  build() {
    const { description } = this;
    this.answers = new Answers(description);
    this.explanation = new Explanation(description, () => this.ask());
    this.inputs = new Inputs(description, this.rows, this.answers.pictures(), () => this.ask());
    this.room = h("div", { class: "room" });
    this.trouble = h("p", { class: "notice", role: "alert", hidden: true });
    this.took = h("p", { class: "faint took" });
    this.legend = h("p", { class: "faint legend" });
    this.all = h("details", { class: "panel" }, h("summary", {}, "All values, layer by layer"), h("div", { class: "tables" }));
    this.all.addEventListener("toggle", () => this.list());
    this.pin = h("button", { type: "button", "aria-pressed": "false", on: { click: () => this.pinRow() } }, "Pin this row");
    this.back = h("button", { type: "button", hidden: true, on: { click: () => this.inputs.take(this.pinned.values) } }, "Back to the pinned row");
    const stage = h(
      "section",
      { class: "stage", "aria-labelledby": "answer-title" },
      h("h2", { id: "answer-title", class: "hidden" }, "Answer"),
      h("div", { class: "panel" }, this.room, this.legend),
      this.trouble,
      h("div", { class: "panel" }, this.answers.element, this.explanation.element, h("div", { class: "buttons" }, this.pin, this.back, this.took)),
      this.all
    );
    this.body.replaceChildren(
      this.versions(),
      description.tensors_error ? h("p", { class: "notice" }, `Layers are not drawn: ${description.tensors_error}`) : "",
      description.unproven ? h("p", { class: "notice" }, `Not proven: ${description.unproven}`) : "",
      h("div", { class: "workbench" }, this.answers.summary, stage, this.inputs.element),
      h("div", { class: "more-panels" }, this.card(), h("div", { class: "stage" }, this.calls(), this.sideBySide()))
    );
    this.watch?.disconnect();
    // Drawn for the width there is, and again when that changes, as when a phone is turned.
    this.drawn = 0;
    this.watch = new ResizeObserver(([{ contentRect }]) => this.draw(contentRect.width));
    this.watch.observe(this.room);
  }

  draw(width) {
    if (Math.abs(width - this.drawn) < 8 || width === 0) return;
    this.drawn = width;
    this.drawing = new Drawing(this.description, this.rows, { width: Math.floor(width) });
    const wide = this.drawing.width > width;
    this.room.replaceChildren(this.drawing.element);
    this.room.classList.toggle("scrolls", wide);
    // It scrolls with the keyboard, too.
    for (const [name, value] of Object.entries({ tabindex: "0", role: "group", "aria-label": "Network" })) {
      if (wide) this.room.setAttribute(name, value);
      else this.room.removeAttribute(name);
    }
    say(
      this.legend,
      "Lines are what flows: weight \u00d7 activation, a feature counting by its place in its range. Blue, solid: above zero. " +
        "Orange, dashed or with a minus sign: below." +
        (this.drawing.hasBands ? " A gray band stands for more weights than can be drawn." : "")
    );
    if (this.latest) this.drawing.light(this.latest.values, lit(this.latest.answer));
  }

  ask() {
    this.send ??= newestWins(
      (values) => this.both(values),
      (answers, values) => this.show(answers, values),
      (error) => this.fail(error)
    );
    const row = Object.entries(this.inputs.values).map(([name, values]) => [name, [...values]]);
    this.send(Object.fromEntries(row));
  }

  async both(values) {
    const began = performance.now();
    const answer = await run(this.name, this.version, this.asked(values, this.rows), this.explanation.asked);
    const took = performance.now() - began;
    if (!this.other) return { answer, took };
    try {
      const there = translated(values, this.rows, this.other.rows);
      return { answer, took, other: await run(this.name, this.other.version, this.asked(there, this.other.rows)) };
    } catch (error) {
      return { answer, took, otherError: error };
    }
  }

  asked(values, rows) {
    return Object.fromEntries(rows.map(({ input, axes }) => [input.name, nested(values[input.name], axes)]));
  }

  show({ answer, took, other, otherError }, values) {
    if (this.closed) return;
    // A file that was swapped in meanwhile, of whatever version, may have other names: draw that one.
    if (answer.content !== this.description.content && !this.reopened) {
      this.reopened = true;
      this.open(values).finally(() => (this.reopened = false));
      return;
    }
    this.latest = { answer, values };
    this.trouble.hidden = true;
    this.answers.element.classList.remove("stale");
    this.answers.show(answer, this.pinned?.answer ?? null);
    this.explanation.show(answer.explanation);
    this.drawing?.light(values, lit(answer));
    say(this.took, `answered in ${milliseconds(took)}${answer.layers_error ? `; layers are not shown: ${answer.layers_error}` : ""}`);
    this.list();
    if (this.program) this.fillProgram();
    if (other || otherError) this.fillComparison(answer, other, otherError);
  }

  fail(error) {
    if (this.closed) return;
    this.app.failed(error);
    this.answers.element.classList.add("stale");
    say(this.trouble, this.latest ? `${error.message} (the answer below is the last one)` : error.message);
    this.trouble.hidden = false;
  }

  list() {
    if (!this.all.open || !this.latest) return;
    const { answer, values } = this.latest;
    this.all.lastElementChild.replaceChildren(...everyValue(this.description, answer, values));
  }

  pinRow() {
    this.pinned = this.pinned ? null : this.latest;
    this.pin.setAttribute("aria-pressed", String(this.pinned !== null));
    say(this.pin, this.pinned ? "Unpin" : "Pin this row");
    this.back.hidden = this.pinned === null;
    this.inputs.compare(this.pinned?.values ?? null);
    if (this.latest) this.answers.show(this.latest.answer, this.pinned?.answer ?? null);
  }

  versions() {
    const { versions, version } = this.description;
    if (versions.length === 1) return h("p", { class: "versions faint" }, `version ${version}`);
    const link = (of, text) =>
      h("a", { href: address(this.name, of), "aria-current": of === this.version ? "page" : null }, text);
    return h(
      "nav",
      { class: "versions", "aria-label": "Versions" },
      link(null, `latest (${version})`),
      versions.map((each) => link(each, `version ${each}`))
    );
  }

  // The same row by another version, with what differs marked in words.
  sideBySide() {
    const others = this.description.versions.filter((each) => each !== this.description.version);
    if (!others.length) return "";
    const choice = h(
      "select",
      { id: fresh("other"), on: { change: () => this.choose(choice.value) } },
      h("option", { value: "" }, "none"),
      others.map((each) => h("option", { value: each }, `version ${each}`))
    );
    // No live region: its table changes with each answer.
    this.comparison = h("div", { class: "comparison" });
    return h(
      "section",
      { class: "panel", "aria-labelledby": "side-title" },
      h("h2", { id: "side-title" }, "Versions side by side"),
      h("div", { class: "line" }, h("label", { for: choice.id }, `The same row by version ${this.description.version} and`), choice),
      this.comparison
    );
  }

  async choose(version) {
    this.chosen = version;
    this.other = null;
    this.comparison.replaceChildren();
    if (version === "") return;
    try {
      const description = await describe(this.name, version);
      // Another one may have been chosen meanwhile.
      if (version !== this.chosen) return;
      this.other = { version, description, rows: inputsOf(description) };
      this.ask();
    } catch (error) {
      if (version !== this.chosen) return;
      this.comparison.replaceChildren(h("p", { role: "alert" }, error.message));
      this.app.failed(error);
    }
  }

  fillComparison(answer, other, error) {
    if (!this.other) return;
    if (error) {
      const text = `version ${this.other.version}: ${error.message}`;
      // An alert speaks whenever it comes.
      if (this.comparison.textContent !== text) this.comparison.replaceChildren(h("p", { role: "alert" }, text));
      return;
    }
    const rows = [];
    for (const output of this.description.outputs) {
      const here = onlyRow(answer.outputs[output.name]);
      const there = onlyRow(other.outputs[output.name] ?? []);
      const names = columnLabels(output.labels, here.length);
      for (const [column, value] of here.slice(0, MAX_LISTED).entries()) {
        const same = Object.is(value, there[column]);
        const label = names[column] ?? (here.length === 1 ? "" : `${column}`);
        rows.push([
          label ? `${output.name}: ${label}` : output.name,
          shown(value),
          there.length > column ? shown(there[column]) : "\u2013",
          there.length > column ? (same ? "same" : h("strong", {}, difference(there[column], value))) : "is not there",
        ]);
      }
      const verdicts = [answer, other].map((each) => each.verdicts[output.name]?.[0] ?? null);
      if (verdicts.some((verdict) => verdict !== null)) {
        const [mine, its] = verdicts.map((verdict) => [verdict].flat().join(", ") || "none");
        rows.push([`${output.name}: verdict`, mine, its, mine === its ? "same" : h("strong", {}, "differs")]);
      }
    }
    const heads = ["output", `version ${answer.version}`, `version ${other.version}`, "difference"];
    const wide = Object.values(answer.outputs).some((output) => onlyRow(output).length > MAX_LISTED);
    const more = wide ? `, the first ${MAX_LISTED} columns of an output` : "";
    this.comparison.replaceChildren(table(`The same row by two versions${more}`, heads, rows, "tall"));
  }

  // Programs that make the same call.
  calls() {
    const name = fresh("language");
    this.program = h("pre", { tabindex: 0, role: "group", "aria-label": "Program" }, h("code"));
    this.language = "Python";
    const choice = ["Python", "curl", "grpcurl", "JavaScript"].map((language) =>
      h(
        "label",
        { class: "inline" },
        h("input", {
          type: "radio",
          name,
          value: language,
          checked: language === "Python",
          on: { change: () => this.fillProgram(language) },
        }),
        language
      )
    );
    const copied = h("span", { class: "faint", role: "status" });
    const copy = h("button", { type: "button", on: { click: async () => say(copied, await copyText(this.program)) } }, "Copy");
    return h(
      "section",
      { class: "panel", "aria-labelledby": "call-title" },
      h("h2", { id: "call-title" }, "Call it"),
      h("fieldset", { class: "choices" }, h("legend", { class: "hidden" }, "Language"), choice),
      this.program,
      h("div", { class: "buttons" }, copy, copied),
      h("p", { class: "faint" }, "With the row above, number for number. gRPC has a port of its own, as the server sees it: a proxy before it may have another.")
    );
  }

  fillProgram(language = this.language) {
    this.language = language;
    if (!this.latest) return;
    const model = { name: this.name, version: this.version, inputs: this.rows, values: this.latest.values };
    const where = { host: location.hostname, port: this.description.grpc_port ?? 8001, origin: location.origin, secret: hasToken(), tls: location.protocol === "https:" };
    say(this.program.firstElementChild, snippets(model, where)[language]);
  }

  // What the file says of itself, and what the server has proven of it.
  card() {
    const { provenance, batch_invariant: invariant, samples, content } = this.description;
    const together =
      invariant === "true"
        ? "Rows that run together get the same bits as alone."
        : `Each call runs alone: ${invariant === "false" ? "rows that ran together got other bits" : invariant || "not tried"}.`;
    const replayed = samples.length
      ? `${samples.length} stored rows were answered as the file says before the model was served.`
      : "The file has no stored rows to compare with.";
    const entries = [
      ...Object.entries(provenance),
      ["stored rows", replayed],
      ["batches", together],
      ["content", h("code", {}, content)],
    ];
    this.drift = h("div", {});
    this.fillDrift();
    const again = h("button", { type: "button", on: { click: () => this.refreshDrift() } }, "Count again");
    return h(
      "section",
      { class: "panel", "aria-labelledby": "card-title" },
      h("h2", { id: "card-title" }, "The model's card"),
      h("dl", { class: "card-list" }, entries.map(([term, text]) => h("div", {}, h("dt", {}, term), h("dd", {}, text)))),
      h("h3", {}, "Inputs since the start"),
      this.drift,
      h("div", { class: "buttons" }, again)
    );
  }

  async refreshDrift() {
    try {
      this.description.drift = (await describe(this.name, this.version)).drift;
      this.fillDrift();
    } catch (error) {
      this.app.failed(error);
    }
  }

  ranged(input) {
    return this.description.inputs.find((each) => each.name === input)?.low.length > 0;
  }

  fillDrift() {
    const parts = this.description.drift.map(({ input, rows, outside, by_feature: byFeature }) => {
      const fields = this.rows.find((each) => each.input.name === input)?.fields ?? [];
      const worst = (byFeature ?? [])
        .map((values, index) => [fields[index]?.label ?? `${index + 1}`, values])
        .filter(([, values]) => values > 0)
        .sort(([, one], [, other]) => other - one);
      return h(
        "div",
        {},
        h("p", { class: "small" }, `${input}: ${count(rows)} rows were examined, ${this.ranged(input) ? `with ${count(outside)} values out of their range` : "and the file states no ranges"}.`),
        byFeature === null && outside ? h("p", { class: "faint" }, "Start the server with --drift-by-feature to count them by feature.") : null,
        worst.length ? table(`Features of ${input} out of range`, ["feature", "values"], worst.map(([label, values]) => [label, count(values)]), "tall") : null
      );
    });
    const none = h("p", { class: "faint" }, "Not counted: start the server with --metrics-port to have inputs examined.");
    this.drift.replaceChildren(...(parts.length ? parts : [none]));
  }
}

// The address of a model in this page.
export function address(name, version = null) {
  const model = `#/models/${encodeURIComponent(name)}`;
  return version === null ? model : `${model}/versions/${encodeURIComponent(version)}`;
}

// The values of each drawn tensor, of one row; outputs are those of the served model itself.
function lit(answer) {
  const layers = Object.entries({ ...answer.layers, ...answer.outputs });
  return Object.fromEntries(layers.map(([name, rows]) => [name, onlyRow(rows)]));
}

// A row for a version that may have the same features in another order.
function translated(values, here, there) {
  return Object.fromEntries(
    there.map(({ input, fields }) => {
      const mine = here.find((each) => each.input.name === input.name);
      if (!mine || mine.fields.length !== fields.length) throw new Error(`it takes other features for ${input.name}`);
      if (!fields.length || !input.labels.length || !mine.input.labels.length) return [input.name, values[input.name]];
      const at = new Map(mine.fields.map((field) => [field.label, field.index]));
      const unknown = fields.find((field) => !at.has(field.label));
      if (unknown) throw new Error(`it takes a feature ${unknown.label}`);
      return [input.name, fields.map((field) => values[input.name][at.get(field.label)])];
    })
  );
}

function shown(value) {
  return h("span", { "data-value": exact(value), title: exact(value) }, short(value));
}

// Without TLS a browser keeps the clipboard from a page: then the text is selected, to be copied.
async function copyText(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return "copied";
  } catch {
    getSelection().selectAllChildren(element);
    return "selected: copy it with the keyboard";
  }
}
