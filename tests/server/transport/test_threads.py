"""The threads that answer calls: the most urgent first, and some left for it."""

import threading
from collections.abc import Iterator

import pytest
from support.waiting import eventually

from forwardpass.server.transport.threads import CallThreads, TaskClass

INTERACTIVE, BATCH = TaskClass


class Bench:
    """Threads whose tasks wait until they are let go."""

    def __init__(self, count: int) -> None:
        self.threads = CallThreads(count)
        self.begun: list[str] = []
        self.started = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def submit(self, kind: TaskClass, name: str) -> None:
        self.threads.submit_as(kind, self._run, name)

    def _run(self, name: str) -> None:
        self.begun.append(name)
        self.started.release()
        assert self.go_on.acquire(timeout=10)

    def starts(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.started.acquire(timeout=10)

    def nothing_starts(self) -> None:
        assert not self.started.acquire(timeout=0.1)


@pytest.fixture
def one() -> Iterator[Bench]:
    bench = Bench(1)
    yield bench
    bench.go_on.release(100)
    bench.threads.shutdown()


@pytest.fixture
def eight() -> Iterator[Bench]:
    bench = Bench(8)
    yield bench
    bench.go_on.release(100)
    bench.threads.shutdown()


def test_tasks_run_in_their_order(one: Bench) -> None:
    for name in "abc":
        one.submit(INTERACTIVE, name)
    one.go_on.release(3)
    one.starts(3)
    assert one.begun == ["a", "b", "c"]


def test_interactive_tasks_go_first_but_for_one_in_nine(one: Bench) -> None:
    one.submit(INTERACTIVE, "first")
    one.starts()
    for _ in range(2):
        one.submit(BATCH, "batch")
    for _ in range(20):
        one.submit(INTERACTIVE, "interactive")
    assert one.threads.waiting == 22
    assert one.threads.waiting_as(BATCH) == 2
    assert one.threads.oldest_ns(BATCH) > one.threads.oldest_ns(INTERACTIVE) > 0
    one.go_on.release(23)
    one.starts(22)
    assert [place for place, name in enumerate(one.begun) if name == "batch"] == [8, 17]


def test_batch_tasks_have_half_of_the_threads_at_most(eight: Bench) -> None:
    for _ in range(8):
        eight.submit(BATCH, "batch")
    eight.starts(4)
    eight.nothing_starts()
    assert eight.threads.running == 4
    # Whoever comes now finds a thread.
    eight.submit(INTERACTIVE, "interactive")
    eight.starts()
    eight.go_on.release(9)
    eight.starts(4)


def test_beside_interactive_tasks_there_are_fewer(eight: Bench) -> None:
    eight.submit(INTERACTIVE, "interactive")
    for _ in range(8):
        eight.submit(BATCH, "batch")
    eight.starts(2)
    eight.nothing_starts()
    assert eight.begun.count("batch") == 1
    # All of them run in the end.
    eight.go_on.release(9)
    eight.starts(7)


def test_a_task_that_fails_takes_no_thread_along(
    one: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    one.threads.submit(lambda: 1 / 0)
    one.submit(INTERACTIVE, "next")
    one.starts()
    assert "ended in an error" in caplog.text


def test_what_is_submitted_after_the_end_runs_and_leaves_no_thread(one: Bench) -> None:
    one.submit(INTERACTIVE, "a run that goes on")
    one.starts()
    one.threads.shutdown(wait=False)
    one.submit(INTERACTIVE, "its next leader")
    one.go_on.release(2)
    one.starts()
    eventually(lambda: not one.threads._threads)


def test_all_that_was_submitted_runs_before_the_end(eight: Bench) -> None:
    eight.go_on.release(30)
    for _ in range(30):
        eight.submit(INTERACTIVE, "a")
    eight.threads.shutdown()
    assert len(eight.begun) == 30
    assert not any(thread.is_alive() for thread in eight.threads._threads)
