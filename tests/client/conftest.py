"""A small Open Inference Protocol server, real but for its models, whose answers tests replace."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from support.clients import AnyClient

from forwardpass.client import Retry
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.datatypes import datatype_of
from forwardpass.proto.tensors import decode_raw, encode_raw

Arrays = Mapping[str, NDArray[Any]]
Answer = Callable[[bytes, grpc.ServicerContext], bytes]

SOON = Retry(first_s=0.001)
"""As by default, but without waiting: a test of errors takes no longer for it."""

W = np.array([[1, 0], [0, 2], [4, 8]], dtype=np.float32)


def write_reply(arrays: Arrays, *, typed: bool = False, **fields: Any) -> bytes:
    """Write a ModelInferResponse with the arrays as raw or as typed contents."""
    reply = pb.ModelInferResponse(**fields)
    for name, array in arrays.items():
        datatype = datatype_of(array.dtype)
        output = reply.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
        if typed and datatype.contents_field:
            getattr(output.contents, datatype.contents_field).extend(array.ravel().tolist())
        else:
            reply.raw_output_contents.append(encode_raw(array, datatype.name))
    return reply.SerializeToString()


@dataclass
class Model:
    """A function of named arrays with the signature that ModelMetadata tells."""

    inputs: dict[str, tuple[str, tuple[int, ...]]]
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    run: Callable[[Arrays], Arrays]
    version: str = "1"
    typed: bool = False
    properties: dict[str, str] = field(default_factory=lambda: {"k": "v"})


def net() -> Model:
    """x (k, 3) -> y (k, 2) = x W and total (k,)."""
    return Model(
        inputs={"x": ("FP32", (-1, 3))},
        outputs={"y": ("FP32", (-1, 2)), "total": ("FP32", (-1,))},
        run=lambda arrays: {"y": arrays["x"] @ W, "total": arrays["x"].sum(axis=1)},
    )


def pair() -> Model:
    """a (k, 2) and b (k,) -> both as they came."""
    return Model(
        inputs={"a": ("FP64", (-1, 2)), "b": ("BYTES", (-1,))},
        outputs={"a": ("FP64", (-1, 2)), "b": ("BYTES", (-1,))},
        run=dict,
    )


def _not_offered(_: bytes, context: grpc.ServicerContext) -> bytes:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


@dataclass
class OipServer:
    """The server; `models` and `answers` may be changed while it runs."""

    models: dict[str, Model] = field(default_factory=lambda: {"net": net(), "pair": pair()})
    answers: dict[str, Answer] = field(default_factory=dict)
    """By method; what answers instead of the models."""
    calls: Counter[str] = field(default_factory=Counter)
    requests: list[bytes] = field(default_factory=list)
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, credentials: grpc.ServerCredentials | None = None) -> grpc.Server:
        server = grpc.server(ThreadPoolExecutor(max_workers=16))
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(
                lambda request, context, name=name: self._answer(name, request, context)
            )
            for name in self._methods()
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
        )
        address = "127.0.0.1:0"
        if credentials is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, credentials)
        server.start()
        return server

    def _methods(self) -> dict[str, Answer]:
        return {
            "ServerLive": lambda *_: pb.ServerLiveResponse(live=True).SerializeToString(),
            "ServerReady": lambda *_: pb.ServerReadyResponse(ready=True).SerializeToString(),
            "ModelReady": self._model_ready,
            "ServerMetadata": lambda *_: pb.ServerMetadataResponse(
                name="small", version="0.1", extensions=["binary_tensor_data"]
            ).SerializeToString(),
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "RepositoryIndex": _not_offered,
            "ModelStatistics": _not_offered,
        }

    def _answer(self, name: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.calls[name] += 1
            if name == "ModelInfer":
                self.requests.append(request)
        return self.answers.get(name, self._methods()[name])(request, context)

    def _model(self, name: str, version: str, context: grpc.ServicerContext) -> Model:
        model = self.models.get(name)
        if model is None or version not in ("", model.version):
            context.abort(grpc.StatusCode.NOT_FOUND, f"model {name!r} not found")
        return model

    def _model_ready(self, request: bytes, _: grpc.ServicerContext) -> bytes:
        asked = pb.ModelReadyRequest.FromString(request)
        return pb.ModelReadyResponse(ready=asked.name in self.models).SerializeToString()

    def _model_metadata(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        asked = pb.ModelMetadataRequest.FromString(request)
        model = self._model(asked.name, asked.version, context)
        reply = pb.ModelMetadataResponse(
            name=asked.name, versions=[model.version], platform="numpy", properties=model.properties
        )
        for tensors, specs in ((reply.inputs, model.inputs), (reply.outputs, model.outputs)):
            for name, (datatype, shape) in specs.items():
                tensors.add(name=name, datatype=datatype, shape=shape)
        return reply.SerializeToString()

    def _model_infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        asked = pb.ModelInferRequest.FromString(request)
        model = self._model(asked.model_name, asked.model_version, context)
        arrays = {}
        for tensor, raw in zip(asked.inputs, asked.raw_input_contents, strict=True):
            shape = tuple(tensor.shape)
            declared = model.inputs.get(tensor.name)
            if declared is None or any(
                wanted not in (-1, size) for size, wanted in zip(shape, declared[1], strict=True)
            ):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"input {tensor.name!r}: refused")
            arrays[tensor.name] = decode_raw(tensor.name, raw, tensor.datatype, shape)
        outputs = model.run(arrays)
        names = [output.name for output in asked.outputs] or list(outputs)
        return write_reply(
            {name: outputs[name] for name in names},
            typed=model.typed,
            model_name=asked.model_name,
            model_version=model.version,
            id=asked.id,
        )


@pytest.fixture
def make_server() -> type[OipServer]:
    """`OipServer`, for tests that start it in their own way."""
    return OipServer


@pytest.fixture
def server() -> Iterator[OipServer]:
    """A running server in plain text."""
    oip = OipServer()
    running = oip.start()
    yield oip
    running.stop(None).wait()


@pytest.fixture
def client(server: OipServer, connect: Callable[..., AnyClient]) -> Iterator[AnyClient]:
    """A client of `server`."""
    with connect(server.target, timeout_s=10, retry=SOON) as client:
        yield client


@pytest.fixture(scope="session")
def reply() -> Callable[..., bytes]:
    """`write_reply`, for tests of replies."""
    return write_reply
