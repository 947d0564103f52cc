"""ModelInfer: calls that wait together, from their bytes to jobs and from answers to replies.

Everything that costs Python time is paid once for all calls of one form where it can be.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns, time_ns
from typing import Any

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto import timing
from forwardpass.server.batching import Job
from forwardpass.server.caller import ANYONE, Action, Caller
from forwardpass.server.catalog import Catalog
from forwardpass.server.errors import (
    STATUS,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    ServingError,
)
from forwardpass.server.model import Model
from forwardpass.server.observation import Observation, Observer
from forwardpass.server.origin import NOWHERE, Origin
from forwardpass.server.plan import Plan
from forwardpass.server.refusals import Refusals
from forwardpass.server.regions import Regions
from forwardpass.server.rpc import parse
from forwardpass.server.validation import validate
from forwardpass.server.wire import split

logger = logging.getLogger(__name__)

_Tensors = Sequence[Any]


class Reply:
    """The answer to one ModelInfer call."""

    __slots__ = ("message", "timing")

    def __init__(self, message: bytes, timing: Mapping[str, float] | None = None) -> None:
        self.message = message
        """A serialized ModelInferResponse."""
        self.timing = timing
        """Where the caller asked for it: the parts of the server's time, in microseconds."""


@dataclass(slots=True, eq=False)
class Call:
    """One ModelInfer call as a transport hands it over."""

    message: bytes | memoryview
    """A serialized ModelInferRequest; a large one may be a view."""
    deadline: float | None = None
    """On the clock of time.monotonic."""
    active: Callable[[], bool] | None = None
    """Whether the caller is still there."""
    caller: Caller = ANYONE
    origin: Origin = NOWHERE
    answer: Reply | ServingError | None = None
    """None until it is answered."""


@dataclass(slots=True, eq=False)
class Portion:
    """Calls of one form, that can be computed as one job."""

    plan: Plan
    arrived_ns: int
    """On the clock of time.perf_counter_ns."""
    calls: list[Call]
    id_fields: list[bytes]
    tensors: list[_Tensors]
    """Of each call, in the order of the model's inputs."""
    decode_ns: int = 0
    """Spent on each call, on average over those that came together."""

    def job(self) -> Job:
        """Return the rows of all calls; of a single one with what lets it wait."""
        plan = self.plan
        if len(self.calls) == 1:
            (call,) = self.calls
            return Job(plan.kind, self.tensors[0], plan.rows, call.deadline, call.active)
        joined = [b"".join(column) for column in zip(*self.tensors, strict=True)]
        return Job(plan.kind, joined, plan.rows * len(self.calls))

    def parts(self, most: int) -> "Iterator[Portion]":
        """Yield portions of at most so many calls each."""
        if len(self.calls) <= most:
            yield self
            return
        for start in range(0, len(self.calls), most):
            cut = slice(start, start + most)
            yield Portion(
                self.plan,
                self.arrived_ns,
                self.calls[cut],
                self.id_fields[cut],
                self.tensors[cut],
                self.decode_ns,
            )


