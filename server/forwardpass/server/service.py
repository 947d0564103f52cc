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
from forwardpass.proto import timing
from forwardpass.proto.spec import TensorSpec
from forwardpass.proto.version import __version__
from forwardpass.server.batching import Job
from forwardpass.server.catalog import Catalog
from forwardpass.server.errors import (
    InternalError,
    InvalidRequestError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    ServingError,
    VersionNotFoundError,
)
from forwardpass.server.health import Health
from forwardpass.server.plan import Plan
from forwardpass.server.validation import validate
from forwardpass.server.wire import split

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
PLATFORM = "onnx_onnxv1"
EXTENSIONS = ("binary_tensor_data", "classification", "parameters")

_MAX_PLANS = 4096
_MAX_PLAN_BYTES = 2048
"""Bounds what callers that never repeat themselves can make us keep."""

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class Call:
    """One ModelInfer call as a transport hands it over."""

    message: bytes
    """A serialized ModelInferRequest."""
    deadline: float | None = None
    """On the clock of time.monotonic."""
    active: Callable[[], bool] | None = None
    """Whether the caller is still there."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one ModelInfer call."""

    message: bytes
    """A serialized ModelInferResponse."""
    timing: Mapping[str, float] | None = None
    """Where the caller asked for it: the parts of the server's time, in microseconds."""


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

    def infer(self, calls: Sequence[Call]) -> list[Reply | ServingError]:
        """Answer ModelInfer calls that wait together: one answer or error each, in order."""
        return [self._answer(call) for call in calls]

    def _answer(self, call: Call) -> Reply | ServingError:
        try:
            return self._infer(call)
        except ServingError as error:
            return error
        except Exception:
            logger.exception("unexpected error in ModelInfer")
            return InternalError()

    def _infer(self, call: Call) -> Reply:
        start = perf_counter_ns()
        plan, id_field, tensors = self._decode(call.message)
        job = Job(plan.kind, tensors, plan.rows, call.deadline, call.active)
        decoded = perf_counter_ns()
        plan.model.run(job)
        computed = perf_counter_ns()
        message = plan.reply(id_field, job)
        if not plan.timed:
            return Reply(message)
        parts = {
            "decode": decoded - start,
            "queue": job.waited_ns,
            "compute": job.ran_ns,
            "encode": perf_counter_ns() - computed,
        }
        return Reply(message, {name: ns / 1e3 for name, ns in parts.items()})

    def _decode(self, message: bytes) -> tuple[Plan, bytes, list[Any]]:
        """Return how to answer a call, its id as a field, and its tensors in the model's order."""
        # The plans are those of the models that answer now: taken before a model is looked up.
        plans = self._catalog.plans
        parts = split(message)
        if parts is not None:
            plan = plans.get(parts.head)
            if plan is not None and plan.fits(parts.tensors):
                return plan, parts.id_field, plan.in_order(parts.tensors)
        request = _parse(pb.ModelInferRequest, message)
        model = self._catalog.find(request.model_name, request.model_version)
        inference = validate(model, request)
        sent = [tensor.name for tensor in request.inputs]
        plan = Plan.of(model, inference, sent, timed=timing.PARAMETER in request.parameters)
        if parts is not None and plan.repeatable and len(parts.head) <= _MAX_PLAN_BYTES:
            if len(plans) >= _MAX_PLANS:
                plans.clear()
            plans[parts.head] = plan
        id_field = pb.ModelInferResponse(id=request.id).SerializeToString()
        return plan, id_field, plan.tensors(inference)

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
    # protobuf in pure Python raises UnicodeDecodeError for text that is not UTF-8.
    except (DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            message_type.DESCRIPTOR.name, "expected this message, got bytes that do not parse as it"
        ) from error


def _tensor_metadata(spec: TensorSpec) -> Any:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )
