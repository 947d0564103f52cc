"""Everything that an unmodified tritonclient can ask of a server on CPUs, in every way to infer.

The server allows model control and shared memory; the model's first input is FP32 with a batch
axis. Usage: triton_rpcs.py TARGET MODEL INPUT.npz ANSWERS.npz
"""

import asyncio
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm

target, model, inputs, answers = sys.argv[1:]
x = np.load(inputs)["x"].astype(np.float32)
client = triton.InferenceServerClient(target)
metadata = client.get_model_metadata(model)
NAMES = [tensor.name for tensor in metadata.outputs]
found: dict[str, np.ndarray] = {}


def sent(rows: np.ndarray) -> list[triton.InferInput]:
    tensor = triton.InferInput(metadata.inputs[0].name, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def keep(way: str, parts: list[triton.InferResult]) -> None:
    for name in NAMES:
        found[f"{way}/{name}"] = np.concatenate([part.as_numpy(name) for part in parts])


def code_of(call: str, *args: object, **kwargs: object) -> str:
    try:
        getattr(client, call)(*args, **kwargs)
    except triton.InferenceServerException as error:
        return error.status().removeprefix("StatusCode.")
    return "OK"


def unary() -> None:
    keep("sync", [client.infer(model, sent(x))])
    for algorithm in ("gzip", "deflate"):
        keep(algorithm, [client.infer(model, sent(x), compression_algorithm=algorithm)])
    done: queue.Queue = queue.Queue()
    client.async_infer(model, sent(x), lambda result, error: done.put((result, error)))
    result, error = done.get(timeout=20)
    assert error is None, error
    keep("callback", [result])


async def aio() -> None:
    async with triton_aio.InferenceServerClient(target) as other:
        assert await other.is_model_ready(model)
        parts = await asyncio.gather(*(other.infer(model, sent(x[i : i + 1])) for i in range(64)))
        keep("aio", [*parts, await other.infer(model, sent(x[64:]))])

        async def requests():
            for row in x:
                yield {"model_name": model, "inputs": sent(row[np.newaxis])}

        parts = []
        async for result, error in other.stream_infer(requests()):
            assert error is None, error
            parts.append(result)
        keep("aio stream", parts)


def stream() -> None:
    done: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: done.put((result, error)))
    for number, row in enumerate(x):
        client.async_stream_infer(model, sent(row[np.newaxis]), request_id=str(number))
        if number == 5:
            client.async_stream_infer("no such model", sent(row[np.newaxis]), request_id="wrong")
    client.stop_stream()
    parts = []
    for _ in range(len(x) + 1):
        result, error = done.get(timeout=20)
        if error is not None:
            assert len(parts) == 6, len(parts)
            assert "no such model" in str(error)
            continue
        reply = result.get_response()
        assert reply.id == str(len(parts))
        assert reply.parameters["triton_final_response"].bool_param
        parts.append(result)
    keep("stream", parts)


def shared_memory() -> None:
    outputs = [client.infer(model, sent(x)).as_numpy(name) for name in NAMES]
    source = shm.create_shared_memory_region("source", "forwardpass_source", x.nbytes)
    size = sum(output.nbytes for output in outputs)
    sink = shm.create_shared_memory_region("sink", "/forwardpass_sink", size)
    try:
        shm.set_shared_memory_region(source, [x])
        client.register_system_shared_memory("source", "forwardpass_source", x.nbytes)
        client.register_system_shared_memory("sink", "/forwardpass_sink", size)
        again = code_of("register_system_shared_memory", "sink", "/forwardpass_sink", size)
        assert again == "ALREADY_EXISTS", again
        status = client.get_system_shared_memory_status()
        assert set(status.regions) == {"source", "sink"}, status
        tensor = triton.InferInput(metadata.inputs[0].name, list(x.shape), "FP32")
        tensor.set_shared_memory("source", x.nbytes)
        wanted, offset = [], 0
        for name, output in zip(NAMES, outputs, strict=True):
            wanted.append(triton.InferRequestedOutput(name))
            wanted[-1].set_shared_memory("sink", output.nbytes, offset)
            offset += output.nbytes
        result = client.infer(model, [tensor], outputs=wanted)
        offset = 0
        for name, output in zip(NAMES, outputs, strict=True):
            told = result.get_output(name)
            assert list(told.shape) == list(output.shape)
            assert told.parameters["shared_memory_byte_size"].int64_param == output.nbytes
            got = shm.get_contents_as_numpy(sink, np.float32, output.shape, offset)
            found[f"shared memory/{name}"] = got.copy()
            offset += output.nbytes
            del got
        client.unregister_system_shared_memory("source")
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
        assert code_of("infer", model, [tensor]) == "NOT_FOUND"
    finally:
        shm.destroy_shared_memory_region(source)
        shm.destroy_shared_memory_region(sink)


