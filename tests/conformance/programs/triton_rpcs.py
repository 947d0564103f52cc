"""Everything that an unmodified tritonclient can ask of a server on CPUs, in every way to infer.

See report.py.
"""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from report import NUMBERS, TURNS, Report, extremes

SHARED_MEMORY = (
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryUnregister",
)


def tensor(array: np.ndarray, datatype: str, name: str = "x") -> triton.InferInput:
    sent = triton.InferInput(name, list(array.shape), datatype)
    sent.set_data_from_numpy(array)
    return sent


class Tried:
    """One client, row by row."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.x = report.x
        self.model = report.model
        self.client = triton.InferenceServerClient(report.target)
        self.metadata = self.client.get_model_metadata(self.model)
        self.names = [output.name for output in self.metadata.outputs]

    def sent(self, rows: np.ndarray) -> list[triton.InferInput]:
        return [tensor(rows, "FP32", self.metadata.inputs[0].name)]

    def keep(self, way: str, parts: list[triton.InferResult]) -> None:
        self.report.predicted(
            way,
            {name: np.concatenate([part.as_numpy(name) for part in parts]) for name in self.names},
        )

    def code_of(self, call: str, *args: object, **kwargs: object) -> str:
        try:
            getattr(self.client, call)(*args, **kwargs)
        except triton.InferenceServerException as error:
            return str(error.status()).removeprefix("StatusCode.")
        return "OK"

    def server(self) -> None:
        row, client = self.report.row, self.client
        with row("ServerLive"):
            assert client.is_server_live()
        with row("ServerReady"):
            assert client.is_server_ready()
        with row("ServerMetadata"):
            extensions = set(client.get_server_metadata().extensions)
            assert {"statistics", "model_configuration", "model_repository"} <= extensions
            assert {"logging", "system_shared_memory"} <= extensions
        with row("ModelReady"):
            assert client.is_model_ready(self.model)
            assert client.is_model_ready("versions", "2")
            assert not client.is_model_ready("versions", "3")
            assert not client.is_model_ready("no such model")
        with row("ModelMetadata"):
            (x,) = self.metadata.inputs
            assert (x.datatype, list(x.shape)) == ("FP32", [-1, self.x.shape[1]])
            assert list(client.get_model_metadata("versions").versions) == ["1", "2"]
            as_json = client.get_model_metadata(self.model, as_json=True)
            assert as_json["inputs"][0]["name"] == x.name

    def unary(self) -> None:
        row, client, x = self.report.row, self.client, self.x
        with row("raw tensors"):
            self.keep("sync", [client.infer(self.model, self.sent(x))])
            done: queue.Queue[Any] = queue.Queue()
            client.async_infer(
                self.model, self.sent(x), lambda result, error: done.put((result, error))
            )
            result, error = done.get(timeout=20)
            assert error is None, error
            self.keep("callback", [result])
        with row("compressed"):
            for algorithm in ("gzip", "deflate"):
                result = client.infer(self.model, self.sent(x), compression_algorithm=algorithm)
                self.keep(algorithm, [result])
        with row("BYTES"):
            texts = np.array([b"one", "zwei \u00e4".encode(), b""], dtype=np.object_)
            result = client.infer("texts", [tensor(texts, "BYTES")])
            assert result.as_numpy("y").tolist() == texts.tolist()
        with row("every datatype"):
            for datatype in NUMBERS:
                sent = extremes(datatype)
                got = client.infer(f"echo_{datatype}", [tensor(sent, datatype)]).as_numpy("y")
                assert got.dtype == sent.dtype, datatype
                np.testing.assert_array_equal(got, sent)
        with row("chosen outputs"):
            chosen = self.names[::-1][:1]
            wanted = [triton.InferRequestedOutput(name) for name in chosen]
            result = client.infer(self.model, self.sent(x[:2]), outputs=wanted)
            assert [output.name for output in result.get_response().outputs] == chosen
        with row("a version"):
            rows = np.array([[1, 2, 3]], np.float32)
            for version, ran, answer in (
                ("", "2", [[14.5, 31.5]]),
                ("2", "2", [[14.5, 31.5]]),
                ("1", "1", rows.tolist()),
            ):
                result = client.infer("versions", [tensor(rows, "FP32")], model_version=version)
                assert result.get_response().model_version == ran
                assert result.as_numpy("y").tolist() == answer
        with row("the request's id"):
            for request_id in ("17", "", "\u00fc"):
                result = client.infer(self.model, self.sent(x[:1]), request_id=request_id)
                assert result.get_response().id == request_id
        with row("parameters"):
            parameters = {"mine": "text", "number": 7, "flag": True}
            headers = {"x-request-id": "17"}
            result = client.infer(
                self.model,
                self.sent(x[:1]),
                parameters=parameters,
                headers=headers,
                priority=1,
                timeout=10_000_000,
            )
            assert list(result.as_numpy(self.names[0])[0]) == self.report.first(self.names[0])
        with row("1,000 rows"):
            many = np.resize(x, (1000, x.shape[1]))
            result = client.infer(self.model, self.sent(many))
            for name in self.names:
                got = result.as_numpy(name)
                assert len(got) == 1000
                np.testing.assert_array_equal(got[: len(x)], got[len(x) : 2 * len(x)])
            first = {name: result.as_numpy(name)[: len(x)] for name in self.names}
            self.report.predicted("1,000 rows", first)
        with row("a deadline"):
            turns = tensor(np.array(TURNS, np.int64), "INT64", "turns")
            code = self.code_of("infer", "slow", [turns], client_timeout=0.1)
            assert code == "DEADLINE_EXCEEDED", code
        with row("errors"):
            try:
                client.infer(self.model, self.sent(x[:, :-1]))
            except triton.InferenceServerException as refusal:
                assert refusal.status() == "StatusCode.INVALID_ARGUMENT", refusal.status()
                assert f"expected shape [-1, {x.shape[1]}]" in refusal.message(), refusal.message()
            code = self.code_of("infer", "no such model", self.sent(x))
            assert code == "NOT_FOUND", code
            code = self.code_of("infer", "versions", self.sent(x[:, :3]), model_version="3")
            assert code == "NOT_FOUND", code

    async def aio(self) -> None:
        row, x = self.report.row, self.x
        async with triton_aio.InferenceServerClient(self.report.target) as client:
            with row("at the same time"):
                assert await client.is_model_ready(self.model)
                parts = await asyncio.gather(
                    *(client.infer(self.model, self.sent(x[i : i + 1])) for i in range(64))
                )
                rest = await client.infer(self.model, self.sent(x[64:]))
                self.keep("aio", [*parts, rest])
            with row("ModelStreamInfer"):

                async def requests() -> AsyncIterator[dict[str, Any]]:
                    for one in x:
                        yield {"model_name": self.model, "inputs": self.sent(one[np.newaxis])}

                parts = []
                async for result, error in client.stream_infer(requests()):
                    assert error is None, error
                    parts.append(result)
                self.keep("aio stream", parts)

    def stream(self) -> None:
        done: queue.Queue[Any] = queue.Queue()
        with self.report.row("ModelStreamInfer"):
            client = self.client
            client.start_stream(lambda result, error: done.put((result, error)))
            for number, one in enumerate(self.x):
                rows = self.sent(one[np.newaxis])
                client.async_stream_infer(self.model, rows, request_id=str(number))
                if number == 5:
                    client.async_stream_infer("no such model", rows, request_id="wrong")
            client.stop_stream()
            parts: list[triton.InferResult] = []
            for _ in range(len(self.x) + 1):
                result, error = done.get(timeout=20)
                if error is not None:
                    assert len(parts) == 6, len(parts)
                    assert "no such model" in str(error)
                    continue
                reply = result.get_response()
                assert reply.id == str(len(parts))
                assert reply.parameters["triton_final_response"].bool_param
                parts.append(result)
            self.keep("stream", parts)

    def shared_memory(self) -> None:
        client, x = self.client, self.x
        result = client.infer(self.model, self.sent(x))
        outputs = {name: result.as_numpy(name) for name in self.names}
        size = sum(output.nbytes for output in outputs.values())
        source = shm.create_shared_memory_region("source", "forwardpass_source", x.nbytes)
        sink = shm.create_shared_memory_region("sink", "/forwardpass_sink", size)
        try:
            shm.set_shared_memory_region(source, [x])
            client.register_system_shared_memory("source", "forwardpass_source", x.nbytes)
            client.register_system_shared_memory("sink", "/forwardpass_sink", size)
            again = self.code_of("register_system_shared_memory", "sink", "/forwardpass_sink", size)
            assert again == "ALREADY_EXISTS", again
            status = client.get_system_shared_memory_status()
            assert set(status.regions) == {"source", "sink"}, status
            sent = triton.InferInput(self.metadata.inputs[0].name, list(x.shape), "FP32")
            sent.set_shared_memory("source", x.nbytes)
            wanted, offset = [], 0
            for name, output in outputs.items():
                wanted.append(triton.InferRequestedOutput(name))
                wanted[-1].set_shared_memory("sink", output.nbytes, offset)
                offset += output.nbytes
            result = client.infer(self.model, [sent], outputs=wanted)
            got, offset = {}, 0
            for name, output in outputs.items():
                told = result.get_output(name)
                assert list(told.shape) == list(output.shape)
                assert told.parameters["shared_memory_byte_size"].int64_param == output.nbytes
                view = shm.get_contents_as_numpy(sink, np.float32, output.shape, offset)
                got[name] = view.copy()
                offset += output.nbytes
                del view
            self.report.predicted("shared memory", got)
            client.unregister_system_shared_memory("source")
            client.unregister_system_shared_memory()
            assert not client.get_system_shared_memory_status().regions
            code = self.code_of("infer", self.model, [sent])
            assert code == "NOT_FOUND", code
        finally:
            shm.destroy_shared_memory_region(source)
            shm.destroy_shared_memory_region(sink)

    def classification(self) -> None:
        name = self.names[0]
        wanted = triton.InferRequestedOutput(name, class_count=1)
        texts = self.client.infer(self.model, self.sent(self.x), outputs=[wanted]).as_numpy(name)
        plain = self.client.infer(self.model, self.sent(self.x)).as_numpy(name)
        for text, index in zip(texts.ravel(), plain.argmax(axis=-1).ravel(), strict=True):
            assert int(text.split(b":")[1]) == index, (text, index)

    def configuration(self) -> None:
        config = self.client.get_model_config(self.model).config
        assert (config.name, config.backend) == (self.model, "onnxruntime")
        assert config.max_batch_size > 1
        assert config.HasField("dynamic_batching")
        # perf_analyzer: what ModelMetadata tells is the batch axis and then the dims.
        for tensors, configured in (
            (self.metadata.inputs, config.input),
            (self.metadata.outputs, config.output),
        ):
            for told, other in zip(tensors, configured, strict=True):
                assert list(told.shape) == [-1, *other.dims]
        as_json = self.client.get_model_config(self.model, as_json=True)
        assert as_json["config"]["input"][0]["name"]

    def settings(self) -> None:
        changed = self.client.update_log_settings({"log_verbose_level": 0, "nonsense": True})
        assert changed.settings["log_verbose_level"].uint32_param == 0
        assert set(self.client.get_log_settings().settings) == set(changed.settings)

    def statistics(self) -> None:
        client = self.client
        (before,) = client.get_inference_statistics(self.model).model_stats
        for rows in (1, 1, 3):
            client.infer(self.model, self.sent(self.x[:rows]))
        code = self.code_of("infer", self.model, self.sent(self.x[:1, :-1]))
        assert code == "INVALID_ARGUMENT", code
        (after,) = client.get_inference_statistics(self.model, "1").model_stats
        assert after.inference_count == before.inference_count + 5
        assert after.execution_count == before.execution_count + 3
        was, now = before.inference_stats, after.inference_stats
        assert now.success.count == was.success.count + 3
        assert now.fail.count == was.fail.count + 1
        assert now.compute_infer.ns > was.compute_infer.ns
        assert after.last_inference >= before.last_inference > 0
        assert {1, 3} <= {batch.batch_size for batch in after.batch_stats}
        everything = client.get_inference_statistics().model_stats
        assert {self.model, "versions"} <= {other.name for other in everything}
        code = self.code_of("get_inference_statistics", "no such model")
        assert code == "INVALID_ARGUMENT", code

    def repository(self) -> None:
        client, model = self.client, self.model

        def state() -> str:
            index = client.get_model_repository_index().models
            return str({other.name: other.state for other in index}[model])

        assert state() == "READY"
        client.unload_model(model)
        assert state() == "UNAVAILABLE"
        assert not client.is_model_ready(model)
        code = self.code_of("infer", model, self.sent(self.x))
        assert code == "NOT_FOUND", code
        client.load_model(model)
        assert state() == "READY"
        assert client.is_model_ready(model)
        for call, args, expected in (
            ("load_model", ["no such model"], "NOT_FOUND"),
            ("load_model", ["../secret"], "INVALID_ARGUMENT"),
            ("load_model", [model, None, "{}"], "INVALID_ARGUMENT"),
            ("unload_model", ["no such model"], "OK"),
        ):
            code = self.code_of(call, *args)
            assert code == expected, (call, args, code)


def main() -> None:
    with Report("tritonclient") as report:
        tried = Tried(report)
        tried.server()
        tried.unary()
        asyncio.run(tried.aio())
        tried.stream()
        parts: dict[tuple[str, ...], Callable[[], None]] = {
            SHARED_MEMORY: tried.shared_memory,
            ("classification",): tried.classification,
            ("ModelConfig",): tried.configuration,
            ("ModelStatistics",): tried.statistics,
            ("LogSettings",): tried.settings,
            ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"): tried.repository,
        }
        for rows, part in parts.items():
            with report.row(*rows):
                part()
        with report.row("CudaSharedMemoryStatus"):
            assert not tried.client.get_cuda_shared_memory_status().regions
        with report.row("CudaSharedMemoryUnregister"):
            tried.client.unregister_cuda_shared_memory()
        report.refused(
            "TraceSetting", "UNIMPLEMENTED", partial(tried.code_of, "get_trace_settings")
        )


main()
