"""ModelInfer for an event loop: runs that are short happen at once, nothing ever waits.

All is called on the loop's thread, but for the runs that are long: these have threads of their
own, so that a big batch does not keep small calls from being read and answered.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from time import perf_counter_ns
from typing import Any, NamedTuple

from forwardpass.server.batching import Job, Kind, unwanted
from forwardpass.server.errors import QueueFullError
from forwardpass.server.inference import Call, Inference, Portion
from forwardpass.server.model import Model, put_together

_LONG = 2**62
"""Rows of what belongs in a thread, however many they are."""


class Dispatcher:
    """Answers calls that wait together, some at once and some later."""

    def __init__(
        self,
        inference: Inference,
        threads: Executor,
        post: Callable[[Callable[[], None]], None],
        answered: Callable[[Sequence[Any]], None],
    ) -> None:
        """Prepare.

        post: has the loop call something, from any thread. answered: is told of calls that have
        their answers now; they are the objects that `infer` got.
        """
        self._inference = inference
        self._threads = threads
        self._post = post
        self._answered = answered
        self._waiting: dict[Job, _Waiting] = {}
        """Jobs in the queues of their models."""
        self._woken: deque[Job] = deque()
        """Those that are done or have to lead a run, from any thread."""
        self._posted = False
        """Whether the loop will look there."""

    def infer(self, calls: Sequence[Call]) -> None:
        """Answer calls."""
        portions = self._inference.prepare(calls)
        failed = [call for call in calls if call.answer is not None]
        if failed:
            self._answered(failed)
        groups: dict[tuple[Model, Kind], list[Portion]] = {}
        for portion in portions:
            plan = portion.plan
            groups.setdefault((plan.model, plan.kind), []).append(portion)
        for (model, kind), together in groups.items():
            self._start_group(model, kind, together)

    def sweep(self) -> None:
        """End what waits and is not wanted any more: its deadline passed, or the caller left."""
        for job, waiting in list(self._waiting.items()):
            error = unwanted(waiting.model.name, job)
            # Whose turn has come is looked at there.
            if error is not None and waiting.model.queue.leave(job):
                job.error = error
                self._end(job)

    @property
    def waiting(self) -> int:
        """How many jobs wait in queues."""
        return len(self._waiting)

    def _start_group(self, model: Model, kind: Kind, portions: Sequence[Portion]) -> None:
        """Start portions of one kind, as many rows at once as pay."""
        if not kind.by_rows:
            for portion in portions:
                for single in portion.parts(1):
                    self._start_portions(model, [single], 1)
            return
        most = model.batching.max_rows
        together: list[Portion] = []
        rows = 0
        for portion in portions:
            size = portion.plan.rows
            if size > model.piece_rows:
                for single in portion.parts(1):
                    self._start_pieces(model, single)
                continue
            for part in portion.parts(max(1, most // size)):
                more = size * len(part.calls)
                if together and rows + more > most:
                    self._start_portions(model, together, rows)
                    together, rows = [], 0
                together.append(part)
                rows += more
        if together:
            self._start_portions(model, together, rows)

    def _start_portions(self, model: Model, portions: Sequence[Portion], rows: int) -> None:
        """Start calls that run together, if they need not wait."""
        owners = {portion.job(): portion for portion in portions}
        jobs = list(owners)

        def separate() -> list[Job]:
            # While it waits, each call has a deadline of its own and may be cancelled.
            owners.clear()
            owners.update((part.job(), part) for whole in portions for part in whole.parts(1))
            return list(owners)

        def done(job: Job) -> None:
            portion = owners[job]
            if job.error is not None and len(portion.calls) > 1:
                # One caller's rows must not fail those of the others.
                for single in portion.parts(1):
                    self._start_portions(model, [single], single.plan.rows)
            else:
                self._inference.finish(portion, job)
                self._answered(portion.calls)

        self._start(model, jobs, rows, separate, done)

    def _start_pieces(self, model: Model, portion: Portion) -> None:
        """Start a call of many rows: piece after piece, in a thread."""
        whole = portion.job()
        pieces = model.pieces(whole)
        self._go_on(_Large(model, portion, whole, pieces, iter(pieces)))

    def _go_on(self, large: "_Large", last: Job | None = None) -> None:
        """Start the first piece, or the one behind a piece that waited."""
        piece = large.behind(last)
        entered = piece is not None and self._enter(large, piece)
        if entered:
            self._threads.submit(self._run_pieces, large, piece)
        elif piece is None or entered is None:
            self._finish_large(large)

    def _enter(self, large: "_Large", piece: Job) -> bool | None:
        """Return whether there is a runner, False where the piece waits, None for no room."""
        model = large.model
        free = model.queue.enter(
            lambda: [self._let_wait(model, piece, _LONG, partial(self._go_on, large))]
        )
        # Another error is that of a piece which waits and was given up just now.
        if isinstance(piece.error, QueueFullError):
            self._forget(piece)
            return None
        return free

    def _run_pieces(self, large: "_Large", piece: Job | None) -> None:
        """Run pieces, in a thread, for as long as others let their turn to them."""
        while piece is not None:
            large.model.queue.lead([piece])
            piece = large.behind(piece)
            entered = piece is None or self._enter(large, piece)
            if entered is False:
                return
            if entered is None:
                break
        self._post(partial(self._finish_large, large))

    def _finish_large(self, large: "_Large") -> None:
        put_together(large.whole, large.pieces)
        self._inference.finish(large.portion, large.whole)
        self._answered(large.portion.calls)

    def _start(
        self,
        model: Model,
        jobs: list[Job],
        rows: int,
        separate: Callable[[], list[Job]],
        done: Callable[[Job], None],
    ) -> None:
        """Run jobs of one kind if there is a runner for them; else enqueue what `separate` returns.

        rows: Of all. done: is told of each job, on the loop, that it has its answers or its error.
        """
        waiting: list[Job] = []

        def wait() -> list[Job]:
            waiting.extend(self._let_wait(model, job, job.rows, done) for job in separate())
            return waiting

        if model.queue.enter(wait):
            self._lead(model, jobs, rows, done)
        for job in waiting:
            if job.error is not None:
                self._end(job)

    def _let_wait(self, model: Model, job: Job, rows: int, done: Callable[[Job], None]) -> Job:
        """Prepare a job for the queue; called from any thread."""
        job.wake = partial(self._wake, job)
        self._waiting[job] = _Waiting(model, rows, perf_counter_ns(), done)
        return job

    def _lead(
        self, model: Model, batch: Sequence[Job], rows: int, done: Callable[[Job], None] | None
    ) -> None:
        """Run a batch for which there is a runner, here or in a thread.

        done: of jobs that did not wait; those that did are woken.
        """

        def end() -> None:
            if done is not None:
                for job in batch:
                    done(job)

        if rows <= model.short_rows:
            model.queue.lead(batch)
            end()
            return

        def run() -> None:
            model.queue.lead(batch)
            if done is not None:
                self._post(end)

        self._threads.submit(run)

    def _wake(self, job: Job) -> None:
        """Have the loop look at a job; called from any thread."""
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
                continue
            model = self._waiting[job].model
            batch = model.queue.take(job)
            # Without rows where the leader is not wanted any more: the next one's turn.
            self._lead(model, batch, sum(self._waiting[each].rows for each in batch), None)
            if not batch:
                self._end(job)

    def _end(self, job: Job) -> None:
        """Tell that a job which waited has its answers or its error."""
        waiting = self._forget(job)
        job.waited_ns = perf_counter_ns() - waiting.since_ns - job.ran_ns
        waiting.done(job)

    def _forget(self, job: Job) -> "_Waiting":
        """Let go of a job that waited, or that there was no room for."""
        # In a cycle with it the job's rows would wait for the garbage collector.
        job.wake = None
        return self._waiting.pop(job)


class _Waiting(NamedTuple):
    """What is to be known of a job that waits."""

    model: Model
    rows: int
    """_LONG if the job belongs in a thread anyway."""
    since_ns: int
    done: Callable[[Job], None]


class _Large(NamedTuple):
    """A call that is run in pieces."""

    model: Model
    portion: Portion
    whole: Job
    pieces: Sequence[Job]
    rest: Iterator[Job]
    """Those that were not started yet."""

    def behind(self, last: Job | None) -> Job | None:
        """Return the piece to run next; None at the end, or behind one that failed."""
        return next(self.rest, None) if last is None or last.error is None else None