def classification() -> None:
    name = NAMES[0]
    wanted = triton.InferRequestedOutput(name, class_count=1)
    texts = client.infer(model, sent(x), outputs=[wanted]).as_numpy(name)
    expected = found[f"sync/{name}"].argmax(axis=-1)
    for text, index in zip(texts.ravel(), expected.ravel(), strict=True):
        assert int(text.split(b":")[1]) == index, (text, index)


def what_it_says() -> None:
    extensions = set(client.get_server_metadata().extensions)
    assert {"statistics", "model_configuration", "model_repository", "logging"} <= extensions
    assert "system_shared_memory" in extensions
    config = client.get_model_config(model).config
    assert (config.name, config.backend) == (model, "onnxruntime")
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    # perf_analyzer: what ModelMetadata tells is the batch axis and then the dims.
    for tensors, configured in (
        (metadata.inputs, config.input),
        (metadata.outputs, config.output),
    ):
        for tensor, other in zip(tensors, configured, strict=True):
            assert list(tensor.shape) == [-1, *other.dims]
    assert client.get_model_config(model, as_json=True)["config"]["input"][0]["name"]
    settings = client.update_log_settings({"log_verbose_level": 0, "nonsense": True}).settings
    assert settings["log_verbose_level"].uint32_param == 0
    assert set(client.get_log_settings().settings) == set(settings)
    assert code_of("get_trace_settings") == "UNIMPLEMENTED"
    assert code_of("get_cuda_shared_memory_status") == "UNIMPLEMENTED"


def statistics() -> None:
    (before,) = client.get_inference_statistics(model).model_stats
    for rows in (1, 1, 3):
        client.infer(model, sent(x[:rows]))
    assert code_of("infer", model, sent(x[:1, :-1])) == "INVALID_ARGUMENT"
    (after,) = client.get_inference_statistics(model, "1").model_stats
    assert after.inference_count == before.inference_count + 5
    assert after.execution_count == before.execution_count + 3
    assert after.inference_stats.success.count == before.inference_stats.success.count + 3
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert after.last_inference >= before.last_inference > 0
    assert {1, 3} <= {batch.batch_size for batch in after.batch_stats}
    assert [other.name for other in client.get_inference_statistics().model_stats] == [model]
    assert code_of("get_inference_statistics", "no such model") == "INVALID_ARGUMENT"


def repository() -> None:
    def states() -> dict[str, str]:
        return {other.name: other.state for other in client.get_model_repository_index().models}

    assert states() == {model: "READY"}
    client.unload_model(model)
    assert states()[model] == "UNAVAILABLE"
    assert not client.is_model_ready(model)
    assert code_of("infer", model, sent(x)) == "NOT_FOUND"
    client.load_model(model)
    assert states() == {model: "READY"}
    assert client.is_model_ready(model)
    assert code_of("load_model", "no such model") == "NOT_FOUND"
    assert code_of("load_model", "../secret") == "INVALID_ARGUMENT"
    assert code_of("load_model", model, config="{}") == "INVALID_ARGUMENT"
    assert code_of("unload_model", "no such model") == "OK"


for part in (
    unary,
    lambda: asyncio.run(aio()),
    stream,
    shared_memory,
    classification,
    what_it_says,
    statistics,
    repository,
):
    part()
np.savez(answers, **found)
