"""Calls that wait together run together: one queue a model, without added delay.

A call that finds a free runner runs at once, in its own thread. Calls that arrive while every
runner is busy wait; when a run ends, one of the waiting threads takes over and runs the rows of
all that wait, as one batch. Nobody waits for a batch to fill.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter_ns
from typing import Any, NamedTuple

from forwardpass.server.errors import (
    CallCancelledError,
    DeadlineExpiredError,
    InternalError,
    QueueFullError,
    ServingError,
)

logger = logging.getLogger(__name__)


class Kind(NamedTuple):
    """What jobs have in common that can run together."""

    outputs: tuple[str, ...]
    """Names of the outputs wanted, in this order."""
    shapes: tuple[tuple[int, ...], ...]
    """Of one row of each input of the model; if not by rows, of the whole input."""
    by_rows: bool
    """Whether axis 0 of everything is the batch, and no row's answer depends on another row;
    jobs that are not run one by one."""


@dataclass(slots=True, eq=False)
class Job:
    """The rows of one call, or a part of them."""

    kind: Kind
    tensors: Sequence[Any]
    """One entry an input of the model: the rows' raw bytes, or an array of BYTES elements."""
    rows: int
    """1 if not by rows."""
    deadline: float | None = None
    """On the clock of time.monotonic; past it, rows that still wait are not computed."""
    active: Callable[[], bool] | None = None
    """Whether the caller is still there; asked before rows that waited are computed."""
    answers: Sequence[bytes] = ()
    """One entry an output wanted, filled by the run: the raw bytes of the rows' answers."""
    shapes: Sequence[tuple[int, ...]] = ()
    """The shape of each of them."""
    error: ServingError | None = None
    waited_ns: int = 0
    """How long the rows waited for their run."""
    ran_ns: int = 0
    """How long the run took that they were a part of."""
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while the caller waits; released once, when its job is done or has to lead a run."""
    _done: bool = False


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """What every model's queue is held to."""

    max_waiting: int = 1024
    """Most jobs that wait; the next one is refused."""
    runners: int = 1
    """Most runs of one model at the same time: no more than there are CPUs."""


Run = Callable[[Sequence[Job]], None]
"""Compute jobs of one kind together and fill in their answers, or raise ServingError."""


class BatchQueue:
    """The queue of one model; `run` is called from many threads at once."""

    def __init__(self, model: str, run: Run, *, max_rows: int, limits: QueueLimits) -> None:
        """Prepare a queue.

        max_rows: most rows that several jobs bring to one run (a single job may have more).
        """
        self._model = model
        self._run = run
        self._max_rows = max_rows
        self._max_waiting = limits.max_waiting
        # Guards the two below. While a runner is free nothing waits.
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._free = limits.runners

    @property
    def waiting(self) -> int:
        """How many jobs wait now."""
        return len(self._waiting)

    @property
    def max_waiting(self) -> int:
        """How many may wait."""
        return self._max_waiting

    def run(self, jobs: Sequence[Job]) -> None:
        """Return when every job has its answers or its error.

        jobs are of one kind, with at most max_rows rows in all unless there is only one.

        Raises QueueFullError, and then none was taken.
        """
        with self._lock:
            free = self._free > 0
            if free:
                self._free -= 1
            elif len(self._waiting) + len(jobs) > self._max_waiting:
                raise QueueFullError(self._model, self._max_waiting)
            else:
                for job in jobs:
                    job._turn.acquire()
                self._waiting.extend(jobs)
        if free:
            self._lead(list(jobs))
            return
        # The first to get a turn takes those behind it along.
        for job in jobs:
            if not self._wait(job):
                self._lead(self._take(job))

    def _wait(self, job: Job) -> bool:
        """Wait until the job is done, and return True, or has to lead the next run: False."""
        started = perf_counter_ns()
        timeout = -1.0
        if job.deadline is not None:
            # grpcio gives a call without a deadline one in thousands of years.
            timeout = min(max(0.0, job.deadline - monotonic()), threading.TIMEOUT_MAX)
        if not job._turn.acquire(timeout=timeout):
            with self._lock:
                if job in self._waiting:
                    self._waiting.remove(job)
                    job.error = DeadlineExpiredError(self._model)
                    return True
            # Too late to leave: it is in a run, or was told to lead one just now.
            job._turn.acquire()
        job.waited_ns = perf_counter_ns() - started - job.ran_ns
        return job._done

    def _take(self, leader: Job) -> list[Job]:
        """Take the leader and what waits and can run with it; end what is not wanted any more."""
        if self._unwanted(leader):
            return []
        if not leader.kind.by_rows:
            return [leader]
        batch, rows = [leader], leader.rows
        with self._lock:
            kept: deque[Job] = deque()
            while self._waiting and rows < self._max_rows:
                job = self._waiting.popleft()
                if job.kind != leader.kind or rows + job.rows > self._max_rows:
                    kept.append(job)
                elif self._unwanted(job):
                    job._done = True
                    job._turn.release()
                else:
                    batch.append(job)
                    rows += job.rows
            kept.extend(self._waiting)
            self._waiting = kept
        return batch

    def _unwanted(self, job: Job) -> bool:
        if job.deadline is not None and monotonic() >= job.deadline:
            job.error = DeadlineExpiredError(self._model)
        elif job.active is not None and not job.active():
            job.error = CallCancelledError(self._model)
        return job.error is not None

    def _lead(self, batch: list[Job]) -> None:
        """Compute a batch whose first job is this thread's own; then let the next one lead."""
        try:
            self._compute(batch)
        finally:
            for job in batch:
                job._done = True
                if job._turn.locked():
                    job._turn.release()
            with self._lock:
                if self._waiting:
                    self._waiting.popleft()._turn.release()
                else:
                    self._free += 1

    def _compute(self, batch: list[Job]) -> None:
        if not batch:
            return
        started = perf_counter_ns()
        try:
            self._run(batch)
        except ServingError as error:
            if len(batch) == 1:
                batch[0].error = error
            else:
                # One caller's rows must not fail those of the others.
                for job in batch:
                    self._compute([job])
            return
        except BaseException as error:
            logger.exception("unexpected error while model %r ran", self._model)
            for job in batch:
                job.error = InternalError()
            if not isinstance(error, Exception):
                raise
        ran_ns = perf_counter_ns() - started
        for job in batch:
            job.ran_ns = ran_ns
