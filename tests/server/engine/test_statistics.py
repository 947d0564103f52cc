"""Counters count every call once, whatever happens at the same time."""

import sys
import time
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwardpass.server.engine.histogram import BOUNDS_NS
from forwardpass.server.engine.statistics import Calls, Runs, Statistics
from forwardpass.server.errors import Status

Call = tuple[int, int, int, int, int]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads interrupt each other as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_nothing_was_counted_at_first() -> None:
    assert Statistics().read() == (Calls(), {})


@given(st.lists(st.tuples(*[st.integers(0, 10**9)] * 5), max_size=300))
def test_calls_are_summed_up(calls: list[Call]) -> None:
    statistics = Statistics()
    for call in calls:
        statistics.answered(*call, time.perf_counter_ns())

    sums, _ = statistics.read()

    assert sums.answered == len(calls)
    totals = tuple(sum(column) for column in zip(*calls, strict=True)) or (0,) * 5
    assert (sums.rows, sums.input_ns, sums.queue_ns, sums.infer_ns, sums.output_ns) == totals
    assert sums.answered_ns == sum(totals[1:])
    assert statistics.read()[0] == sums


@given(st.lists(st.tuples(st.integers(1, 4), *[st.integers(0, 10**9)] * 3), max_size=300))
def test_runs_are_summed_up_by_their_rows(runs: list[tuple[int, int, int, int]]) -> None:
    statistics = Statistics()
    for run in runs:
        statistics.ran(*run)

    _, sums = statistics.read()

    assert list(sums) == sorted({rows for rows, *_ in runs})
    for rows, got in sums.items():
        columns = zip(*(parts for size, *parts in runs if size == rows), strict=True)
        count = sum(size == rows for size, *_ in runs)
        assert got == Runs(count, *(sum(column) for column in columns))


@given(st.lists(st.tuples(*[st.integers(0, 2 * 10**10)] * 5), max_size=300))
def test_every_phase_of_a_call_is_counted_below_its_bound(
    calls: list[tuple[int, int, int, int, int]],
) -> None:
    statistics = Statistics()
    for receive_ns, a, b, c, d in calls:
        statistics.answered(1, a, b, c, d, time.perf_counter_ns(), receive_ns=receive_ns)

    phases = statistics.phases()

    assert list(phases) == ["receive", "decode", "queue", "compute", "encode", "total"]
    columns = [*zip(*calls, strict=True)] or [()] * 5
    for counts, times in zip(phases.values(), [*columns, map(sum, calls)], strict=True):
        expected = [0] * (len(BOUNDS_NS) + 1)
        for ns in times:
            expected[bisect_left(BOUNDS_NS, ns)] += 1
        assert counts == expected


@given(st.lists(st.tuples(st.integers(1, 20), *[st.integers(0, 10**8)] * 4), max_size=200))
def test_calls_that_were_answered_together_count_as_one_by_one(
    portions: list[tuple[int, int, int, int, int]],
) -> None:
    together, single = Statistics(), Statistics()
    for count, a, b, c, d in portions:
        sums = (a * count, b * count, c * count, d * count)
        together.answered(3 * count, *sums, time.perf_counter_ns(), calls=count)
        for _ in range(count):
            single.answered(3, a, b, c, d, time.perf_counter_ns())

    assert together.phases() == single.phases()
    expected, _ = single.read()
    assert replace(together.read()[0], last_ms=expected.last_ms) == expected


def test_failures_are_counted_apart() -> None:
    statistics = Statistics()
    statistics.failed(5, Status.INTERNAL)
    statistics.failed(7, Status.NOT_FOUND)

    sums, runs = statistics.read()

    failed_by = {Status.INTERNAL: 1, Status.NOT_FOUND: 1}
    assert sums == Calls(failed=2, failed_ns=12, failed_by=failed_by)
    assert not runs


def test_the_last_answer_has_its_time() -> None:
    statistics = Statistics()
    before = time.time_ns() // 1_000_000
    statistics.answered(1, 0, 0, 0, 0, time.perf_counter_ns())
    after = time.time_ns() // 1_000_000

    last = statistics.read()[0].last_ms

    # Two clocks, read one after the other.
    assert before - 1 <= last <= after + 1
    time.sleep(0.01)
    assert statistics.read()[0].last_ms == last


@pytest.mark.usefixtures("hasty_threads")
def test_nothing_is_lost_or_counted_twice_among_threads() -> None:
    statistics = Statistics()
    threads, turns = 16, 2000

    def count(number: int) -> None:
        for turn in range(turns):
            statistics.answered(number, 1, 2, 3, 4, time.perf_counter_ns())
            statistics.ran(number % 3, 5, 6, 7)
            if turn % 10 == 0:
                statistics.failed(8, Status.INTERNAL)
            if turn % 97 == 0:
                statistics.read()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(count, range(threads)))

    calls, runs = statistics.read()
    total = threads * turns
    assert calls.answered == total
    assert calls.rows == turns * sum(range(threads))
    assert calls.answered_ns == 10 * total
    assert (calls.failed, calls.failed_ns) == (total // 10, 8 * total // 10)
    assert sum(sums.count for sums in runs.values()) == total
    assert sum(sums.input_ns + sums.infer_ns + sums.output_ns for sums in runs.values()) == (
        18 * total
    )
