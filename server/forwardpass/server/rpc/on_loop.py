"""ModelInfer for an event loop: short runs happen at once, and nothing blocks.

Everything is called on the loop's thread except long runs, which have threads of their own, so
that a big batch does not keep small calls from being read and answered.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from time import perf_counter_ns
from typing import Any, NamedTuple, Protocol

from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import Job, unwanted
from forwardpass.server.errors import QueueFullError
from forwardpass.server.rpc.batches import (
    Batch,
    alone,
    batches,
    give_way,
    pieces,
    promise_rest,
    with_room,
)
from forwardpass.server.rpc.budget import AnswerMemory
from forwardpass.server.rpc.infer import Call, Inference, Portion, Rest


class LoopMemory(AnswerMemory, Protocol):
    """The memory of answers on an event loop."""

    def promise_all(self, size: int) -> bool:
        """Count the bytes of several answers, or return False if there is no room for all."""

    def keep(self, size: int) -> None:
        """Count bytes that were promised as those of answers that are written."""


class Dispatcher:
    """Answers batches of waiting calls, some at once and some later."""

    def __init__(
        self,
        inference: Inference,
        threads: Executor,
        readers: Executor,
        post: Callable[[Callable[[], None]], None],
        answered: Callable[[Sequence[Any]], None],
        memory: LoopMemory,
    ) -> None:
        """Prepare.

        threads: for runs. readers: for what takes long to read or to write. post: schedules a call
        on the loop, from any thread. answered: called with calls that now have answers; they are
        the objects that `infer` got. memory: of the answers.
        """
        self._inference = inference
        self._threads = threads
        self._readers = readers
        self._post = post
        self._answered = answered
        self._memory = memory
        self._rest = Rest()
        """For the next calls; used by few."""
        self._waiting: dict[Job, _Waiting] = {}
        """Jobs in the queues of their models."""
        self._woken: deque[Job] = deque()
        """Jobs that are done or have to lead a run; any thread may append."""
        self._posted = False
        """Whether the loop is scheduled to read `_woken`."""

    def infer(self, calls: Sequence[Call]) -> None:
        """Answer calls."""
        rest = self._rest
        portions = self._inference.prepare(calls, rest)
        if rest.used:
            self._rest = Rest()
        # First: a thread may answer a call at any moment from then on.
        self._begin(calls, portions)
        if rest.used:
            for call in rest.calls:
                self._readers.submit(self._read, call)

    def sweep(self) -> None:
        """End waiting jobs whose deadline has passed or whose caller has left."""
        for job, waiting in list(self._waiting.items()):
            error = unwanted(waiting.model.name, job)
            # A job whose turn has come is checked when it is woken.
            if error is not None and waiting.model.queue.leave(job):
                job.error = error
                self._end(job)

    @property
    def waiting(self) -> int:
        """Number of jobs that wait in queues."""
        return len(self._waiting)

    def _read(self, call: Call) -> None:
        """Read a call, in a thread."""
        portions = self._inference.prepare([call])
        self._post(partial(self._begin, [call], portions))

    def _begin(self, calls: Sequence[Call], portions: Sequence[Portion]) -> None:
        """Answer the calls that failed, and start the others."""
        begun = answers = 0
        for portion in portions:
            count = len(portion.calls)
            begun += count
            answers += count * portion.answer_bytes
        if answers and not self._memory.promise_all(answers):
            portions = with_room(self._inference, portions, self._memory)
            begun = len(portions)
        if begun < len(calls):
            failed = [call for call in calls if call.answer is not None]
            if failed:
                self._answered(failed)
        for batch in batches(portions):
            self._start(batch)

    def _start(self, batch: Batch) -> None:
        """Run a batch if there is a runner for it; otherwise queue its calls."""
        model = batch.model
        owners = batch.joined()
        if batch.large:
            ((job, portion),) = owners.items()
            rest = pieces(job, batch.piece_rows)
            self._go_on(_Large(model, rest, partial(self._done, portion, job)))
            return
        waiting: list[Job] = []

        def wait() -> list[Job]:
            for job, single in batch.separate().items():
                waiting.append(self._let_wait(model, job, partial(self._done, single)))
            return waiting

        if model.queue.enter(wait, batch=batch.batch):
            self._lead(model, list(owners), batch.rows, owners)
            return
        for job in waiting:
            if job.error is not None:
                self._end(job)

    def _done(self, portion: Portion, job: Job) -> None:
        """Answer the calls of a finished job."""
        if portion.plan.open_ended and job.error is None:
            promise_rest(portion, job, self._memory)
        if job.error is not None and len(portion.calls) > 1:
            # One caller's rows must not fail the other calls.
            for batch in alone(portion):
                self._start(batch)
        elif portion.plan.slow_to_answer(job):
            self._readers.submit(self._answer, portion, job)
        else:
            self._inference.finish(portion, job)
            self._respond(portion)

    def _answer(self, portion: Portion, job: Job) -> None:
        """Answer the calls of a finished job, in a thread."""
        self._inference.finish(portion, job)
        self._post(partial(self._respond, portion))

    def _respond(self, portion: Portion) -> None:
        self._answered(portion.calls)
        self._memory.keep(len(portion.calls) * portion.answer_bytes)

    def _lead(
        self, model: Model, jobs: Sequence[Job], rows: int, owners: Mapping[Job, Portion]
    ) -> None:
        """Run jobs that have a runner, here or in a thread.

        rows: Total of all jobs. owners: Portions of the jobs that did not wait; others are woken.
        """
        if rows <= model.short_rows:
            model.queue.lead(jobs)
            self._all_done(owners)
        else:
            self._threads.submit(self._lead_long, model, jobs, owners)

    def _lead_long(self, model: Model, jobs: Sequence[Job], owners: Mapping[Job, Portion]) -> None:
        """Run jobs in a thread, and then those that wait."""
        leader = model.queue.lead_on(jobs)
        if owners:
            self._post(partial(self._all_done, owners))
        self._lead_on(model, leader, after=jobs)

    def _lead_on(self, model: Model, leader: Job | None, after: Sequence[Job]) -> None:
        """Lead runs in this thread as long as jobs wait: the loop would only hand them back.

        after: The jobs of the run that ended.
        """
        while leader is not None:
            if leader.kind.batch:
                if after and not after[0].kind.batch and leader.wake is not None:
                    # Where they share a CPU, the loop would answer the others after this run.
                    leader.wake()
                    return
                give_way()
                leader = model.queue.first(leader)
            after = model.queue.take(leader)
            if not after and leader.wake is not None:
                # It is no longer wanted.
                leader.wake()
            leader = model.queue.lead_on(after)

    def _all_done(self, owners: Mapping[Job, Portion]) -> None:
        for job, portion in owners.items():
            self._done(portion, job)

    def _go_on(self, large: "_Large", _: Job | None = None) -> None:
        """Run the next pieces of a large call in a thread, if there is a runner."""
        piece = self._next_piece(large)
        if piece is not None:
            self._threads.submit(self._run_pieces, large, piece)

    def _run_pieces(self, large: "_Large", piece: Job | None) -> None:
        """Run pieces, in a thread, until one has to wait."""
        while piece is not None:
            ended = [piece]
            leader = large.model.queue.lead_on(ended)
            if leader is None and piece.kind.batch:
                give_way()
            piece = self._next_piece(large)
            if piece is None:
                self._lead_on(large.model, leader, after=ended)
            elif leader is not None:
                # There are several runners.
                self._threads.submit(self._lead_on, large.model, leader, after=())

    def _next_piece(self, large: "_Large") -> Job | None:
        """Return the next piece if there is a runner for it; for any thread.

        None if it has to wait, and at the end, which is reported to the loop.
        """
        piece = next(large.rest, None)
        if piece is None:
            self._post(large.done)
            return None
        go_on = partial(self._go_on, large)
        batch = piece.kind.batch
        if large.model.queue.enter(
            lambda: [self._let_wait(large.model, piece, go_on)], batch=batch
        ):
            return piece
        # Another error belongs to a waiting piece that was given up just now.
        if isinstance(piece.error, QueueFullError):
            self._forget(piece)
            return self._next_piece(large)
        return None

    def _let_wait(self, model: Model, job: Job, done: Callable[[Job], None]) -> Job:
        """Prepare a job for the queue; for any thread."""
        job.wake = partial(self._wake, job)
        self._waiting[job] = _Waiting(model, done)
        return job

    def _wake(self, job: Job) -> None:
        """Schedule a job to be handled by the loop; for any thread."""
        self._woken.append(job)
        if not self._posted:
            self._posted = True
            self._post(self._serve_woken)

    def _serve_woken(self) -> None:
        self._posted = False
        while self._woken:
            job = self._woken.popleft()
            if job.done:
                self._end(job)
            elif job.kind.batch:
                # After the answers of the others are written.
                self._post(partial(self._lead_woken, job))
            else:
                self._lead_woken(job)

    def _lead_woken(self, leader: Job) -> None:
        """Let a job that waited lead a run."""
        model = self._waiting[leader].model
        leader = model.queue.first(leader)
        batch = model.queue.take(leader)
        # Empty if the leader is no longer wanted: the next job leads.
        self._lead(model, batch, sum(job.rows for job in batch), {})
        if not batch:
            self._end(leader)

    def _end(self, job: Job) -> None:
        """Report that a waiting job is finished."""
        waiting = self._forget(job)
        job.waited_ns = perf_counter_ns() - job.since_ns - job.ran_ns
        waiting.done(job)

    def _forget(self, job: Job) -> "_Waiting":
        """Release a job that waited, or that had no room."""
        # A cycle would keep the job's rows until garbage collection.
        job.wake = None
        return self._waiting.pop(job)


class _Waiting(NamedTuple):
    """The model of a waiting job, and what to call when it is done."""

    model: Model
    done: Callable[[Job], None]


class _Large(NamedTuple):
    """A call that runs in pieces."""

    model: Model
    rest: Iterator[Job]
    """The pieces that are not started yet."""
    done: Callable[[], None]
    """Called on the loop after the last piece."""