class Inference:
    """What ModelInfer does before and after the runs."""

    def __init__(
        self,
        catalog: Catalog,
        regions: Regions,
        max_rows: int,
        refusals: Refusals | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        """Prepare; observers are told of every call that has ended."""
        self._catalog = catalog
        self._regions = regions
        self._max_rows = max_rows
        self._refusals = Refusals() if refusals is None else refusals
        self._observers = observers

    @property
    def observed(self) -> bool:
        """Whether anybody wants to know where calls come from."""
        return bool(self._observers)

    def refused(self, error: ServingError, origin: Origin = NOWHERE) -> None:
        """Take note of a call that its transport refused."""
        self._refusals.count(error)
        if self._observers:
            self._tell(Observation(origin=origin, error=error, started_ns=time_ns()))

    def prepare(self, calls: Sequence[Call]) -> list[Portion]:
        """Decode and validate calls; those that fail are answered, the others are in portions."""
        arrived_ns = perf_counter_ns()
        # The plans are those of the models that answer now: taken before a model is looked up.
        plans = self._catalog.plans
        forms = plans.forms
        portions: dict[Plan, Portion] = {}
        for call in calls:
            message = call.message
            form = forms.get(len(message))
            tensors: _Tensors
            if (
                form is not None
                and message[: len(form.prefix)] == form.prefix
                and call.caller.may(Action.INFER, form.plan.model.name)
            ):
                plan, id_field = form.plan, form.id_field
                tensors = (message[len(form.prefix) :],)
            else:
                try:
                    plan, id_field, tensors = self._decode(message, call.caller)
                except Exception as error:
                    call.answer = told = self._told(error)
                    if self._observers:
                        self._tell(self._of_refused(call, told))
                    continue
            portion = portions.get(plan)
            if portion is None:
                portion = portions[plan] = Portion(plan, arrived_ns, [], [], [])
            portion.calls.append(call)
            portion.id_fields.append(id_field)
            portion.tensors.append(tensors)
        if portions:
            decode_ns = (perf_counter_ns() - arrived_ns) // len(calls)
            for portion in portions.values():
                portion.decode_ns = decode_ns
        return list(portions.values())

    def finish(self, portion: Portion, job: Job) -> None:
        """Answer the calls of a portion whose job is done."""
        plan, count = portion.plan, len(portion.calls)
        computed_ns = perf_counter_ns()
        try:
            if job.error is not None:
                raise job.error
            replies = plan.replies(portion.id_fields, job)
        except Exception as error:
            told = self._told(error)
            took_ns = perf_counter_ns() - portion.arrived_ns
            for call in portion.calls:
                call.answer = told
                plan.model.statistics.failed(took_ns, STATUS[type(told)])
            if self._observers:
                self._tell_all(portion, took_ns - portion.decode_ns - job.ran_ns, job.ran_ns, 0)
            return
        ended_ns = perf_counter_ns()
        encode_ns = ended_ns - computed_ns
        # Whatever is not one of the other parts was spent waiting, for a run or for calls that
        # were handled together with these.
        total_ns = count * (ended_ns - portion.arrived_ns)
        queue_ns = total_ns - count * (portion.decode_ns + job.ran_ns) - encode_ns
        plan.model.statistics.answered(
            count * plan.rows,
            count * portion.decode_ns,
            queue_ns,
            count * job.ran_ns,
            encode_ns,
            ended_ns,
            calls=count,
        )
        parts = None
        if plan.timed:
            parts = {
                "decode": portion.decode_ns / 1e3,
                "queue": job.waited_ns / 1e3,
                "compute": job.ran_ns / 1e3,
                "encode": encode_ns / count / 1e3,
            }
        for call, message in zip(portion.calls, replies, strict=True):
            call.answer = Reply(message, parts)
        if self._observers:
            self._tell_all(portion, queue_ns // count, job.ran_ns, encode_ns // count)

    def _decode(self, message: bytes | memoryview, caller: Caller) -> tuple[Plan, bytes, _Tensors]:
        """Return how to answer a call, its id as a field, and its tensors in the model's order."""
        plans = self._catalog.plans
        parts = split(message)
        if parts is not None:
            plan = plans.find(parts)
            if plan is not None and caller.may(Action.INFER, plan.model.name):
                return plan, parts.id_field, plan.in_order(parts.tensors)
        request, model = self._find(message, caller)
        plan, tensors = self._plan(model, request)
        if parts is not None:
            plans.keep(plan, parts, message)
        id_field = pb.ModelInferResponse(id=request.id).SerializeToString()
        return plan, id_field, tensors

    def _plan(self, model: Model, request: pb.ModelInferRequest) -> tuple[Plan, _Tensors]:
        started_ns = perf_counter_ns()
        try:
            inference = validate(model, request, self._regions, self._max_rows)
        except ServingError as error:
            model.statistics.failed(perf_counter_ns() - started_ns, STATUS[type(error)])
            raise
        sent = [tensor.name for tensor in request.inputs]
        plan = Plan.of(model, inference, sent, timed=timing.PARAMETER in request.parameters)
        return plan, plan.tensors(inference)

    def _find(
        self, message: bytes | memoryview, caller: Caller
    ) -> tuple[pb.ModelInferRequest, Model]:
        """Read a request and return the model that is to answer it."""
        name = ""
        try:
            request = parse(pb.ModelInferRequest, message)
            if request.model_name in self._catalog:
                name = request.model_name
            caller.check(Action.INFER, request.model_name)
            return request, self._catalog.find(request.model_name, request.model_version)
        except ModelNotFoundError as error:
            self._refusals.count(error, name)
            raise error.as_seen(lambda name: caller.may(Action.READ, name)) from error
        except ServingError as error:
            self._refusals.count(error, name)
            raise

    def _told(self, error: Exception) -> ServingError:
        """Return what a caller is told of an error."""
        if isinstance(error, ServingError):
            # With its traceback, whose frames know the call, it would keep the call alive.
            return error.with_traceback(None)
        logger.error("unexpected error in ModelInfer", exc_info=error)
        fault = InternalError()
        self._refusals.count(fault)
        return fault

    def _tell(self, observation: Observation) -> None:
        for observer in self._observers:
            try:
                observer(observation)
            except Exception:
                # No call fails because it could not be logged.
                logger.exception("a call could not be told")

    def _tell_all(self, portion: Portion, queue_ns: int, compute_ns: int, encode_ns: int) -> None:
        """Tell of calls that ended together, each with its share of their time."""
        plan = portion.plan
        started_ns = time_ns() - (perf_counter_ns() - portion.arrived_ns)
        for call in portion.calls:
            self._tell(
                Observation(
                    origin=call.origin,
                    caller=call.caller.name,
                    model=plan.model.name,
                    version=str(plan.model.version),
                    rows=plan.rows,
                    error=call.answer if isinstance(call.answer, ServingError) else None,
                    started_ns=started_ns,
                    decode_ns=portion.decode_ns,
                    queue_ns=queue_ns,
                    compute_ns=compute_ns,
                    encode_ns=encode_ns,
                )
            )

    def _of_refused(self, call: Call, error: ServingError) -> Observation:
        """Return what is to be told of a call that did not get as far as its model."""
        try:
            name = parse(pb.ModelInferRequest, call.message).model_name
        except InvalidRequestError:
            name = ""
        return Observation(
            origin=call.origin,
            caller=call.caller.name,
            model=name if name in self._catalog else "",
            error=error,
            started_ns=time_ns(),
        )
