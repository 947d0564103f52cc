"""The RPCs: messages in, messages or errors out; no sockets.

The unit of work is a batch of calls: a transport hands over the ModelInfer calls that wait
together and takes back one answer for each, in their order.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.datatypes import datatype_of
from forwardpass.proto.spec import TensorError, TensorSpec
from forwardpass.proto.tensors import encode_raw
from forwardpass.proto.version import __version__
from forwardpass.server.catalog import Catalog
from forwardpass.server.classification import classify
from forwardpass.server.errors import (
    InternalError,
    InvalidRequestError,
    InvalidTensorError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    ReplyTooLargeError,
    RunError,
    ServingError,
    VersionNotFoundError,
)
from forwardpass.server.health import Health
from forwardpass.server.runtime import SessionError
from forwardpass.server.validation import validate

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
PLATFORM = "onnx_onnxv1"
EXTENSIONS = ("binary_tensor_data", "classification", "parameters")

MAX_REPLY_BYTES = 2**31 - 1
"""What protobuf, and so a gRPC message, can hold."""

_TIMING = "forwardpass_timing"

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the server's time of one call went, in nanoseconds."""

    decode_ns: int
    compute_ns: int
    encode_ns: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one ModelInfer call."""

    message: bytes
    """A serialized ModelInferResponse."""
    timing: Timing | None = None
    """Where the caller asked for it by the request parameter `forwardpass_timing`."""


class Service:
    """The Open Inference Protocol over the models of a catalog."""

    def __init__(self, catalog: Catalog, health: Health) -> None:
        self._catalog = catalog
        self._health = health
        self.unary: Mapping[str, Callable[[bytes], bytes]] = {
            "ServerLive": self._rpc(pb.ServerLiveRequest, self._server_live),
            "ServerReady": self._rpc(pb.ServerReadyRequest, self._server_ready),
            "ModelReady": self._rpc(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": self._rpc(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": self._rpc(pb.ModelMetadataRequest, self._model_metadata),
        }
        """The RPCs but ModelInfer by name: serialized request -> serialized reply.

        Each raises ServingError.
        """

    def infer(self, calls: Sequence[bytes]) -> list[Reply | ServingError]:
        """Answer ModelInfer calls that wait together: one answer or error each, in order."""
        return [self._answer(call) for call in calls]

    def _answer(self, call: bytes) -> Reply | ServingError:
        try:
            return self._infer(call)
        except ServingError as error:
            return error
        except Exception:
            logger.exception("unexpected error in ModelInfer")
            return InternalError()

    def _infer(self, call: bytes) -> Reply:
        start = perf_counter_ns()
        request = _parse(pb.ModelInferRequest, call)
        model = self._catalog.find(request.model_name, request.model_version)
        inference = validate(model, request)
        decoded = perf_counter_ns()
        try:
            arrays = model.session.run(
                inference.inputs, [output.name for output in inference.outputs]
            )
        except TensorError as error:
            raise InvalidTensorError(model.name, error) from error
        except SessionError as error:
            logger.warning("model %r: run failed %s", model.name, error, exc_info=error.__cause__)
            raise RunError(model.name, str(error)) from error
        computed = perf_counter_ns()
        reply = pb.ModelInferResponse(
            model_name=model.name, model_version=str(model.version), id=request.id
        )
        for output, array in zip(inference.outputs, arrays, strict=True):
            if output.classes is not None:
                array = classify(array, output.classes, model.labels.get(output.name, ()))
            datatype = datatype_of(array.dtype).name
            reply.outputs.add(name=output.name, datatype=datatype, shape=array.shape)
            reply.raw_output_contents.append(encode_raw(array, datatype))
        size = sum(map(len, reply.raw_output_contents))
        if size > MAX_REPLY_BYTES - 2**20:
            raise ReplyTooLargeError(model.name, size, MAX_REPLY_BYTES)
        message = reply.SerializeToString()
        if _TIMING not in request.parameters:
            return Reply(message)
        timing = Timing(decoded - start, computed - decoded, perf_counter_ns() - computed)
        return Reply(message, timing)

    def _rpc(
        self, request_type: type[_M], answer: Callable[[_M], Message]
    ) -> Callable[[bytes], bytes]:
        def rpc(call: bytes) -> bytes:
            try:
                return answer(_parse(request_type, call)).SerializeToString()
            except ServingError:
                raise
            except Exception as error:
                logger.exception("unexpected error in %s", answer.__name__)
                raise InternalError from error

        return rpc

    def _server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._health.ready)

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._catalog.find(request.name, request.version)
        except (ModelNotFoundError, VersionNotFoundError, ModelFailedError, ModelLoadingError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._health.ready)

    def _server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name="forwardpass", version=__version__, extensions=EXTENSIONS
        )

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        model = self._catalog.find(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=map(str, self._catalog.versions(model.name)),
            platform=PLATFORM,
            inputs=map(_tensor_metadata, model.inputs.values()),
            outputs=map(_tensor_metadata, model.outputs.values()),
            properties=model.properties,
        )


def _parse(message_type: type[_M], call: bytes) -> _M:
    try:
        return message_type.FromString(call)
    except DecodeError as error:
        raise InvalidRequestError(
            message_type.DESCRIPTOR.name, "expected this message, got bytes that do not parse as it"
        ) from error


def _tensor_metadata(spec: TensorSpec) -> Any:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )
