// How to make the same prediction elsewhere, with exactly the numbers that are shown.

import { nested } from "./fields.js";
import { exact, written } from "./numbers.js";

// The lists of typed contents that gRPC's JSON has, by datatype.
const CONTENTS = {
  BOOL: "bool_contents",
  INT8: "int_contents",
  INT16: "int_contents",
  INT32: "int_contents",
  INT64: "int64_contents",
  UINT8: "uint_contents",
  UINT16: "uint_contents",
  UINT32: "uint_contents",
  UINT64: "uint64_contents",
  FP32: "fp32_contents",
  FP64: "fp64_contents",
  BYTES: "bytes_contents",
};

// Programs by language. model: {name, version (null: the latest), inputs: [{input, axes}], values}.
// server: {host, port (of gRPC), origin, tls, secret: whether it asked for a token, which no program shows}.
export function snippets(model, server) {
  return {
    Python: python(model, server),
    curl: curl(model, server),
    grpcurl: grpcurl(model, server),
    JavaScript: javascript(model, server),
  };
}

function python({ name, version, inputs, values }, { host, port, tls, secret }) {
  const rows = inputs.map(({ input, axes }) => {
    const row = nested(values[input.name], axes);
    return [input.name, input.datatype === "BYTES" ? JSON.stringify(row) : pythonic(row)];
  });
  const x = `{\n${rows.map(([input, row]) => `    ${quoted(input)}: ${row},\n`).join("")}}`;
  const options = version === null ? "" : `, version=${quoted(version)}`;
  const access = tls ? `, tls=True${secret ? ', token="..."' : ""}` : secret ? ', token="...", plaintext_token=True' : "";
  return [
    ...(rows.some(([, row]) => /\b(nan|inf)\b/.test(row)) ? ["from math import inf, nan", ""] : []),
    "from forwardpass.client import Client",
    "",
    `client = Client(${quoted(`${host}:${port}`)}${access})  # the port of gRPC`,
    `prediction = client.predict(${quoted(name)}, ${x}${options})`,
    "print(dict(prediction))",
    "",
  ].join("\n");
}

function curl(model, { origin, secret }) {
  const body = inQuotes(written(rest(model)));
  const token = secret ? " -H 'Authorization: Bearer ...'" : "";
  return `curl${token} ${inQuotes(place(model, origin))} \\\n  -d ${body}\n`;
}

function grpcurl({ name, version, inputs, values }, { host, port, tls, secret }) {
  const message = {
    model_name: name,
    ...(version === null ? {} : { model_version: version }),
    inputs: inputs.map((each) => {
      const { name: input, datatype } = each.input;
      const data = values[input].map((value) => (datatype === "BYTES" ? base64(value) : value));
      return { name: input, datatype, shape: shape(each, values), contents: { [CONTENTS[datatype] ?? "fp32_contents"]: data } };
    }),
  };
  if (inputs.some(({ input }) => !(input.datatype in CONTENTS))) {
    return "# FP16 has no numbers in gRPC's JSON: send it in raw_input_contents, from a program.\n";
  }
  const how = `${tls ? "" : "-plaintext "}${secret ? "-H 'authorization: Bearer ...' " : ""}`;
  return (
    `grpcurl ${how}-d ${inQuotes(written(message))} \\\n` +
    `  ${host}:${port} inference.GRPCInferenceService/ModelInfer\n`
  );
}

function javascript(model, { origin, secret }) {
  // JSON.stringify would leave out the sign of zero.
  const row = written(rest(model));
  const body = row === JSON.stringify(rest(model)) ? `JSON.stringify(${row})` : JSON.stringify(row);
  const headers = secret ? '\n  headers: { Authorization: "Bearer ..." },' : "";
  return (
    `const response = await fetch(${JSON.stringify(place(model, origin))}, {\n` +
    `  method: "POST",${headers}\n` +
    `  body: ${body},\n` +
    "});\nconst { outputs } = await response.json();\nconsole.log(outputs);\n"
  );
}

function rest({ inputs, values }) {
  return {
    inputs: inputs.map((each) => ({
      name: each.input.name,
      datatype: each.input.datatype,
      shape: shape(each, values),
      data: values[each.input.name],
    })),
  };
}

function place({ name, version }, origin) {
  const of = version === null ? "" : `/versions/${encodeURIComponent(version)}`;
  return `${origin}/v2/models/${encodeURIComponent(name)}${of}/infer`;
}

function shape({ input, axes }, values) {
  const found = [];
  for (let rows = nested(values[input.name], axes); Array.isArray(rows); rows = rows[0]) found.push(rows.length);
  return found;
}

// Numbers as Python writes them: JSON, but for the names of truth and of what is not finite.
function pythonic(value) {
  if (Array.isArray(value)) return `[${value.map(pythonic).join(", ")}]`;
  if (typeof value === "boolean") return value ? "True" : "False";
  // The integer -0 is 0.
  if (Object.is(value, -0)) return "-0.0";
  return { NaN: "nan", Infinity: "inf", "-Infinity": "-inf" }[value] ?? exact(value);
}

function quoted(text) {
  return JSON.stringify(text);
}

// A word of a POSIX shell.
function inQuotes(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
