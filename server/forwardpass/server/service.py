"""The RPCs: messages in, messages or errors out; no sockets.

The unit of work is a batch of calls: a transport hands over the ModelInfer calls that wait
together and takes back one answer for each, in their order.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns, time_ns
from typing import Any, TypeVar

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto import timing
from forwardpass.proto.spec import TensorSpec
from forwardpass.proto.version import __version__
from forwardpass.server.batching import Job, Kind
from forwardpass.server.caller import ANYONE, Action, Caller
from forwardpass.server.catalog import Catalog
from forwardpass.server.errors import (
    STATUS,
    InternalError,
    InvalidRequestError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    ServingError,
    VersionNotFoundError,
)
from forwardpass.server.health import Health
from forwardpass.server.model import Model
from forwardpass.server.observation import Observation, Observer
from forwardpass.server.origin import NOWHERE, Origin
from forwardpass.server.plan import Plan
from forwardpass.server.refusals import Refusals
from forwardpass.server.regions import Regions
from forwardpass.server.rpc import Extension, Rpc, open_rpc, parse, rpc
from forwardpass.server.validation import Inference, validate
from forwardpass.server.wire import split

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
PLATFORM = "onnx_onnxv1"
EXTENSIONS = ("binary_tensor_data", "classification", "parameters")
"""What the six RPCs can do beyond their protocol; clients look there before they ask."""

_MAX_PLANS = 4096
_MAX_PLAN_BYTES = 2048
"""Bounds what callers that never repeat themselves can make us keep."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Call:
    """One ModelInfer call as a transport hands it over."""

    message: bytes
    """A serialized ModelInferRequest."""
    deadline: float | None = None
    """On the clock of time.monotonic."""
    active: Callable[[], bool] | None = None
    """Whether the caller is still there."""
    caller: Caller = ANYONE
    origin: Origin = NOWHERE


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one ModelInfer call."""

    message: bytes
    """A serialized ModelInferResponse."""
    timing: Mapping[str, float] | None = None
    """Where the caller asked for it: the parts of the server's time, in microseconds."""


@dataclass(slots=True, eq=False)
class _Work:
    """A call between its decoding and its reply."""

    plan: Plan
    id_field: bytes
    job: Job
    arrived_ns: int
    decoded_ns: int
    """Both on the clock of time.perf_counter_ns."""
    queue_ns: int = 0
    encode_ns: int = 0
    """Known at its end."""


