"""Calls that wait together run together: one queue a model, without added delay.

A call that finds a free runner runs at once. Calls that arrive while every runner is busy wait;
when a run ends, the first of those that wait takes over and leads the next run, of the rows of
all that wait. Nobody waits for a batch to fill.

Jobs have one of two classes. Interactive ones go first, but for one in `_BATCH_TURNS` where both
wait. Batch ones never take the last free runner, and never join an interactive run, which would
take longer for it.

Threads wait with `run`. An event loop, which must not wait, uses the parts that `run` is made
of (rpc/on_loop.py).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
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

_BATCH_TURNS = 8
"""So many interactive jobs may lead in a row while one of the class batch waits."""
_RECENT_S = 0.1
"""So long after an interactive job others are expected."""
_LEAST_S, _MOST_S = 0.05, 5.0
"""Bounds of the time after which a refused caller is asked to come back, in seconds."""


class _Lately:
    """What all queues of this process know: a run of one model takes the CPU of another's."""

    interactive_s = -inf
    """When an interactive job last came, on the clock of time.monotonic."""


_lately = _Lately()


def expects_interactive() -> bool:
    """Return whether interactive jobs of any model came lately, so that others are expected."""
    return monotonic() - _lately.interactive_s < _RECENT_S


def come_back_s(oldest_ns: int) -> float:
    """Return after how many seconds a refused caller may find room.

    oldest_ns: How long the first in the queue has waited; all that wait now will be gone after
    about as long.
    """
    return min(max(_LEAST_S, oldest_ns / 1e9), _MOST_S)


class Kind(NamedTuple):
    """What jobs must have in common to run together."""

    outputs: tuple[str, ...]
    """Names of the requested outputs, in this order."""
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of one row of each input of the model; of the whole inputs if not by rows."""
    by_rows: bool
    """Whether axis 0 of every tensor is the batch, and no row's answer depends on another row;
    other jobs run one by one."""
    batch: bool = False
    """Whether their class is batch, not interactive."""


@dataclass(slots=True, eq=False)
class Job:
    """The rows of one call, or a part of them."""

    kind: Kind
    tensors: Sequence[Any]
    """An entry for each input of the model: the rows' raw bytes, or an array of BYTES elements."""
    rows: int
    """Number of rows; 1 if not by rows."""
    deadline: float | None = None
    """The time on the clock of time.monotonic after which rows that still wait are not computed."""
    active: Callable[[], bool] | None = None
    """Returns whether the caller is still there; called before rows that waited are computed."""
    answers: Sequence[bytes] = ()
    """An entry for each requested output, filled by the run: the raw bytes of the answers."""
    shapes: Sequence[tuple[int, ...]] = ()
    """The shape of each answer."""
    error: ServingError | None = None
    since_ns: int = 0
    """When they began to wait, on the clock of time.perf_counter_ns; 0: they did not."""
    waited_ns: int = 0
    """Time that the rows waited for their run, in nanoseconds."""
    ran_ns: int = 0
    """Time that their run took, with the rows of other jobs in it, in nanoseconds."""
    wake: Callable[[], None] | None = None
    """Called when a job that waits is done, or has to lead a run; None if it does not wait."""
    done: bool = False


@dataclass(slots=True, eq=False)
class Errand(Job):
    """Something else that takes a runner for a while, in its turn among the jobs; not batched."""

    what: Callable[[], None] = lambda: None
    """Called in place of a run."""


_ERRAND = Kind((), (), by_rows=False)
_ERRAND_ROWS = 2**62
"""More than any event loop runs itself."""


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """The limits of every model's queue."""

    max_waiting: int = 1024
    """Maximum number of jobs of a class that wait; the next one is rejected."""
    runners: int = 1
    """Maximum number of runs of one model at the same time: no more than there are CPUs."""


Run = Callable[[Sequence[Job]], None]
"""A function that computes jobs of one kind together and stores their answers in them, or raises
ServingError."""


