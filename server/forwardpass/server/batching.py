"""Calls that wait together run together: one queue a model, without added delay.

A call that finds a free runner runs at once. Calls that arrive while every runner is busy wait;
when a run ends, the first of those that wait takes over and leads the next run, of the rows of
all that wait. Nobody waits for a batch to fill.

Threads wait with `run`. An event loop, which must not wait, uses the parts that `run` is made
of (dispatch.py).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    wake: Callable[[], None] | None = None
    """Set where the job waits: called when it is done, or has to lead a run."""
    done: bool = False


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
        """
        turns: list[threading.Lock] = []

        def wait() -> Sequence[Job]:
            for job in jobs:
                turn = threading.Lock()
                turn.acquire()
                turns.append(turn)
                job.wake = turn.release
            return jobs

        if self.enter(wait):
            self.lead(jobs)
            return
        # The first to get a turn takes those behind it along.
        for job, turn in zip(jobs, turns, strict=True):
            if job.error is None and not self._wait(job, turn):
                self.lead(self.take(job))

    def enter(self, waiting: Callable[[], Sequence[Job]]) -> bool:
        """Take a free runner and return True: `lead` has to follow. Else let jobs wait.

        waiting: returns them, who can be woken; asked for only then, with the queue locked.
        Those for which there is no room have an error afterwards, and do not wait.
        """
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return True
            jobs = waiting()
            room = self._max_waiting - len(self._waiting)
            self._waiting.extend(jobs[:room])
        for job in jobs[room:]:
            job.error = QueueFullError(self._model, self._max_waiting)
        return False

    def leave(self, job: Job) -> bool:
        """Let a job go that waits and is not wanted any more; False if its turn came already."""
        with self._lock:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            return True

    def take(self, leader: Job) -> list[Job]:
        """Return a job that has to lead, and what waits and can run with it.

        Ends what is not wanted any more; nothing is left if that is the leader.
        """
        leader.error = unwanted(self._model, leader)
        if leader.error is not None:
            leader.done = True
            return []
        if not leader.kind.by_rows:
            return [leader]
        batch, rows = [leader], leader.rows
        ended: list[Job] = []
        with self._lock:
            kept: deque[Job] = deque()
            while self._waiting and rows < self._max_rows:
                job = self._waiting.popleft()
                if job.kind != leader.kind or rows + job.rows > self._max_rows:
                    kept.append(job)
                elif (error := unwanted(self._model, job)) is not None:
                    job.error = error
                    ended.append(job)
                else:
                    batch.append(job)
                    rows += job.rows
            kept.extend(self._waiting)
            self._waiting = kept
        _end(ended)
        return batch

    def lead(self, batch: Sequence[Job]) -> None:
        """Compute a batch, end its jobs, and hand the runner to the next that waits."""
        try:
            self._compute(batch)
        finally:
            _end(batch)
            with self._lock:
                leader = self._waiting.popleft() if self._waiting else None
                if leader is None:
                    self._free += 1
            if leader is not None and leader.wake is not None:
                leader.wake()

    def _wait(self, job: Job, turn: threading.Lock) -> bool:
        """Wait until the job is done, and return True, or has to lead the next run: False."""
        started = perf_counter_ns()
        timeout = -1.0
        if job.deadline is not None:
            # grpcio gives a call without a deadline one in thousands of years.
            timeout = min(max(0.0, job.deadline - monotonic()), threading.TIMEOUT_MAX)
        if not turn.acquire(timeout=timeout):
            if self.leave(job):
                job.error = DeadlineExpiredError(self._model)
                return True
            # Too late to leave: it is in a run, or was told to lead one just now.
            turn.acquire()
        job.waited_ns = perf_counter_ns() - started - job.ran_ns
        return job.done

    def _compute(self, batch: Sequence[Job]) -> None:
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


def unwanted(model: str, job: Job) -> ServingError | None:
    """Return why nobody waits for a job's answers any more; None if someone does."""
    if job.deadline is not None and monotonic() >= job.deadline:
        return DeadlineExpiredError(model)
    if job.active is not None and not job.active():
        return CallCancelledError(model)
    return None


def _end(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.done = True
        if job.wake is not None:
            job.wake()
