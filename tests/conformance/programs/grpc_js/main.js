// @grpc/grpc-js with messages that @grpc/proto-loader reads from our inference.proto; its own
// health and reflection clients. What is tried and reported: see ../report.py.
"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");

const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");
const health = require("grpc-health-check");
const { GrpcReflection } = require("grpc-js-reflection-client");

const SERVICE = "inference.GRPCInferenceService";
const TURNS = 5000; // as in ../report.py

const [taskPath, reportPath] = process.argv.slice(2);
const task = JSON.parse(fs.readFileSync(taskPath, "utf8"));
const { name, version } = require("@grpc/grpc-js/package.json");
const report = { client: `${name} ${version}`, rows: {}, faults: {}, answers: {} };
const insecure = grpc.credentials.createInsecure();

const { inference } = grpc.loadPackageDefinition(
  protoLoader.loadSync(task.proto, { keepCase: true, longs: String, enums: String, defaults: true })
);
const client = new inference.GRPCInferenceService(task.target, insecure);
const HealthClient = grpc.makeClientConstructor(health.service, "Health");
const healthClient = new HealthClient(task.target, insecure);

async function row(name, attempt) {
  try {
    await attempt();
    report.rows[name] = "yes";
  } catch (error) {
    report.faults[name] = String(error.stack);
  }
}

