"""The six RPCs of the Open Inference Protocol through a generated stub, whoever generated it."""

from typing import Any

import numpy as np
from report import NUMBERS, TURNS, Report, extremes

_FIELDS = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}
"""Where typed contents go; FP16 travels raw alone."""


class SixRpcs:
    """One stub, row by row."""

    def __init__(self, report: Report, pb: Any, stub: Any, compression: Any = None) -> None:
        """Prepare; pb is the module of the stub's messages, compression what its calls take."""
        self.report = report
        self.pb = pb
        self.stub = stub
        self.compression = compression
        self.x = report.x
        self.model = report.model

    def try_all(self) -> None:
        """Fill the rows."""
        self._server()
        self._infer()
        self._datatypes()
        self._corners()

    def request(self, rows: np.ndarray, *, typed: bool = False, **fields: Any) -> Any:
        """Build a request for rows of `x`."""
        request = self.pb.ModelInferRequest(model_name=self.model, **fields)
        tensor = request.inputs.add(name=self.input_name, datatype="FP32", shape=rows.shape)
        if typed:
            tensor.contents.fp32_contents.extend(rows.ravel().tolist())
        else:
            request.raw_input_contents.append(rows.tobytes())
        return request

    def outputs(self, reply: Any) -> dict[str, np.ndarray]:
        """Read the outputs of a reply, which are FP32 and raw."""
        return {
            output.name: np.frombuffer(raw, "<f4").reshape(output.shape)
            for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
        }

    def _server(self) -> None:
        row, pb, stub = self.report.row, self.pb, self.stub
        with row("ServerLive"):
            assert stub.ServerLive(pb.ServerLiveRequest()).live
        with row("ServerReady"):
            assert stub.ServerReady(pb.ServerReadyRequest()).ready
        with row("ServerMetadata"):
            assert stub.ServerMetadata(pb.ServerMetadataRequest()).name == "forwardpass"
        with row("ModelReady"):
            for name, version, ready in (
                ("versions", "", True),
                ("versions", "1", True),
                ("versions", "3", False),
                ("no such model", "", False),
            ):
                request = pb.ModelReadyRequest(name=name, version=version)
                assert stub.ModelReady(request).ready == ready, (name, version)
        with row("ModelMetadata"):
            metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=self.model))
            self.input_name = metadata.inputs[0].name
            self.names = [output.name for output in metadata.outputs]
            assert list(metadata.inputs[0].shape) == [-1, self.x.shape[1]]
            assert metadata.properties["forwardpass.batch_invariant"] == "true"

    def _infer(self) -> None:
        row, stub, x = self.report.row, self.stub, self.x
        with row("raw tensors"):
            self.report.predicted("raw", self.outputs(stub.ModelInfer(self.request(x))))
        with row("at the same time"):
            calls = [stub.ModelInfer.future(self.request(one[np.newaxis])) for one in x]
            parts = [self.outputs(call.result(timeout=60)) for call in calls]
            self.report.predicted("at the same time", joined(parts))
        with row("typed contents"):
            reply = stub.ModelInfer(self.request(x, typed=True))
            self.report.predicted("typed", self.outputs(reply))
            request = self.pb.ModelInferRequest(model_name="counts")
            counts = [2**62 + 1, -1, 0]
            tensor = request.inputs.add(name="x", datatype="INT64", shape=[1, 3])
            tensor.contents.int64_contents.extend(counts)
            reply = stub.ModelInfer(request)
            assert np.frombuffer(reply.raw_output_contents[0], "<i8").tolist() == counts
        if self.compression is not None:
            with row("compressed"):
                reply = stub.ModelInfer(self.request(x), compression=self.compression)
                self.report.predicted("gzip", self.outputs(reply))
        with row("1,000 rows"):
            many = np.resize(x, (1000, x.shape[1]))
            got = self.outputs(stub.ModelInfer(self.request(many)))
            assert {len(array) for array in got.values()} == {1000}
            first = {name: array[: len(x)] for name, array in got.items()}
            self.report.predicted("1,000 rows", first)
        with row("BYTES"):
            request = self.pb.ModelInferRequest(model_name="texts")
            texts = [b"one", "zwei \u00e4".encode(), b""]
            tensor = request.inputs.add(name="x", datatype="BYTES", shape=[3])
            tensor.contents.bytes_contents.extend(texts)
            typed = stub.ModelInfer(request).raw_output_contents[0]
            del tensor.contents.bytes_contents[:]
            tensor.ClearField("contents")
            request.raw_input_contents.append(
                b"".join(len(text).to_bytes(4, "little") + text for text in texts)
            )
            raw = stub.ModelInfer(request).raw_output_contents[0]
            assert typed == raw == request.raw_input_contents[0]

    def _datatypes(self) -> None:
        with self.report.row("every datatype"):
            for datatype in NUMBERS:
                sent = extremes(datatype)
                request = self.pb.ModelInferRequest(model_name=f"echo_{datatype}")
                tensor = request.inputs.add(name="x", datatype=datatype, shape=sent.shape)
                request.raw_input_contents.append(sent.tobytes())
                assert self.stub.ModelInfer(request).raw_output_contents[0] == sent.tobytes()
                field = _FIELDS.get(datatype)
                if field is not None:
                    del request.raw_input_contents[:]
                    getattr(tensor.contents, field).extend(sent.ravel().tolist())
                    reply = self.stub.ModelInfer(request)
                    assert reply.raw_output_contents[0] == sent.tobytes(), datatype

    def _corners(self) -> None:
        row, pb, stub, x = self.report.row, self.pb, self.stub, self.x
        with row("chosen outputs"):
            request = self.request(x[:2])
            request.outputs.add(name=self.names[-1])
            assert list(self.outputs(stub.ModelInfer(request))) == [self.names[-1]]
        with row("a version"):
            for version, ran, answer in (("", "2", [14.5, 31.5]), ("1", "1", [1.0, 2.0, 3.0])):
                request = pb.ModelInferRequest(model_name="versions", model_version=version)
                tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
                tensor.contents.fp32_contents.extend([1, 2, 3])
                reply = stub.ModelInfer(request)
                assert reply.model_version == ran
                assert self.outputs(reply)["y"].ravel().tolist() == answer
        with row("the request's id"):
            for sent in ("17", "", "\u00fc"):
                assert stub.ModelInfer(self.request(x[:1], id=sent)).id == sent
        with row("parameters"):
            request = self.request(x[:1])
            request.parameters["mine"].double_param = 0.5
            request.parameters["number"].uint64_param = 2**63
            request.parameters["priority"].int64_param = 1
            request.inputs[0].parameters["binary_data_size"].int64_param = x[:1].nbytes
            first = self.outputs(stub.ModelInfer(request))[self.names[0]][0].tolist()
            assert first == self.report.first(self.names[0])
        with row("classification"):
            request = self.request(x[:1])
            wanted = request.outputs.add(name=self.names[0])
            wanted.parameters["classification"].int64_param = 1
            reply = stub.ModelInfer(request)
            assert reply.outputs[0].datatype == "BYTES"
            score, index = reply.raw_output_contents[0][4:].split(b":")[:2]
            plain = self.report.first(self.names[0])
            assert np.float32(float(score)) == np.float32(max(plain))
            assert int(index) == np.argmax(plain)
        with row("a deadline"):
            request = pb.ModelInferRequest(model_name="slow")
            request.inputs.add(name="turns", datatype="INT64")
            request.inputs[0].contents.int64_contents.append(TURNS)
            assert self._code_of(request, timeout=0.1) == "DEADLINE_EXCEEDED"
        with row("errors"):
            assert self._code_of(self.request(x[:, :-1])) == "INVALID_ARGUMENT"
            assert self._code_of(pb.ModelInferRequest(model_name="no")) == "NOT_FOUND"
            request = self.request(x, model_version="3")
            assert self._code_of(request) == "NOT_FOUND"

    def _code_of(self, request: Any, **options: Any) -> str:
        try:
            self.stub.ModelInfer(request, **options)
        except Exception as error:
            # grpc.RpcError and what stands for it in other stubs have a code; the rest is a fault.
            if not hasattr(error, "code"):
                raise
            return str(error.code().name)
        return "OK"


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the outputs of calls for some rows each."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