class Service:
    """The Open Inference Protocol over the models of a catalog."""

    def __init__(
        self,
        catalog: Catalog,
        health: Health,
        *,
        max_rows: int = 2**20,
        regions: Regions | None = None,
        extensions: Sequence[Extension] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        """Serve a catalog; without regions no caller may use shared memory.

        observers are told of every ModelInfer call that has ended.
        """
        self._observers = observers
        self._catalog = catalog
        self._max_rows = max_rows
        self._health = health
        self._regions = Regions() if regions is None else regions
        self.refusals = Refusals()
        """ModelInfer calls that ended before their model was known."""
        self._extensions = (*EXTENSIONS, *(name for other in extensions for name in other.names))
        self.unary: dict[str, Rpc] = {
            "ServerLive": open_rpc(pb.ServerLiveRequest, self._server_live),
            "ServerReady": open_rpc(pb.ServerReadyRequest, self._server_ready),
            "ServerMetadata": rpc(pb.ServerMetadataRequest, self._server_metadata, needs=None),
            "ModelReady": rpc(
                pb.ModelReadyRequest, self._model_ready, needs=Action.READ, model="name"
            ),
            "ModelMetadata": rpc(
                pb.ModelMetadataRequest, self._model_metadata, needs=Action.READ, model="name"
            ),
        }
        """The unary RPCs but ModelInfer by name."""
        for extension in extensions:
            self.unary |= extension.rpcs

    @property
    def observed(self) -> bool:
        """Whether anybody wants to know where calls come from."""
        return bool(self._observers)

    def infer(self, calls: Sequence[Call]) -> list[Reply | ServingError]:
        """Answer ModelInfer calls that wait together: one answer or error each, in order."""
        work = [self._guarded(self._prepare, call) for call in calls]
        groups: dict[tuple[Model, Kind], list[Job]] = {}
        for item in work:
            if isinstance(item, _Work):
                groups.setdefault((item.plan.model, item.plan.kind), []).append(item.job)
        for (model, _), jobs in groups.items():
            model.run(jobs)
        answers = [
            item if isinstance(item, ServingError) else self._guarded(self._finish, item)
            for item in work
        ]
        if self._observers:
            for call, item, answer in zip(calls, work, answers, strict=True):
                self._tell(_observed(call, item, answer, self._catalog))
        return answers

    def refused(self, error: ServingError, origin: Origin = NOWHERE) -> None:
        """Take note of a ModelInfer call that its transport refused."""
        self.refusals.count(error)
        if self._observers:
            self._tell(Observation(origin=origin, error=error, started_ns=time_ns()))

    def _tell(self, observation: Observation) -> None:
        for observer in self._observers:
            try:
                observer(observation)
            except Exception:
                # No call fails because it could not be logged.
                logger.exception("a call could not be told")

    def _guarded(self, step: Callable[[_T], _R], item: _T) -> _R | ServingError:
        try:
            return step(item)
        except ServingError as error:
            return error
        except Exception:
            logger.exception("unexpected error in ModelInfer")
            fault = InternalError()
            self.refusals.count(fault)
            return fault

    def _prepare(self, call: Call) -> _Work:
        arrived_ns = perf_counter_ns()
        plan, id_field, tensors = self._decode(call.message, call.caller)
        job = Job(plan.kind, tensors, plan.rows, call.deadline, call.active)
        return _Work(plan, id_field, job, arrived_ns, perf_counter_ns())

    def _finish(self, work: _Work) -> Reply:
        plan, job = work.plan, work.job
        computed_ns = perf_counter_ns()
        try:
            if job.error is not None:
                raise job.error
            message = plan.reply(work.id_field, job)
        except ServingError as error:
            ns = perf_counter_ns() - work.arrived_ns
            work.queue_ns = ns - (work.decoded_ns - work.arrived_ns) - job.ran_ns
            plan.model.statistics.failed(ns, STATUS[type(error)])
            raise
        ended_ns = perf_counter_ns()
        decode_ns, encode_ns = work.decoded_ns - work.arrived_ns, ended_ns - computed_ns
        # Whatever is not one of the other parts was spent waiting, for a run or for calls that
        # were handled together with this one.
        queue_ns = computed_ns - work.decoded_ns - job.ran_ns
        work.queue_ns, work.encode_ns = queue_ns, encode_ns
        plan.model.statistics.answered(
            plan.rows, decode_ns, queue_ns, job.ran_ns, encode_ns, ended_ns
        )
        if not plan.timed:
            return Reply(message)
        parts = {
            "decode": decode_ns,
            "queue": job.waited_ns,
            "compute": job.ran_ns,
            "encode": encode_ns,
        }
        return Reply(message, {name: ns / 1e3 for name, ns in parts.items()})

    def _decode(self, message: bytes, caller: Caller) -> tuple[Plan, bytes, list[Any]]:
        """Return how to answer a call, its id as a field, and its tensors in the model's order."""
        # The plans are those of the models that answer now: taken before a model is looked up.
        plans = self._catalog.plans
        parts = split(message)
        if parts is not None:
            plan = plans.get(parts.head)
            if (
                plan is not None
                and plan.fits(parts.tensors)
                and caller.may(Action.INFER, plan.model.name)
            ):
                return plan, parts.id_field, plan.in_order(parts.tensors)
        request, model = self._find(message, caller)
        inference = self._validate(model, request)
        sent = [tensor.name for tensor in request.inputs]
        plan = Plan.of(model, inference, sent, timed=timing.PARAMETER in request.parameters)
        if parts is not None and plan.repeatable and len(parts.head) <= _MAX_PLAN_BYTES:
            if len(plans) >= _MAX_PLANS:
                plans.clear()
            plans[parts.head] = plan
        id_field = pb.ModelInferResponse(id=request.id).SerializeToString()
        return plan, id_field, plan.tensors(inference)

    def _find(self, message: bytes, caller: Caller) -> tuple[pb.ModelInferRequest, Model]:
        """Read a request and return the model that is to answer it."""
        name = ""
        try:
            request = parse(pb.ModelInferRequest, message)
            if request.model_name in self._catalog:
                name = request.model_name
            caller.check(Action.INFER, request.model_name)
            return request, self._catalog.find(request.model_name, request.model_version)
        except ModelNotFoundError as error:
            self.refusals.count(error, name)
            raise error.as_seen(lambda name: caller.may(Action.READ, name)) from error
        except ServingError as error:
            self.refusals.count(error, name)
            raise

    def _validate(self, model: Model, request: pb.ModelInferRequest) -> Inference:
        started_ns = perf_counter_ns()
        try:
            return validate(model, request, self._regions, self._max_rows)
        except ServingError as error:
            model.statistics.failed(perf_counter_ns() - started_ns, STATUS[type(error)])
            raise

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
            name="forwardpass", version=__version__, extensions=self._extensions
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


def _observed(
    call: Call, work: _Work | ServingError, answer: Reply | ServingError, catalog: Catalog
) -> Observation:
    """Return what is to be told of a call."""
    error = answer if isinstance(answer, ServingError) else None
    if isinstance(work, ServingError):
        return Observation(
            origin=call.origin,
            caller=call.caller.name,
            model=_model_asked(call.message, catalog),
            error=error,
            started_ns=time_ns(),
        )
    return Observation(
        origin=call.origin,
        caller=call.caller.name,
        model=work.plan.model.name,
        version=str(work.plan.model.version),
        rows=work.plan.rows,
        error=error,
        started_ns=time_ns() - (perf_counter_ns() - work.arrived_ns),
        decode_ns=work.decoded_ns - work.arrived_ns,
        queue_ns=work.queue_ns,
        compute_ns=work.job.ran_ns,
        encode_ns=work.encode_ns,
    )


def _model_asked(message: bytes, catalog: Catalog) -> str:
    """Return which of our models a refused call asked for; empty if none."""
    try:
        name: str = parse(pb.ModelInferRequest, message).model_name
    except InvalidRequestError:
        return ""
    return name if name in catalog else ""


def _tensor_metadata(spec: TensorSpec) -> Any:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )
