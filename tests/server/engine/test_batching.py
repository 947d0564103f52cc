"""The queue of a model, without a model: who runs when, and with whom."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest

from forwardpass.server.engine import queue as queue_module
from forwardpass.server.engine.queue import BatchQueue, Job, Kind, QueueLimits
from forwardpass.server.errors import (
    CallCancelledError,
    DeadlineExpiredError,
    InternalError,
    QueueFullError,
    RunError,
)

KIND = Kind(("y",), ((3,),), by_rows=True)
OTHER = Kind(("z",), ((3,),), by_rows=True)
WHOLE = Kind(("y",), ((2, 3),), by_rows=False)


class Runner:
    """Stands for a model: keeps every batch, and can be held in a run."""

    def __init__(self) -> None:
        self.batches: list[list[Job]] = []
        self.started = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, jobs: Sequence[Job]) -> None:
        self.batches.append(list(jobs))
        self.started.release()
        assert self.go_on.wait(10)
        for job in jobs:
            job.answers = [bytes(job.tensors[0])]

    @property
    def rows(self) -> list[list[int]]:
        return [[job.rows for job in batch] for batch in self.batches]


class Bench:
    """A queue with callers in threads of their own."""

    def __init__(
        self,
        *,
        max_rows: int = 8,
        batch_rows: int | None = None,
        max_waiting: int = 100,
        runners: int = 1,
    ) -> None:
        self.runner = Runner()
        self.queue = BatchQueue(
            "m",
            self.runner,
            max_rows=max_rows,
            batch_rows=batch_rows,
            limits=QueueLimits(max_waiting=max_waiting, runners=runners),
        )
        self.threads = ThreadPoolExecutor(64)

    def call(self, job: Job) -> "Future[None]":
        """Enqueue a job from a thread; return when it waits or runs."""
        waiting, running = self.queue.waiting, len(self.runner.batches)
        future = self.threads.submit(self.queue.run, [job])
        wait_until(
            lambda: (
                future.done() or self.queue.waiting > waiting or len(self.runner.batches) > running
            )
        )
        return future

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the runner in a run of one row meanwhile."""
        self.runner.go_on.clear()
        first = self.call(job())
        assert self.runner.started.acquire(timeout=10)
        try:
            yield
        finally:
            self.runner.go_on.set()
        first.result(10)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.runner.go_on.set()
    bench.threads.shutdown()


def job(rows: int = 1, kind: Kind = KIND, **more: Any) -> Job:
    return Job(kind, [bytes(rows)], rows, **more)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 10
    while not condition():
        assert monotonic() < deadline
        time.sleep(0.001)


def finished(*futures: "Future[None]") -> None:
    for future in futures:
        future.result(10)


def test_a_call_that_finds_the_runner_free_runs_at_once_and_alone(bench: Bench) -> None:
    one, other = job(), job(2)
    bench.queue.run([one])
    bench.queue.run([other])
    assert bench.runner.rows == [[1], [2]]
    assert (one.answers, one.waited_ns) == ([b"\0"], 0)


def test_what_arrives_during_a_run_is_the_next_batch(bench: Bench) -> None:
    with bench.busy():
        futures = [bench.call(job(rows)) for rows in (2, 3, 1)]
    finished(*futures)
    assert bench.runner.rows == [[1], [2, 3, 1]]


def test_a_batch_ends_at_the_rows_that_pay(bench: Bench) -> None:
    with bench.busy():
        futures = [bench.call(job(rows)) for rows in (4, 4, 4, 4, 4)]
    finished(*futures)
    assert bench.runner.rows == [[1], [4, 4], [4, 4], [4]]


def test_jobs_of_different_kinds_never_share_a_run(bench: Bench) -> None:
    with bench.busy():
        futures = [bench.call(job(kind=kind)) for kind in (KIND, OTHER, KIND, OTHER)]
    finished(*futures)
    assert [{each.kind for each in batch} for batch in bench.runner.batches] == [
        {KIND},
        {KIND},
        {OTHER},
    ]