// Makes a promise of a unary call.
function ask(stub, method, request, options = {}) {
  return new Promise((resolve, reject) => {
    stub[method](request, options, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

const infer = (request, options) => ask(client, "ModelInfer", request, options);

async function codeOf(call) {
  try {
    await call;
  } catch (error) {
    assert.equal(typeof error.code, "number", error.stack);
    return grpc.status[error.code];
  }
  return "OK";
}

function rawRows(rows) {
  return Buffer.from(new Float32Array(rows.flat()).buffer);
}

function request(rows, more = {}) {
  const tensor = { name: "", datatype: "FP32", shape: [rows.length, rows[0].length] };
  return {
    model_name: task.model,
    inputs: [{ ...tensor, name: request.input }],
    raw_input_contents: [rawRows(rows)],
    ...more,
  };
}

// The outputs of a reply by name, as rows of numbers.
function outputs(reply) {
  const found = {};
  reply.outputs.forEach((output, index) => {
    assert.equal(output.datatype, "FP32");
    const raw = reply.raw_output_contents[index];
    const columns = Number(output.shape[1]);
    const rows = [];
    for (let at = 0; at < raw.length; at += 4 * columns) {
      rows.push(Array.from({ length: columns }, (_, column) => raw.readFloatLE(at + 4 * column)));
    }
    assert.equal(rows.length, Number(output.shape[0]));
    found[output.name] = rows;
  });
  return found;
}

async function server() {
  await row("ServerLive", async () => assert.equal((await ask(client, "ServerLive", {})).live, true));
  await row("ServerReady", async () => {
    assert.equal((await ask(client, "ServerReady", {})).ready, true);
  });
  await row("ServerMetadata", async () => {
    assert.equal((await ask(client, "ServerMetadata", {})).name, "forwardpass");
  });
  await row("ModelReady", async () => {
    assert.equal((await ask(client, "ModelReady", { name: task.model })).ready, true);
    assert.equal((await ask(client, "ModelReady", { name: "no such model" })).ready, false);
  });
  await row("ModelMetadata", async () => {
    const metadata = await ask(client, "ModelMetadata", { name: task.model });
    request.input = metadata.inputs[0].name;
    assert.deepEqual(metadata.inputs[0].shape, ["-1", String(task.x[0].length)]);
  });
}

async function calls() {
  await row("raw tensors", async () => {
    report.answers["raw"] = outputs(await infer(request(task.x)));
  });
  await row("typed contents", async () => {
    const typed = request(task.x, { raw_input_contents: [] });
    typed.inputs[0].contents = { fp32_contents: task.x.flat() };
    report.answers["typed"] = outputs(await infer(typed));
    const reply = await infer({
      model_name: "counts",
      inputs: [
        {
          name: "x",
          datatype: "INT64",
          shape: [1, 3],
          contents: { int64_contents: ["4611686018427387905", -1, 0] },
        },
      ],
    });
    assert.equal(reply.raw_output_contents[0].readBigInt64LE(0), 4611686018427387905n);
  });
  await row("BYTES", async () => {
    const texts = ["one", "zwei ä", ""].map((text) => Buffer.from(text));
    const reply = await infer({
      model_name: "texts",
      inputs: [
        { name: "x", datatype: "BYTES", shape: [3], contents: { bytes_contents: texts } },
      ],
    });
    const expected = texts.flatMap((text) => {
      const size = Buffer.alloc(4);
      size.writeUInt32LE(text.length);
      return [size, text];
    });
    assert.deepEqual(reply.raw_output_contents[0], Buffer.concat(expected));
  });
  await row("chosen outputs", async () => {
    const all = Object.keys(report.answers["raw"]);
    const last = all[all.length - 1];
    const reply = await infer(request(task.x.slice(0, 2), { outputs: [{ name: last }] }));
    assert.deepEqual(Object.keys(outputs(reply)), [last]);
  });
  await row("a version", async () => {
    const rows = [[1, 2, 3]];
    for (const [version, ran, answer] of [
      ["", "2", [[14.5, 31.5]]],
      ["1", "1", rows],
    ]) {
      const reply = await infer({
        model_name: "versions",
        model_version: version,
        inputs: [{ name: "x", datatype: "FP32", shape: [1, 3] }],
        raw_input_contents: [rawRows(rows)],
      });
      assert.equal(reply.model_version, ran);
      assert.deepEqual(outputs(reply).y, answer);
    }
  });
  await row("the request's id", async () => {
    for (const id of ["17", "ü"]) {
      assert.equal((await infer(request(task.x.slice(0, 1), { id }))).id, id);
    }
  });
  await row("parameters", async () => {
    const parameters = { mine: { string_param: "text" }, number: { double_param: 0.5 } };
    const got = outputs(await infer(request(task.x.slice(0, 1), { parameters })));
    for (const [name, rows] of Object.entries(got)) {
      assert.deepEqual(rows[0], report.answers["raw"][name][0]);
    }
  });
  await row("classification", async () => {
    const [[name, rows]] = Object.entries(report.answers["raw"]);
    const wanted = { name, parameters: { classification: { int64_param: 1 } } };
    const reply = await infer(request(task.x.slice(0, 1), { outputs: [wanted] }));
    assert.equal(reply.outputs[0].datatype, "BYTES");
    const [score, index] = reply.raw_output_contents[0].subarray(4).toString().split(":");
    assert.equal(Math.fround(Number(score)).toPrecision(5), Math.max(...rows[0]).toPrecision(5));
    assert.equal(Number(index), rows[0].indexOf(Math.max(...rows[0])));
  });
  await row("1,000 rows", async () => {
    const many = Array.from({ length: 1000 }, (_, index) => task.x[index % task.x.length]);
    const got = outputs(await infer(request(many)));
    report.answers["1,000 rows"] = {};
    for (const [name, rows] of Object.entries(got)) {
      assert.equal(rows.length, 1000);
      report.answers["1,000 rows"][name] = rows.slice(0, task.x.length);
    }
  });
  await row("compressed", async () => {
    const options = { "grpc.default_compression_algorithm": 2 };
    const other = new inference.GRPCInferenceService(task.target, insecure, options);
    report.answers["gzip"] = outputs(await ask(other, "ModelInfer", request(task.x)));
    other.close();
  });
  await row("at the same time", async () => {
    const replies = await Promise.all(task.x.map((one) => infer(request([one]))));
    const joined = {};
    for (const reply of replies.map(outputs)) {
      for (const [name, rows] of Object.entries(reply)) {
        joined[name] = [...(joined[name] ?? []), rows[0]];
      }
    }
    report.answers["at the same time"] = joined;
  });
  await row("a deadline", async () => {
    const slow = {
      model_name: "slow",
      inputs: [
        { name: "turns", datatype: "INT64", shape: [], contents: { int64_contents: [TURNS] } },
      ],
    };
    const code = await codeOf(infer(slow, { deadline: Date.now() + 100 }));
    assert.equal(code, "DEADLINE_EXCEEDED");
  });
  await row("errors", async () => {
    assert.equal(await codeOf(infer({ model_name: "no such model" })), "NOT_FOUND");
    await assert.rejects(infer(request(task.x.map((one) => one.slice(1)))), (error) => {
      assert.equal(error.code, grpc.status.INVALID_ARGUMENT);
      assert.match(error.details, new RegExp(`expected shape \\[-1, ${task.x[0].length}\\]`));
      return true;
    });
  });
}

async function stream() {
  await row("ModelStreamInfer", async () => {
    const call = client.ModelStreamInfer();
    task.x.forEach((one, number) => {
      call.write(request([one], { id: String(number) }));
      if (number === 5) call.write({ model_name: "no such model", id: "wrong" });
    });
    call.end();
    const joined = {};
    let count = 0;
    for await (const answer of call) {
      if (answer.infer_response.id === "wrong") {
        assert.match(answer.error_message, /no such model/);
        assert.equal(count, 6);
        continue;
      }
      assert.equal(answer.error_message, "");
      assert.equal(answer.infer_response.id, String(count));
      for (const [name, rows] of Object.entries(outputs(answer.infer_response))) {
        joined[name] = [...(joined[name] ?? []), rows[0]];
      }
      count += 1;
    }
    report.answers["stream"] = joined;
  });
}

async function beyond() {
  await row("ModelConfig", async () => {
    const { config } = await ask(client, "ModelConfig", { name: task.model });
    assert.equal(config.input[0].data_type, "TYPE_FP32");
    assert.equal(config.backend, "onnxruntime");
  });
  await row("ModelStatistics", async () => {
    const { model_stats } = await ask(client, "ModelStatistics", { name: task.model });
    assert.ok(Number(model_stats[0].inference_count) >= task.x.length);
  });
  await row("RepositoryIndex", async () => {
    const { models } = await ask(client, "RepositoryIndex", {});
    assert.ok(models.some((model) => model.name === task.model && model.state === "READY"));
  });
  await row("Health: Check", async () => {
    for (const service of ["", task.model]) {
      assert.equal((await ask(healthClient, "check", { service })).status, "SERVING");
    }
    assert.equal(await codeOf(ask(healthClient, "check", { service: "nothing" })), "NOT_FOUND");
  });
  await row("Health: Watch", async () => {
    const watch = healthClient.watch({ service: task.model });
    const steps = [
      ["RepositoryModelUnload", "NOT_SERVING"],
      ["RepositoryModelLoad", "SERVING"],
    ];
    let expected = "SERVING";
    for await (const { status } of watch) {
      assert.equal(status, expected);
      const step = steps.shift();
      if (step === undefined) break;
      expected = step[1];
      await ask(client, step[0], { model_name: task.model });
    }
    assert.deepEqual(steps, []);
    report.rows["RepositoryModelLoad"] = report.rows["RepositoryModelUnload"] = "yes";
  });
  for (const version of ["v1", "v1alpha"]) {
    await row(`Reflection ${version}`, async () => {
      const reflection = new GrpcReflection(task.target, insecure, {}, version);
      const services = await reflection.listServices();
      assert.ok(services.includes(SERVICE) && services.includes("grpc.health.v1.Health"));
      const descriptor = await reflection.getDescriptorBySymbol(SERVICE);
      const found = descriptor.getPackageObject({ keepCase: true, defaults: true }).inference;
      const other = new found.GRPCInferenceService(task.target, insecure);
      assert.equal((await ask(other, "ModelReady", { name: task.model })).ready, true);
      other.close();
    });
  }
}

async function main() {
  await server();
  await calls();
  await stream();
  await beyond();
  fs.writeFileSync(reportPath, JSON.stringify(report));
  process.exit(0); // the clients of health and reflection keep their connections
}

main();
