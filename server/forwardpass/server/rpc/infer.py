"""ModelInfer: turns the bytes of waiting calls into jobs, and answers into replies.

Where possible, Python time is spent once for all calls of one form.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from threading import Lock, Semaphore
from time import perf_counter_ns, time_ns
from typing import Any, ClassVar

from forwardpass.proto import timing
from forwardpass.server.access.caller import ANYONE, Action, Caller
from forwardpass.server.audit import Denials
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import Job, Kind
from forwardpass.server.errors import (
    STATUS,
    InternalError,
    ModelNotFoundError,
    PermissionDeniedError,
    ServingError,
)
from forwardpass.server.observe.observation import Observation, Observer
from forwardpass.server.observe.origin import NOWHERE, Origin
from forwardpass.server.observe.refusals import Refusals
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.rpc.explain import EXPLAIN, NotMadeError, explained
from forwardpass.server.rpc.plan import Plan, Plans
from forwardpass.server.rpc.regions import Regions
from forwardpass.server.rpc.request import validate
from forwardpass.server.rpc.scan import Most, Scanned, names, scan
from forwardpass.server.rpc.wire import split

logger = logging.getLogger(__name__)

READERS = 2
"""Maximum number of large requests of new forms that are read at the same time: reading holds
Python's lock, which answering everything else needs."""
_LONG_BYTES = 2**15
"""Maximum size of requests of new forms that are read together on an event loop, in bytes."""
_CALL_BYTES = 2**8
"""What reading one takes beyond its size, in bytes that take as long."""

_Tensors = Sequence[Any]

Times = tuple[int, int]
"""When the first and the last byte of a call arrived, on the clock of time.perf_counter_ns."""

_NO_FORM: tuple[bytes, int, Plan | None, bytes] = b"", 0, None, b""
_UNKNOWN: Times = (0, 0)
_times = attrgetter("times")


class Reply:
    """The answer to one ModelInfer call."""

    __slots__ = ("message", "timing")

    def __init__(self, message: bytes, timing: Mapping[str, float] | None = None) -> None:
        self.message = message
        """A serialized ModelInferResponse."""
        self.timing = timing
        """The phases of the server's time in microseconds; None if the caller did not ask."""


@dataclass(slots=True, eq=False)
class Call:
    """One ModelInfer call, as a transport passes it on."""

    message: bytes | memoryview
    """A serialized ModelInferRequest; a large one may be a view."""
    deadline: float | None = None
    """Time limit on the clock of time.monotonic; None: no limit."""
    active: Callable[[], bool] | None = None
    """Returns whether the caller still waits; None: always."""
    caller: Caller = ANYONE
    origin: Origin = NOWHERE
    times: Times = _UNKNOWN
    """When it arrived; equal objects for calls that arrived together cost least."""
    batch: bool = False
    """Whether its class is batch, whatever the message says."""
    answer: Reply | ServingError | None = None
    """The answer; None until there is one."""
    answer_share: ClassVar[int] = 1
    """Memory that an answer takes as it is sent, in bytes for each of the reply."""


@dataclass(slots=True, eq=False)
class Portion:
    """Calls of one form, one class and one way to answer, which can be computed as one job."""

    plan: Plan
    kind: Kind
    begun_ns: int
    """When their decoding began, on the clock of time.perf_counter_ns."""
    calls: list[Call]
    id_fields: list[bytes]
    tensors: list[_Tensors]
    """Tensors of each call, in the order of the model's inputs."""
    decode_ns: int = 0
    """Average decoding time of a call, in nanoseconds."""
    answer_bytes: int = 0
    """Memory that is promised to the answer of each call, in bytes."""
    answer_share: int = 1
    """See `Call`."""

    def job(self) -> Job:
        """Return the rows of all calls; a single call adds its deadline, so that it can wait."""
        plan = self.plan
        if len(self.calls) == 1:
            (call,) = self.calls
            return Job(self.kind, self.tensors[0], plan.rows, call.deadline, call.active)
        joined = [b"".join(column) for column in zip(*self.tensors, strict=True)]
        return Job(self.kind, joined, plan.rows * len(self.calls))

    def parts(self, max_calls: int) -> "Iterator[Portion]":
        """Yield portions of at most `max_calls` calls each."""
        if len(self.calls) <= max_calls:
            yield self
            return
        for start in range(0, len(self.calls), max_calls):
            cut = slice(start, start + max_calls)
            yield Portion(
                self.plan,
                self.kind,
                self.begun_ns,
                self.calls[cut],
                self.id_fields[cut],
                self.tensors[cut],
                self.decode_ns,
                self.answer_bytes,
                self.answer_share,
            )

    def times(self) -> Mapping[Times, int]:
        """Return how many of the calls arrived when."""
        calls = self.calls
        if len(calls) == 1 and calls[0].times is not _UNKNOWN:
            return {calls[0].times: 1}
        # Nearly always one: calls that were read in one turn share their times.
        found = set(map(_times, calls))
        counts = {found.pop(): len(calls)} if len(found) == 1 else Counter(map(_times, calls))
        if _UNKNOWN in counts:
            counts[self.begun_ns, self.begun_ns] = counts.pop(_UNKNOWN)
        return counts