def test_jobs_that_are_not_by_rows_run_one_by_one(bench: Bench) -> None:
    with bench.busy():
        futures = [bench.call(job(kind=WHOLE)) for _ in range(3)]
    finished(*futures)
    assert bench.runner.rows == [[1], [1], [1], [1]]


def test_a_transport_may_bring_several_jobs_at_once(bench: Bench) -> None:
    jobs = [job(2), job(3)]
    bench.queue.run(jobs)
    assert bench.runner.rows == [[2, 3]]
    with bench.busy():
        more = [job(2), job(3)]
        future = bench.threads.submit(bench.queue.run, more)
        wait_until(lambda: bench.queue.waiting == 2)
        single = bench.call(job(1))
    finished(future, single)
    assert bench.runner.rows[2:] == [[2, 3, 1]]
    assert all(each.answers for each in jobs + more)


def test_several_runners_run_side_by_side() -> None:
    bench = Bench(runners=2)
    bench.runner.go_on.clear()
    futures = [bench.call(job()), bench.call(job())]
    for _ in futures:
        assert bench.runner.started.acquire(timeout=10)
    futures.append(bench.call(job()))
    assert bench.queue.waiting == 1
    bench.runner.go_on.set()
    finished(*futures)
    assert bench.runner.rows == [[1], [1], [1]]
    bench.threads.shutdown()


def test_a_full_queue_refuses_at_once(bench: Bench) -> None:
    small = Bench(max_waiting=2)
    with small.busy():
        futures = [small.call(job()) for _ in range(2)]
        jobs = [job(), job()]
        small.queue.run(jobs)
        assert all(isinstance(each.error, QueueFullError) for each in jobs)
        assert "--max-queue" in str(jobs[0].error)
        assert small.queue.waiting == 2
    finished(*futures)
    small.threads.shutdown()


def test_rows_whose_deadline_passes_in_the_queue_are_never_computed(bench: Bench) -> None:
    with bench.busy():
        late = job(deadline=monotonic() + 0.05)
        future = bench.call(late)
        finished(future)
        assert isinstance(late.error, DeadlineExpiredError)
        assert bench.queue.waiting == 0
    assert bench.runner.rows == [[1]]


def test_a_deadline_that_passes_when_its_turn_comes_leaves_the_turn_to_the_next(
    bench: Bench,
) -> None:
    late, after = job(deadline=monotonic() - 1), job()
    its_turn = threading.Event()
    with bench.busy():
        # Enqueued by hand: a thread would notice the deadline before its turn.
        late.wake = its_turn.set
        assert not bench.queue.enter(lambda: [late])
        future = bench.call(after)
    assert its_turn.wait(10)
    bench.queue.lead(bench.queue.take(late))
    finished(future)
    assert isinstance(late.error, DeadlineExpiredError)
    assert bench.runner.rows == [[1], [1]]


def test_rows_of_a_caller_that_went_away_are_never_computed(bench: Bench) -> None:
    gone, there = job(active=lambda: False), job(active=lambda: True)
    with bench.busy():
        futures = [bench.call(there), bench.call(gone)]
    finished(*futures)
    assert isinstance(gone.error, CallCancelledError)
    assert there.error is None
    assert bench.runner.rows == [[1], [1]]


def test_a_deadline_far_beyond_what_a_lock_can_wait_is_none(bench: Bench) -> None:
    with bench.busy():
        future = bench.call(job(deadline=monotonic() + 1e18))
    finished(future)
    assert bench.runner.rows == [[1], [1]]


def test_one_callers_failing_rows_do_not_fail_the_others() -> None:
    def run(jobs: Sequence[Job]) -> None:
        if any(each.rows == 3 for each in jobs):
            raise RunError("m", "on three rows")
        go_on.wait(10)

    go_on = threading.Event()
    queue = BatchQueue("m", run, max_rows=100, limits=QueueLimits())
    jobs = [job(rows) for rows in (1, 2, 3, 4)]
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(queue.run, [jobs[0]])
        wait_until(lambda: queue._free == 0)
        rest = threads.submit(queue.run, jobs[1:])
        wait_until(lambda: queue.waiting == 3)
        go_on.set()
        finished(first, rest)
    assert [type(each.error) for each in jobs] == [type(None), type(None), RunError, type(None)]


def test_an_unexpected_error_is_reported_without_its_text_and_the_queue_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = True

    def run(jobs: Sequence[Job]) -> None:
        if failing:
            raise ZeroDivisionError("secret")

    queue = BatchQueue("m", run, max_rows=8, limits=QueueLimits())
    first, second = job(), job()
    queue.run([first])
    failing = False
    queue.run([second])
    assert isinstance(first.error, InternalError)
    assert "secret" not in str(first.error)
    assert "secret" in caplog.text
    assert second.error is None


def test_nothing_is_lost_or_doubled_under_many_callers() -> None:
    seen: list[Job] = []
    lock = threading.Lock()

    def run(jobs: Sequence[Job]) -> None:
        assert len({each.kind for each in jobs}) == 1
        assert len(jobs) == 1 or sum(each.rows for each in jobs) <= 16
        with lock:
            seen.extend(jobs)
        for each in jobs:
            each.answers = [bytes(each.tensors[0])]

    queue = BatchQueue("m", run, max_rows=16, limits=QueueLimits(runners=2))
    jobs = [job(1 + index % 7, (KIND, OTHER, WHOLE)[index % 3]) for index in range(3000)]
    with ThreadPoolExecutor(32) as threads:
        finished(*[threads.submit(queue.run, [each]) for each in jobs])
    assert len(seen) == len(jobs)
    assert {id(each) for each in seen} == {id(each) for each in jobs}
    assert all(each.answers == [bytes(each.rows)] for each in jobs)
    assert (queue.waiting, queue._free) == (0, 2)


# Two classes

LATER = KIND._replace(batch=True)


def test_interactive_jobs_lead_before_batch_jobs_that_came_earlier() -> None:
    bench = Bench(max_rows=1)
    with bench.busy():
        calls = [bench.call(job(2, LATER)) for _ in range(3)]
        calls += [bench.call(job(3)) for _ in range(3)]
    for call in calls:
        call.result(10)
    assert bench.runner.rows[1:] == [[3], [3], [3], [2], [2], [2]]


def test_one_batch_job_in_nine_leads_while_interactive_ones_wait() -> None:
    bench = Bench(max_rows=1)
    with bench.busy():
        calls = [bench.call(job(2, LATER)) for _ in range(2)]
        calls += [bench.call(job(3)) for _ in range(20)]
    for call in calls:
        call.result(10)
    rows = [row for (row,) in bench.runner.rows[1:]]
    assert [place for place, row in enumerate(rows) if row == 2] == [8, 17]


def test_classes_never_run_together_and_batch_runs_are_shorter_beside_interactive_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However slow the machine is, the interactive jobs came lately.
    monkeypatch.setattr(queue_module, "_RECENT_S", 60.0)
    bench = Bench(max_rows=8, batch_rows=3)
    with bench.busy():
        calls = [bench.call(job(1, kind)) for kind in (LATER, KIND) * 5]
    for call in calls:
        call.result(10)
    assert [len(batch) for batch in bench.runner.batches[1:]] == [5, 3, 2]
    assert [{job.kind.batch for job in batch} for batch in bench.runner.batches[1:]] == [
        {False},
        {True},
        {True},
    ]


def test_batch_runs_are_as_long_as_others_while_no_interactive_job_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_module, "_RECENT_S", 0.0)
    bench = Bench(max_rows=8, batch_rows=3)
    with bench.busy():
        calls = [bench.call(job(1, LATER)) for _ in range(10)]
    for call in calls:
        call.result(10)
    assert [len(batch) for batch in bench.runner.batches[1:]] == [8, 2]


