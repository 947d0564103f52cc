// fetch of Node.js, as browsers have it, without a package. What is tried and reported: see report.py.
"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");

const [taskPath, reportPath] = process.argv.slice(2);
const task = JSON.parse(fs.readFileSync(taskPath, "utf8"));
const report = { client: "fetch (Node.js)", rows: {}, faults: {}, answers: {} };
const url = (path) => `http://${task.rest}${path}`;
const MANY = 1000;
const HEADER_SIZE = "Inference-Header-Content-Length";

async function row(names, attempt) {
  for (const name of [names].flat()) {
    try {
      await attempt();
      report.rows[name] = "yes";
    } catch (error) {
      report.faults[name] = String(error.stack);
    }
  }
}

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const answer = await fetch(url(path), options);
  return { status: answer.status, json: await answer.json() };
}

function entry(rows) {
  // One flat list, where nested ones are limited.
  const data = rows.length < MANY ? rows : rows.flat();
  return { name: "x", datatype: "FP32", shape: [rows.length, rows[0].length], data };
}

async function infer(rows, more = {}, model = task.model) {
  const { status, json } = await ask(`/v2/models/${model}/infer`, { inputs: [entry(rows)], ...more });
  assert.equal(status, 200, JSON.stringify(json));
  return json;
}

function rowsOf({ data, shape }) {
  const columns = shape[1];
  return Array.from({ length: shape[0] }, (_, at) =>
    Array.from(data.slice(at * columns, (at + 1) * columns))
  );
}

const outputs = (json) => Object.fromEntries(json.outputs.map((each) => [each.name, rowsOf(each)]));

async function binary(rows) {
  const raw = new Uint8Array(new Float32Array(rows.flat()).buffer);
  const { data, ...tensor } = entry(rows);
  tensor.parameters = { binary_data_size: raw.length };
  const text = new TextEncoder().encode(
    JSON.stringify({ inputs: [tensor], parameters: { binary_data_output: true } })
  );
  const answer = await fetch(url(`/v2/models/${task.model}/infer`), {
    method: "POST",
    headers: { [HEADER_SIZE]: String(text.length) },
    body: new Blob([text, raw]),
  });
  assert.equal(answer.status, 200);
  const size = Number(answer.headers.get(HEADER_SIZE));
  const whole = await answer.arrayBuffer();
  const json = JSON.parse(new TextDecoder().decode(whole.slice(0, size)));
  let at = size;
  for (const output of json.outputs) {
    const end = at + output.parameters.binary_data_size;
    output.data = new Float32Array(whole.slice(at, end));
    at = end;
  }
  return outputs(json);
}

async function server() {
  const { model } = task;
  await row("ServerLive", async () => assert.equal((await ask("/v2/health/live")).json.live, true));
  await row("ServerReady", async () =>
    assert.equal((await ask("/v2/health/ready")).json.ready, true)
  );
  await row("ServerMetadata", async () =>
    assert.equal((await ask("/v2")).json.name, "forwardpass")
  );
  await row("ModelReady", async () => {
    assert.equal((await ask(`/v2/models/${model}/ready`)).status, 200);
    assert.equal((await ask("/v2/models/nobody/ready")).status, 503);
  });
  await row("ModelMetadata", async () => {
    const { json } = await ask(`/v2/models/${model}`);
    assert.deepEqual(json.inputs[0].shape, [-1, task.x[0].length]);
  });
  await row("ModelConfig", async () =>
    assert.equal((await ask(`/v2/models/${model}/config`)).json.name, model)
  );
  await row("RepositoryIndex", async () => {
    const { json } = await ask("/v2/repository/index", {});
    assert.ok(json.some(({ name }) => name === model));
  });
  await row("LogSettings", async () => assert.equal((await ask("/v2/logging")).status, 200));
}

async function ways() {
  const { x, model } = task;
  await row("JSON", async () => (report.answers.json = outputs(await infer(x))));
  await row("raw tensors", async () => (report.answers.binary = await binary(x)));
  await row("BYTES", async () => {
    const texts = ["one", "zwei \u00e4", ""];
    const tensor = { name: "x", datatype: "BYTES", shape: [3], data: texts };
    const { json } = await ask("/v2/models/texts/infer", { inputs: [tensor] });
    assert.deepEqual(json.outputs[0].data, texts);
  });
  await row("chosen outputs", async () => {
    const json = await infer(x.slice(0, 1), { outputs: [{ name: "worst" }] });
    assert.deepEqual(Object.keys(outputs(json)), ["worst"]);
  });
  await row("a version", async () => {
    const { outputs: found } = await infer([[1, 2, 3]], {}, "versions/versions/1");
    assert.deepEqual(found[0].data, [1, 2, 3]);
  });
  await row("the request's id", async () =>
    assert.equal((await infer(x.slice(0, 1), { id: "17" })).id, "17")
  );
  await row("parameters", async () => {
    const parameters = { mine: "text", number: 7, flag: true };
    assert.ok((await infer(x.slice(0, 1), { parameters })).outputs);
  });
  // It asks for gzip, deflate and br with every request.
  await row("compressed", async () => {
    const json = await infer(x);
    assert.deepEqual(outputs(json), report.answers.json);
  });
  await row("1,000 rows", async () => {
    const many = Array.from({ length: MANY }, (_, at) => x[at % x.length]);
    for (const rows of Object.values(outputs(await infer(many)))) assert.equal(rows.length, MANY);
  });
  await row("at the same time", async () => {
    const parts = await Promise.all(x.map((one) => infer([one]).then(outputs)));
    report.answers.together = Object.fromEntries(
      Object.keys(parts[0]).map((name) => [name, parts.flatMap((part) => part[name])])
    );
  });
  await row("named features", async () => {
    const { json } = await ask(`/v2/models/${model}`);
    const { labels } = Object.values(JSON.parse(json.properties["forwardpass.inputs"]))[0];
    const body = Object.fromEntries(labels.map((label, at) => [label, x[0][at]]));
    const answer = await ask(`/v2/models/${model}:predict`, body);
    assert.ok(answer.json.predictions[0].malignancy.label);
  });
  await row("errors", async () => {
    assert.equal((await ask("/v2/models/nobody/infer", { inputs: [] })).status, 404);
    assert.equal((await ask(`/v2/models/${model}/infer`, { inputs: [] })).status, 400);
  });
  await row("ModelStatistics", async () => {
    const { json } = await ask(`/v2/models/${model}/stats`);
    assert.ok(json.model_stats[0].inference_stats.success.count > 0);
  });
}

async function main() {
  await server();
  await ways();
  fs.writeFileSync(reportPath, JSON.stringify(report));
}

main();