class BatchQueue:
    """The queue of one model; `run` is called from many threads at once."""

    def __init__(
        self,
        model: str,
        run: Run,
        *,
        max_rows: int,
        limits: QueueLimits,
        batch_rows: int | None = None,
    ) -> None:
        """Prepare a queue.

        max_rows: maximum rows of several jobs in one run (a single job may have more).
        batch_rows: the same of jobs of the class batch while interactive ones are expected.
        """
        self._model = model
        self._run = run
        self._max_rows = max_rows
        self._batch_rows = min(max_rows, batch_rows or max_rows)
        self._max_waiting = limits.max_waiting
        # Guards everything below. While a runner is free no interactive job waits.
        self._lock = threading.Lock()
        self._waiting: tuple[deque[Job], deque[Job]] = (deque(), deque())
        """Interactive jobs, and batch jobs."""
        self._free = limits.runners
        self._batch_running = 0
        self._batch_most = max(1, limits.runners - 1)
        """Maximum runners that batch jobs have."""
        self._in_a_row = 0
        """Interactive jobs that led a run since the last batch job did."""

    @property
    def waiting(self) -> int:
        """Number of jobs that wait now."""
        return sum(map(len, self._waiting))

    @property
    def oldest_ns(self) -> int:
        """How long the first that waits has waited, in nanoseconds; 0: none waits."""
        with self._lock:
            since = [queue[0].since_ns for queue in self._waiting if queue]
        return perf_counter_ns() - min(since) if since else 0

    @property
    def max_waiting(self) -> int:
        """Maximum number of jobs of a class that wait."""
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

        if self.enter(wait, batch=jobs[0].kind.batch):
            self.lead(jobs)
            return
        # The first that gets a turn takes along those that wait and fit.
        for job, turn in zip(jobs, turns, strict=True):
            if job.error is None and not self._wait(job, turn):
                self.lead(self.take(job))

    def run_errand(self, what: Callable[[], None], *, batch: bool = False) -> None:
        """Call a function in a turn of its own, in this thread or another that leads runs.

        batch: Whether its class is batch. Raises QueueFullError, and what ServingError the
        function raises.
        """
        errand = Errand(_ERRAND._replace(batch=batch), (), _ERRAND_ROWS, what=what)
        self.run([errand])
        if errand.error is not None:
            raise errand.error

    def enter(self, waiting: Callable[[], Sequence[Job]], *, batch: bool = False) -> bool:
        """Take a free runner and return True: `lead` has to follow. Else add jobs to the queue.

        waiting: returns these jobs, each with `wake` set; called only then, with the queue
        locked. Those for which there is no room have an error afterwards, and do not wait.
        batch: Whether their class is batch.
        """
        if not batch:
            _lately.interactive_s = monotonic()
        with self._lock:
            if self._free > 0 and not (batch and self._batch_running >= self._batch_most):
                self._free -= 1
                self._batch_running += batch
                return True
            jobs = waiting()
            queue = self._waiting[batch]
            room = self._max_waiting - len(queue)
            now_ns = perf_counter_ns()
            for job in jobs:
                job.since_ns = now_ns
            oldest_ns = now_ns - queue[0].since_ns if queue else 0
            queue.extend(jobs[:room])
        for job in jobs[room:]:
            job.error = QueueFullError(self._model, self._max_waiting, come_back_s(oldest_ns))
        return False

    def leave(self, job: Job) -> bool:
        """Remove a waiting job that is not wanted any more; False if its turn came before."""
        with self._lock:
            queue = self._waiting[job.kind.batch]
            if job not in queue:
                return False
            queue.remove(job)
            return True

    def take(self, leader: Job) -> list[Job]:
        """Return a job that has to lead, with the waiting jobs that can run with it.

        Ends jobs that are not wanted any more; the list is empty if the leader is one of them.
        """
        leader.error = unwanted(self._model, leader)
        if leader.error is not None:
            leader.done = True
            if leader.kind.batch:
                with self._lock:
                    self._batch_running -= 1
            return []
        if leader.kind.batch:
            with self._lock:
                self._in_a_row = 0
        if not leader.kind.by_rows:
            return [leader]
        batch, rows = [leader], leader.rows
        ended: list[Job] = []
        with self._lock:
            kept: deque[Job] = deque()
            queue = self._waiting[leader.kind.batch]
            beside = leader.kind.batch and expects_interactive()
            most = self._batch_rows if beside else self._max_rows
            while queue and rows < most:
                job = queue.popleft()
                if job.kind != leader.kind or rows + job.rows > most:
                    kept.append(job)
                elif (error := unwanted(self._model, job)) is not None:
                    job.error = error
                    ended.append(job)
                else:
                    batch.append(job)
                    rows += job.rows
            queue.extendleft(reversed(kept))
        _end(ended)
        return batch

    def lead(self, batch: Sequence[Job]) -> None:
        """Compute a batch, end its jobs, and hand the runner to the next that waits."""
        leader = self.lead_on(batch)
        if leader is not None and leader.wake is not None:
            leader.wake()

    def lead_on(self, batch: Sequence[Job]) -> Job | None:
        """Compute a batch and end its jobs; return the next that waits, which has the runner now.

        It has to be taken with `take` and led, at best in this thread, which no hand-over delays.
        """
        try:
            self._compute(batch)
        except BaseException:
            leader = self._pass_on(batch)
            if leader is not None and leader.wake is not None:
                leader.wake()
            raise
        return self._pass_on(batch)

    def _pass_on(self, batch: Sequence[Job]) -> Job | None:
        """End the jobs of a run; return who gets its runner."""
        _end(batch)
        with self._lock:
            if batch and batch[0].kind.batch:
                self._batch_running -= 1
            interactive, batch_jobs = self._waiting
            leader = self._next_leader() if interactive or batch_jobs else None
            if leader is None:
                self._free += 1
        return leader

    def _next_leader(self) -> Job | None:
        """Return who gets a runner that became free."""
        interactive, batch = self._waiting
        turn = bool(batch) and self._batch_running < self._batch_most
        # One of many, or a load of interactive calls would keep the others for ever.
        if interactive and not (turn and self._in_a_row >= _BATCH_TURNS):
            self._in_a_row += 1
            return interactive.popleft()
        if not turn:
            return None
        self._batch_running += 1
        return batch.popleft()

    def first(self, leader: Job) -> Job:
        """Return who leads in place of a job that has to: an interactive one that came since then.

        A batch job that is overtaken waits again, as the first of its class.
        """
        if not leader.kind.batch:
            return leader
        with self._lock:
            interactive, batch = self._waiting
            if not interactive or self._in_a_row >= _BATCH_TURNS:
                return leader
            self._in_a_row += 1
            self._batch_running -= 1
            batch.appendleft(leader)
            return interactive.popleft()

    def _wait(self, job: Job, turn: threading.Lock) -> bool:
        """Wait; return True when the job is done, False when it has to lead the next run."""
        timeout = -1.0
        if job.deadline is not None:
            # For a call without a deadline, grpcio returns one in thousands of years.
            timeout = min(max(0.0, job.deadline - monotonic()), threading.TIMEOUT_MAX)
        if not turn.acquire(timeout=timeout):
            if self.leave(job):
                job.error = DeadlineExpiredError(self._model)
                return True
            # Too late to leave: it is in a run, or has just been woken to lead one.
            turn.acquire()
        job.waited_ns = perf_counter_ns() - job.since_ns - job.ran_ns
        return job.done

    def _compute(self, batch: Sequence[Job]) -> None:
        if not batch:
            return
        started = perf_counter_ns()
        try:
            if type(batch[0]) is Errand:
                batch[0].what()
            else:
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


def unwanted(model: str, job: Job, *, running: bool = False) -> ServingError | None:
    """Return the error of a job whose caller does not wait any more; None if it does.

    running: Whether its run had begun.
    """
    if job.deadline is not None and monotonic() >= job.deadline:
        return DeadlineExpiredError(model, running=running)
    if job.active is not None and not job.active():
        return CallCancelledError(model, running=running)
    return None


def _end(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.done = True
        if job.wake is not None:
            job.wake()