class Rest:
    """The calls of new forms that an event loop has no time to read."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.used = False
        """Whether any call was of a new form."""
        self._room = _LONG_BYTES

    def takes(self, call: Call) -> bool:
        """Add a call if there is no time for it."""
        self.used = True
        self._room -= len(call.message) + _CALL_BYTES
        if self._room < 0:
            self.calls.append(call)
            return True
        return False


class Inference:
    """The work of ModelInfer before and after the runs."""

    def __init__(
        self,
        catalog: Catalog,
        regions: Regions,
        max_rows: int,
        refusals: Refusals | None = None,
        observers: Sequence[Observer] = (),
        denials: Denials | None = None,
    ) -> None:
        """Prepare; observers: called for every ended call."""
        self._catalog = catalog
        self._regions = regions
        self._max_rows = max_rows
        self._refusals = Refusals() if refusals is None else refusals
        self._observers = observers
        self._denials = Denials() if denials is None else denials
        self._reading = Semaphore(READERS)
        self._callers: Counter[str] | None = None
        """Ended calls by the caller's name; None until somebody wants to know."""
        self._counting = Lock()
        self._known = catalog.generation, Plans(self._most())
        """The plans made so far, with the generation of their models."""

    @property
    def observed(self) -> bool:
        """Whether any observer needs the origin of calls."""
        return bool(self._observers)

    def callers(self) -> dict[str, int]:
        """Return the ended calls of each caller with a name, counted from the first look on."""
        with self._counting:
            if self._callers is None:
                self._callers = Counter()
            return dict(self._callers)

    def refused(self, error: ServingError, origin: Origin = NOWHERE) -> None:
        """Count and report a call that its transport refused."""
        self._refusals.count(error)
        if self._observers:
            self._report(Observation(origin=origin, error=error, started_ns=time_ns()))

    def prepare(self, calls: Sequence[Call], rest: Rest | None = None) -> list[Portion]:
        """Decode and validate calls; answer those that fail, return the others in portions.

        Portions of interactive calls come first. rest: Gets the calls whose reading may take long;
        None: they are read as well.
        """
        begun_ns = perf_counter_ns()
        # Taken before a model is looked up, so that the plans are of the current models.
        forms = self._plans().forms
        portions: dict[tuple[Plan, int], Portion] = {}
        batch_portions: dict[tuple[Plan, int], Portion] = {}
        portion: Portion | None = None
        batch, share = False, 1
        for call in calls:
            message = call.message
            prefix, size, plan, id_field = forms.get(len(message), _NO_FORM)
            tensors: _Tensors
            if (
                plan is not None
                and message[:size] == prefix
                and (call.caller is ANYONE or call.caller.may(Action.INFER, plan.model.name))
            ):
                tensors = (message[size:],)
            else:
                try:
                    read = self._decode(call, rest)
                except Exception as error:
                    call.answer = reported = self._caller_error(error)
                    if self._callers is not None:
                        self._count([call])
                    if isinstance(reported, PermissionDeniedError):
                        self._denials.record(reported, call.caller.name, call.origin.peer)
                    if self._observers:
                        self._report(self._of_refused(call, reported))
                    continue
                if read is None:
                    continue
                plan, id_field, tensors = read
            if (
                portion is None
                or plan is not portion.plan
                or call.batch is not batch
                or call.answer_share != share
            ):
                # Most calls are like the one before.
                batch, share = call.batch, call.answer_share
                of_class = batch_portions if batch or plan.batch else portions
                portion = of_class.get((plan, share))
                if portion is None:
                    kind = plan.kind if of_class is portions else plan.batch_kind
                    portion = Portion(plan, kind, begun_ns, [], [], [], answer_share=share)
                    of_class[plan, share] = portion
            portion.calls.append(call)
            portion.id_fields.append(id_field)
            portion.tensors.append(tensors)
        prepared = [*portions.values(), *batch_portions.values()]
        if prepared:
            decode_ns = (perf_counter_ns() - begun_ns) // len(calls)
            for portion in prepared:
                portion.decode_ns = decode_ns
                portion.answer_bytes = portion.plan.answer_bytes
                ids = portion.id_fields
                if ids.count(b"") < len(ids):
                    portion.answer_bytes += max(map(len, ids))
                portion.answer_bytes *= portion.answer_share
        return prepared

    def refuse(self, portion: Portion, error: ServingError) -> None:
        """Answer the calls of a portion that does not run with an error."""
        self.finish(portion, Job(portion.kind, (), 0, error=error))

    def finish(self, portion: Portion, job: Job) -> None:
        """Answer the calls of a portion whose job is done."""
        plan, count = portion.plan, len(portion.calls)
        computed_ns = perf_counter_ns()
        if self._callers is not None:
            self._count(portion.calls)
        try:
            if job.error is not None:
                raise job.error
            replies = plan.replies(portion.id_fields, job)
        except Exception as error:
            reported = self._caller_error(error)
            self._refusals.shed(reported, count)
            failed_ns = perf_counter_ns()
            for call in portion.calls:
                call.answer = reported
                took_ns = failed_ns - (call.times[0] or portion.begun_ns)
                plan.model.statistics.failed(took_ns, STATUS[type(reported)])
            if self._observers:
                self._report_all(portion, failed_ns, job.ran_ns, 0)
            return
        ended_ns = perf_counter_ns()
        encode_ns = (ended_ns - computed_ns) // count
        for (arrived_ns, received_ns), calls in portion.times().items():
            # The rest of the time was spent waiting: for a turn, for a run, or for calls that
            # were handled together with these.
            total_ns = calls * (ended_ns - received_ns)
            queue_ns = total_ns - calls * (portion.decode_ns + job.ran_ns + encode_ns)
            plan.model.statistics.answered(
                calls * plan.rows,
                calls * portion.decode_ns,
                queue_ns,
                calls * job.ran_ns,
                calls * encode_ns,
                ended_ns,
                calls=calls,
                receive_ns=calls * (received_ns - arrived_ns),
            )
        for call, message in zip(portion.calls, replies, strict=True):
            call.answer = Reply(message)
            if plan.timed:
                waited_ns = portion.begun_ns - (call.times[1] or portion.begun_ns)
                call.answer.timing = {
                    "decode": portion.decode_ns / 1e3,
                    "queue": (waited_ns + job.waited_ns) / 1e3,
                    "compute": job.ran_ns / 1e3,
                    "encode": encode_ns / 1e3,
                }
        if self._observers:
            self._report_all(portion, ended_ns, job.ran_ns, encode_ns)

    def _count(self, calls: Sequence[Call]) -> None:
        with self._counting:
            if self._callers is not None:
                self._callers.update(name for call in calls if (name := call.caller.name))

    def _plans(self) -> Plans:
        """Return the plans of the current models.

        Call it before a model is looked up: plans kept in the result are then of a model that is
        at least as new.
        """
        generation, plans = self._known
        if generation is not self._catalog.generation:
            generation = self._catalog.generation
            plans = Plans(self._most())
            self._known = generation, plans
        return plans

    def _most(self) -> Most:
        """Return the maximum numbers of a request."""
        offers = map(self._catalog.get, self._catalog)
        return Most.of(model for offer in offers for model in offer.answering.values())

    def _decode(self, call: Call, rest: Rest | None) -> tuple[Plan, bytes, _Tensors] | None:
        """Return a call's plan, its id as a field, and its tensors in the model's order.

        None if the rest takes it.
        """
        message, caller = call.message, call.caller
        plans = self._plans()
        parts = split(message)
        if parts is not None:
            plan = plans.find(parts)
            if plan is not None and caller.may(Action.INFER, plan.model.name):
                return plan, parts.id_field, plan.in_order(parts.tensors)
        if rest is not None and rest.takes(call):
            return None
        try:
            if len(message) < _LONG_BYTES:
                scanned, plan, tensors = self._read(message, caller, plans, waits=rest is None)
            else:
                with self._reading:
                    scanned, plan, tensors = self._read(message, caller, plans, waits=rest is None)
        except NotMadeError:
            if rest is None:
                raise
            rest.calls.append(call)
            return None
        if parts is not None:
            plans.keep(plan, parts, message)
        return plan, scanned.id_field, tensors

    def _read(
        self, message: bytes | memoryview, caller: Caller, plans: Plans, *, waits: bool
    ) -> tuple[Scanned, Plan, _Tensors]:
        """Read and validate a request; waits: Whether that may take long."""
        scanned, model = self._find(message, caller, plans.most)
        return scanned, *self._plan(model, scanned, waits=waits)

    def _plan(self, model: Model, scanned: Scanned, *, waits: bool) -> tuple[Plan, _Tensors]:
        started_ns = perf_counter_ns()
        request = scanned.request
        try:
            if any(name in request.parameters for name in EXPLAIN):
                model = explained(model, request.parameters, waits=waits)
            valid = validate(model, scanned, self._regions, self._max_rows)
        except ServingError as error:
            model.statistics.failed(perf_counter_ns() - started_ns, STATUS[type(error)])
            raise
        sent = [tensor.name for tensor in request.inputs]
        plan = Plan.of(model, valid, sent, timed=timing.PARAMETER in request.parameters)
        return plan, plan.tensors(valid)

    def _find(
        self, message: bytes | memoryview, caller: Caller, most: Most
    ) -> tuple[Scanned, Model]:
        """Read a request and return it with its model."""
        name = ""
        try:
            scanned = scan(message, most)
            request = scanned.request
            if request.model_name in self._catalog:
                name = request.model_name
            caller.check(Action.INFER, request.model_name)
            return scanned, self._catalog.find(request.model_name, request.model_version)
        except ModelNotFoundError as error:
            self._refusals.count(error, name)
            raise error.as_seen(lambda name: caller.may(Action.READ, name)) from error
        except ServingError as error:
            self._refusals.count(error, name)
            raise

    def _caller_error(self, error: Exception) -> ServingError:
        """Return the error that the caller receives."""
        if isinstance(error, ServingError):
            # The call keeps it, and the frames of a traceback would keep the call.
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        logger.error("unexpected error in ModelInfer", exc_info=error)
        fault = InternalError()
        self._refusals.count(fault)
        return fault

    def _report(self, observation: Observation) -> None:
        for observer in self._observers:
            try:
                observer(observation)
            except Exception:
                # A call must not fail because it could not be logged.
                logger.exception("an observer failed")

    def _report_all(self, portion: Portion, ended_ns: int, compute_ns: int, encode_ns: int) -> None:
        """Report calls that ended together, each with its share of the time."""
        plan = portion.plan
        # From the clock of time.perf_counter_ns to the epoch.
        epoch_ns = time_ns() - perf_counter_ns()
        worked_ns = portion.decode_ns + compute_ns + encode_ns
        for call in portion.calls:
            arrived_ns, received_ns = call.times
            if call.times == _UNKNOWN:
                arrived_ns = received_ns = portion.begun_ns
            self._report(
                Observation(
                    origin=call.origin,
                    caller=call.caller.name,
                    model=plan.model.name,
                    version=str(plan.model.version),
                    rows=plan.rows,
                    error=call.answer if isinstance(call.answer, ServingError) else None,
                    started_ns=epoch_ns + arrived_ns,
                    receive_ns=received_ns - arrived_ns,
                    decode_ns=portion.decode_ns,
                    queue_ns=ended_ns - received_ns - worked_ns,
                    compute_ns=compute_ns,
                    encode_ns=encode_ns,
                )
            )

    def _of_refused(self, call: Call, error: ServingError) -> Observation:
        """Return the observation of a call that failed before its model was found."""
        name, _ = names(call.message)
        return Observation(
            origin=call.origin,
            caller=call.caller.name,
            model=name if name in self._catalog else "",
            error=error,
            started_ns=time_ns(),
        )
