"""Everything that an unmodified tritonclient can ask over HTTP of a server on CPUs.

See report.py.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shm
from report import NUMBERS, Report, extremes

PACKS_NO_TEXT = version("tritonclient") == "2.34.0"
"""Whether it fails to compress a body that is JSON alone, before it sends anything."""
SHARED_MEMORY = (
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryUnregister",
)


def tensor(array: np.ndarray, datatype: str, name: str = "x", *, binary: bool) -> triton.InferInput:
    sent = triton.InferInput(name, list(array.shape), datatype)
    sent.set_data_from_numpy(array, binary_data=binary)
    return sent


class Tried:
    """One client, row by row."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.x, self.model = report.x, report.model
        self.client = triton.InferenceServerClient(report.rest, concurrency=8)
        metadata = self.client.get_model_metadata(self.model)
        self.input = metadata["inputs"][0]
        self.names = [output["name"] for output in metadata["outputs"]]

    def infer(self, rows: np.ndarray, *, binary: bool, **more: Any) -> Any:
        sent = [tensor(rows, "FP32", self.input["name"], binary=binary)]
        outputs = [triton.InferRequestedOutput(n, binary_data=binary) for n in self.names]
        return self.client.infer(self.model, sent, outputs=outputs, **more)

    def keep(self, way: str, result: Any) -> None:
        self.report.predicted(way, {name: result.as_numpy(name) for name in self.names})

    def status_of(self, call: str, *args: object, **kwargs: object) -> str:
        try:
            getattr(self.client, call)(*args, **kwargs)
        except triton.InferenceServerException as error:
            return str(error.status())
        return "OK"

    def server(self) -> None:
        row, client = self.report.row, self.client
        with row("ServerLive"):
            assert client.is_server_live()
        with row("ServerReady"):
            assert client.is_server_ready()
        with row("ServerMetadata"):
            assert {"statistics", "model_configuration"} <= {
                *client.get_server_metadata()["extensions"]
            }
        with row("ModelReady"):
            assert client.is_model_ready("versions", "2")
            assert not client.is_model_ready("versions", "3")
            assert not client.is_model_ready("no such model")
        with row("ModelMetadata"):
            assert (self.input["datatype"], self.input["shape"]) == ("FP32", [-1, self.x.shape[1]])
            assert client.get_model_metadata("versions")["versions"] == ["1", "2"]
        with row("ModelConfig"):
            assert client.get_model_config(self.model)["input"][0]["data_type"] == "TYPE_FP32"

    def ways(self) -> None:
        row, client, x = self.report.row, self.client, self.x
        with row("JSON"):
            self.keep("json", self.infer(x, binary=False))
            counts = np.array([[2**62 + 1, -1, 0]], np.int64)
            outputs = [triton.InferRequestedOutput("y", binary_data=False)]
            sent = [tensor(counts, "INT64", binary=False)]
            found = client.infer("counts", sent, outputs=outputs).as_numpy("y")
            np.testing.assert_array_equal(found, counts)
        with row("raw tensors"):
            self.keep("binary", self.infer(x, binary=True))
        with row("BYTES"):
            texts = np.array([b"one", "zwei \u00e4".encode(), b""], dtype=np.object_)
            for binary in (True, False):
                outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
                sent = [tensor(texts, "BYTES", binary=binary)]
                found = client.infer("texts", sent, outputs=outputs).as_numpy("y").ravel().tolist()
                assert [e if isinstance(e, bytes) else e.encode() for e in found] == texts.tolist()
        with row("every datatype"):
            for datatype in NUMBERS:
                values = extremes(datatype)
                for binary in (True, False) if datatype != "FP16" else (True,):
                    outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
                    sent = [tensor(values, datatype, binary=binary)]
                    found = client.infer(f"echo_{datatype}", sent, outputs=outputs).as_numpy("y")
                    assert found.dtype == values.dtype, datatype
                    np.testing.assert_array_equal(found, values)
        with row("chosen outputs"):
            chosen = self.names[::-1][:1]
            sent = [tensor(x[:2], "FP32", self.input["name"], binary=True)]
            wanted = [triton.InferRequestedOutput(name) for name in chosen]
            answer = client.infer(self.model, sent, outputs=wanted).get_response()
            assert [output["name"] for output in answer["outputs"]] == chosen
        with row("a version"):
            rows = np.array([[1, 2, 3]], np.float32)
            for version_asked, ran, answer in (
                ("", "2", [[14.5, 31.5]]),
                ("2", "2", [[14.5, 31.5]]),
                ("1", "1", rows.tolist()),
            ):
                sent = [tensor(rows, "FP32", binary=True)]
                found = client.infer("versions", sent, model_version=version_asked)
                assert found.get_response()["model_version"] == ran
                assert found.as_numpy("y").tolist() == answer
        with row("the request's id"):
            assert self.infer(x[:1], binary=True, request_id="17").get_response()["id"] == "17"
        with row("classification"):
            sent = [tensor(np.array([[0, 3, 1]], np.float32), "FP32", binary=True)]
            wanted = [triton.InferRequestedOutput("y", class_count=2)]
            found = client.infer("versions", sent, model_version="1", outputs=wanted).as_numpy("y")
            assert [text.split(b":")[1] for text in found.ravel()] == [b"1", b"2"]
        with row("compressed"):
            for packed in ("gzip", "deflate"):
                for binary in (True,) if PACKS_NO_TEXT else (True, False):
                    found = self.infer(
                        x,
                        binary=binary,
                        request_compression_algorithm=packed,
                        response_compression_algorithm=packed,
                    )
                    self.keep(f"{packed} {binary}", found)
        with row("1,000 rows"):
            many = np.resize(x, (1000, x.shape[1]))
            for binary in (True, False):
                found = self.infer(many, binary=binary)
                assert {len(found.as_numpy(name)) for name in self.names} == {1000}
        with row("at the same time"):
            sent = [tensor(x[:1], "FP32", self.input["name"], binary=True)]
            pending = [client.async_infer(self.model, sent) for _ in range(40)]
            first = self.report.first(self.names[0])
            for each in pending:
                assert each.get_result().as_numpy(self.names[0])[0].tolist() == first
        with row("errors"):
            sent = [tensor(x, "FP32", self.input["name"], binary=True)]
            assert self.status_of("infer", "no such model", sent) == "404"
            sent = [tensor(x[:, :-1].copy(), "FP32", self.input["name"], binary=True)]
            assert self.status_of("infer", self.model, sent) == "400"

    def beyond(self) -> None:
        row, client = self.report.row, self.client
        with row("ModelStatistics"):
            (found,) = client.get_inference_statistics(self.model)["model_stats"]
            assert found["inference_stats"]["success"]["count"] > 0
        with row("RepositoryIndex"):
            assert self.model in {model["name"] for model in client.get_model_repository_index()}
        with row("RepositoryModelLoad", "RepositoryModelUnload"):
            client.unload_model(self.model)
            assert not client.is_model_ready(self.model)
            client.load_model(self.model)
            assert client.is_model_ready(self.model)
        with row("LogSettings"):
            before = client.get_log_settings()
            client.update_log_settings({"log_verbose_level": 1})
            assert client.get_log_settings()["log_verbose_level"] == 1
            client.update_log_settings(before)
        with row(*SHARED_MEMORY):
            rows = np.array([[1, 2, 3]], np.float32)
            region = shm.create_shared_memory_region(
                "region", "/forwardpass_http_rpcs", rows.nbytes
            )
            try:
                shm.set_shared_memory_region(region, [rows])
                client.register_system_shared_memory(
                    "region", "/forwardpass_http_rpcs", rows.nbytes
                )
                (known,) = client.get_system_shared_memory_status()
                assert known["name"] == "region"
                sent = triton.InferInput("x", [1, 3], "FP32")
                sent.set_shared_memory("region", rows.nbytes)
                assert client.infer("versions", [sent]).as_numpy("y").tolist() == [[14.5, 31.5]]
                client.unregister_system_shared_memory("region")
                assert client.get_system_shared_memory_status() == []
            finally:
                shm.destroy_shared_memory_region(region)


def main() -> None:
    with Report("tritonclient") as report:
        tried = Tried(report)
        tried.server()
        tried.ways()
        tried.beyond()
        tried.client.close()


main()