def test_batch_jobs_leave_a_runner_to_interactive_ones_and_end_nevertheless() -> None:
    bench = Bench(max_rows=1, runners=2)
    bench.runner.go_on.clear()
    batch = [bench.call(job(2, LATER)) for _ in range(3)]
    assert len(bench.runner.batches) == 1
    interactive = bench.call(job(3))
    assert len(bench.runner.batches) == 2
    assert bench.queue.waiting == 2
    bench.runner.go_on.set()
    for call in (*batch, interactive):
        call.result(10)


def test_batch_jobs_are_run_while_interactive_ones_never_cease() -> None:
    bench = Bench(max_rows=1, runners=2)
    over = threading.Event()

    def interactive() -> None:
        while not over.is_set():
            bench.queue.run([job(3)])

    callers = [bench.threads.submit(interactive) for _ in range(6)]
    try:
        for _ in range(5):
            bench.threads.submit(bench.queue.run, [job(2, LATER)]).result(10)
    finally:
        over.set()
    for caller in callers:
        caller.result(10)


def test_each_class_has_room_of_its_own_and_the_rejected_learn_when_to_come_back() -> None:
    bench = Bench(max_rows=1, max_waiting=2)
    with bench.busy():
        waiting = [bench.call(job(2, LATER)) for _ in range(2)]
        time.sleep(0.1)
        late = job(2, LATER)
        bench.queue.run([late])
        assert isinstance(late.error, QueueFullError)
        # As long as the first has waited.
        assert late.error.retry_s is not None
        assert 0.1 <= late.error.retry_s <= 5.0
        assert bench.queue.oldest_ns >= 100_000_000
        waiting.append(bench.call(job(3)))
    for call in waiting:
        call.result(10)
    assert bench.queue.oldest_ns == 0


def test_a_batch_leader_that_is_not_wanted_gives_its_runner_back() -> None:
    bench = Bench(max_rows=1)
    gone = job(2, LATER, active=lambda: False)
    with bench.busy():
        call = bench.call(gone)
    call.result(10)
    assert isinstance(gone.error, CallCancelledError)
    for kind in (LATER, KIND, LATER):
        bench.call(job(1, kind)).result(10)


def test_a_batch_leader_that_has_not_begun_gives_its_place_to_an_interactive_job() -> None:
    bench = Bench()
    with bench.busy():
        batch, late = job(kind=LATER), job()
        for each in (batch, late):
            each.wake = lambda: None
        assert not bench.queue.enter(lambda: [batch], batch=True)
    # The thread that ran has woken it, which nobody obeyed.
    assert not bench.queue.enter(lambda: [late])
    assert bench.queue.first(batch) is late
    assert bench.queue.lead_on(bench.queue.take(late)) is batch
    assert bench.queue.first(batch) is batch
    assert bench.queue.lead_on(bench.queue.take(batch)) is None
    assert [len(answers) for answers in (late.answers, batch.answers)] == [1, 1]
    bench.threads.shutdown()


def test_an_errand_takes_a_turn_of_its_own_and_its_error_is_raised(bench: Bench) -> None:
    ran: list[str] = []
    bench.runner.go_on.clear()
    first = bench.call(job())
    with ThreadPoolExecutor(1) as threads:
        errand = threads.submit(bench.queue.run_errand, lambda: ran.append("errand"))
        wait_until(lambda: bench.queue.waiting == 1)
        others = [bench.call(job()) for _ in range(2)]
        assert ran == []
        bench.runner.go_on.set()
        errand.result(10)
    finished(first, *others)
    assert ran == ["errand"]
    # It is in no batch.
    assert bench.runner.rows == [[1], [1, 1]]

    def fail() -> None:
        raise RunError("m", "while it was tried")

    with pytest.raises(RunError, match="while it was tried"):
        bench.queue.run_errand(fail)
    bench.queue.run_errand(lambda: ran.append("free"))
    assert ran == ["errand", "free"]


def test_an_errand_is_refused_where_there_is_no_room() -> None:
    bench = Bench(max_waiting=1)
    with bench.busy():
        waiting = bench.call(job())
        with pytest.raises(QueueFullError):
            bench.queue.run_errand(lambda: None)
    finished(waiting)
    bench.threads.shutdown()
