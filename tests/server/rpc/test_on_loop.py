"""Calls on an event loop: what is short happens at once, what cannot happen at once waits."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from support import onnx_files
from support.calls import answer, classified, divide, linear, quotient, runs, serve
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.errors import (
    CallCancelledError,
    DeadlineExpiredError,
    InputsNotTakenError,
    InvalidTensorError,
    ModelNotFoundError,
    QueueFullError,
)
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.rpc import infer, plan
from forwardpass.server.rpc.classification import classify
from forwardpass.server.rpc.infer import Call, Inference, Reply
from forwardpass.server.rpc.on_loop import Dispatcher
from forwardpass.server.rpc.regions import Regions
from forwardpass.server.rpc.scan import scan
from forwardpass.server.transport.event_loop.memory import RequestMemory

Y = {1: [14.5, 31.5], 2: [27.5, 63.5]}


class Loop:
    """Stands for an event loop: runs what was posted when it is asked to."""

    def __init__(self, root: Path, **limits: int) -> None:
        self.catalog = Catalog()
        self.root = root
        self.limits = QueueLimits(**limits)
        self.posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.threads = ThreadPoolExecutor(4)
        self.answered: list[Call] = []
        self.memory = RequestMemory(2**30)
        self.dispatcher = Dispatcher(
            Inference(self.catalog, Regions(), 2**20),
            self.threads,
            self.threads,
            self.posted.put,
            self.answered.extend,
            self.memory,
        )

    def load(self, name: str, model: Any) -> Model:
        return serve(self.catalog, self.root, name, model, self.limits)

    def infer(self, *calls: Call) -> None:
        self.dispatcher.infer(calls)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            self.posted.get(timeout=10)()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    loop = Loop(tmp_path, runners=1, max_waiting=4)
    loop.load("linear", onnx_files.linear())
    yield loop
    loop.threads.shutdown()


@pytest.fixture
def model(loop: Loop) -> Model:
    return loop.catalog.find("linear")


class busy:  # noqa: N801 - reads as a phrase
    """Keep the model's only runner meanwhile."""

    def __init__(self, model: Model) -> None:
        self._queue = model.queue

    def __enter__(self) -> None:
        assert self._queue.enter(list)

    def __exit__(self, *_: object) -> None:
        self._queue.lead([])


def test_calls_that_come_together_are_one_run_and_answered_at_once(
    loop: Loop, model: Model
) -> None:
    calls = [linear(factor, id=str(factor)) for factor in (1, 2, 1, 2)]
    loop.infer(*calls)
    assert loop.answered == calls
    assert runs(model) == {4: 1}
    expected = [answer(linear_alone(loop, factor)) for factor in (1, 2, 1, 2)]
    assert [answer(call) for call in calls] == expected
    ids = [pb.ModelInferResponse.FromString(call.answer.message).id for call in calls]  # type: ignore[union-attr]
    assert ids == ["1", "2", "1", "2"]


def linear_alone(loop: Loop, factor: float) -> Call:
    call = linear(factor)
    loop.infer(call)
    return call


def test_calls_of_different_rows_share_a_run(loop: Loop, model: Model) -> None:
    calls = [linear(1, 2), linear(2), linear(1, 3)]
    loop.infer(*calls)
    assert runs(model) == {6: 1}
    assert [len(answer(call)) for call in calls] == [2, 1, 3]
    assert answer(calls[1]) == answer(linear_alone(loop, 2))


def test_a_batch_ends_at_the_rows_that_pay(loop: Loop, model: Model) -> None:
    most = model.batching.max_rows
    calls = [linear(1) for _ in range(most + 3)]
    loop.infer(*calls)
    assert runs(model) == {most: 1, 3: 1}
    assert all(answer(call) == answer(calls[0]) for call in calls)


def test_bad_calls_are_answered_beside_good_ones(loop: Loop) -> None:
    unknown = Call(infer_request("nothing", {}).SerializeToString())
    wrong = Call(infer_request("linear", {"x": np.ones((1, 4), np.float32)}).SerializeToString())
    good = linear()
    loop.infer(unknown, good, wrong)
    assert isinstance(unknown.answer, ModelNotFoundError)
    assert isinstance(wrong.answer, InvalidTensorError)
    assert len(answer(good)) == 1
    assert sorted(map(id, loop.answered)) == sorted(map(id, (unknown, good, wrong)))


def test_what_comes_while_the_runner_is_busy_waits_and_is_the_next_batch(
    loop: Loop, model: Model
) -> None:
    calls = [linear(1), linear(2), linear(1)]
    with busy(model):
        loop.infer(calls[0], calls[1])
        loop.infer(calls[2])
        assert loop.answered == []
        assert loop.dispatcher.waiting == model.queue.waiting == 3
    loop.until(lambda: len(loop.answered) == 3)
    assert runs(model) == {3: 1}
    assert answer(calls[0]) == answer(calls[2]) != answer(calls[1])
    assert loop.dispatcher.waiting == 0


def test_a_full_queue_refuses_what_does_not_fit(loop: Loop, model: Model) -> None:
    calls = [linear() for _ in range(6)]
    with busy(model):
        loop.infer(*calls[:3])
        loop.infer(*calls[3:])
    loop.until(lambda: len(loop.answered) == 6)
    refused = [call for call in calls if isinstance(call.answer, QueueFullError)]
    assert len(refused) == 2
    assert sum(isinstance(call.answer, Reply) for call in calls) == 4


def test_a_deadline_that_passes_in_the_queue_is_reported_without_a_run(
    loop: Loop, model: Model
) -> None:
    late, patient = linear(deadline=time.monotonic() + 0.01), linear()
    with busy(model):
        loop.infer(late, patient)
        time.sleep(0.02)
        loop.dispatcher.sweep()
        assert loop.answered == [late]
        assert isinstance(late.answer, DeadlineExpiredError)
    loop.until(lambda: len(loop.answered) == 2)
    assert runs(model) == {1: 1}


def test_whoever_is_gone_when_the_turn_comes_is_not_computed(loop: Loop, model: Model) -> None:
    gone, there = linear(active=lambda: False), linear(active=lambda: True)
    with busy(model):
        loop.infer(gone, there)
    loop.until(lambda: len(loop.answered) == 2)
    assert isinstance(gone.answer, CallCancelledError)
    assert runs(model) == {1: 1}
    # The runner was passed on.
    loop.infer(linear())
    assert len(loop.answered) == 3


def test_a_long_run_does_not_keep_the_loop(loop: Loop, model: Model) -> None:
    model.short_rows = 2
    long, short = linear(1, 3), linear(2)
    loop.infer(long)
    # A thread answers nobody: it has the loop do so.
    assert loop.answered == []
    loop.until(lambda: bool(loop.answered))
    assert len(answer(long)) == 3
    loop.infer(short)
    assert loop.answered == [long, short]


def test_a_call_of_many_rows_runs_in_pieces_and_others_get_between(
    loop: Loop, model: Model
) -> None:
    most = model.piece_rows = 100
    big, small = linear(1, 2 * most + 1), linear(2)
    loop.infer(big)
    loop.infer(small)
    loop.until(lambda: len(loop.answered) == 2)
    assert answer(big) == answer(linear_alone(loop, 1)) * (2 * most + 1)
    assert answer(small) == answer(linear_alone(loop, 2))
    assert max(runs(model)) <= most + 1


def test_a_call_of_more_rows_than_pay_together_runs_alone_and_whole(
    loop: Loop, model: Model
) -> None:
    most = model.batching.max_rows
    assert model.piece_rows > most + 1
    calls = [linear(1, 2), linear(2, most + 1), linear(3, 2)]
    loop.infer(*calls)
    loop.until(lambda: len(loop.answered) == 3)
    assert runs(model)[most + 1] == 1
    assert answer(calls[1]) == answer(linear_alone(loop, 2)) * (most + 1)


def test_one_callers_failing_rows_do_not_fail_the_others(tmp_path: Path) -> None:
    loop = Loop(tmp_path, runners=1)
    model = loop.load("pick", onnx_files.pick())

    def pick(*index: int) -> Call:
        request = infer_request("pick", {"index": np.array(index)})
        return Call(request.SerializeToString())

    calls = [pick(0), pick(99), pick(3)]
    loop.infer(*calls)
    loop.until(lambda: len(loop.answered) == 3)
    assert isinstance(calls[1].answer, InputsNotTakenError)
    assert [type(call.answer) for call in (calls[0], calls[2])] == [Reply, Reply]
    assert model.statistics.read()[0].failed == 1
    loop.threads.shutdown()


def test_rows_that_fail_together_run_again_one_by_one(tmp_path: Path) -> None:
    loop = Loop(tmp_path, runners=1)
    model = loop.load("quotient", quotient())
    calls = [divide([7], [2]), divide([1], [0]), divide([9], [3]), divide([8, 6], [4, 2])]
    loop.infer(*calls)
    assert loop.answered == calls
    assert isinstance(calls[1].answer, InputsNotTakenError)
    assert [answer(calls[index]) for index in (0, 2, 3)] == [[3], [3], [2, 3]]
    assert model.statistics.read()[0].failed == 1
    loop.threads.shutdown()


def test_a_large_call_ends_with_the_error_of_the_piece_that_failed(tmp_path: Path) -> None:
    loop = Loop(tmp_path, runners=1)
    model = loop.load("quotient", quotient())
    model.piece_rows = 2
    call = divide([8] * 7, [2, 2, 2, 0, 2, 2, 2])
    loop.infer(call)
    loop.until(lambda: bool(loop.answered))
    assert isinstance(call.answer, InputsNotTakenError)
    assert runs(model) == {2: 1}
    loop.threads.shutdown()


def test_pieces_wait_like_any_call_and_have_no_room_in_a_full_queue(
    loop: Loop, model: Model
) -> None:
    model.piece_rows = 100
    waits, refused, small = linear(1, 250), linear(2, 250), [linear() for _ in range(3)]
    with busy(model):
        loop.infer(waits)
        loop.infer(*small)
        assert loop.dispatcher.waiting == 4
        loop.infer(refused)
        loop.until(lambda: bool(loop.answered))
        assert loop.answered == [refused]
        assert isinstance(refused.answer, QueueFullError)
    loop.until(lambda: len(loop.answered) == 5)
    assert answer(waits) == answer(small[0]) * 250
    assert loop.dispatcher.waiting == model.queue.waiting == 0


def test_every_call_is_counted_and_no_time_is_left_out(loop: Loop, model: Model) -> None:
    started = time.perf_counter_ns()
    loop.infer(*[linear(1, 2) for _ in range(5)])
    took = time.perf_counter_ns() - started
    sums, _ = model.statistics.read()
    assert (sums.answered, sums.rows, sums.failed) == (5, 10, 0)
    assert 0 < sums.answered_ns <= 5 * took
    assert min(sums.input_ns, sums.queue_ns, sums.infer_ns, sums.output_ns) >= 0


def test_what_takes_long_to_read_or_to_write_leaves_the_loop_alone(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[tuple[str, threading.Thread]] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            threads.append((name, threading.current_thread()))
            return function(*arguments)

        return call

    monkeypatch.setattr(infer, "scan", noted("scan", scan))
    monkeypatch.setattr(plan, "classify", noted("classify", classify))
    short, long = classified(10, 1), classified(3000, 1)
    loop.infer(short, long)
    loop.until(lambda: len(loop.answered) == 2)

    assert all(isinstance(call.answer, Reply) for call in (short, long))
    here = [name for name, thread in threads if thread is threading.current_thread()]
    assert here == ["scan", "classify"]
    assert len(threads) == 4


def test_of_many_calls_of_new_forms_the_loop_reads_a_few(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return scan(*arguments)

    monkeypatch.setattr(infer, "scan", noted)
    calls = [linear(1, rows) for rows in range(1, 300)]
    loop.infer(*calls)
    loop.until(lambda: len(loop.answered) == len(calls))

    assert all(isinstance(call.answer, Reply) for call in calls)
    assert len(threads) == len(calls)
    assert 0 < threads.count(threading.current_thread()) < 100
    # What is known now is read at once.
    threads.clear()
    again = [linear(2, rows) for rows in range(1, 300)]
    loop.infer(*again)
    loop.until(lambda: len(loop.answered) == 2 * len(calls))
    assert not threads


def test_a_long_request_that_is_refused_is_answered_once(loop: Loop) -> None:
    call = Call(infer_request("linear", {"x": np.ones((9000, 4), np.float32)}).SerializeToString())
    loop.infer(call)
    loop.until(lambda: bool(loop.answered))

    assert isinstance(call.answer, InvalidTensorError)
    assert loop.answered == [call]


def test_of_calls_that_come_together_interactive_ones_are_answered_first(loop: Loop) -> None:
    calls = [linear(1, batch=True), linear(2), linear(1, batch=True), linear(2)]
    loop.infer(*calls)
    assert loop.answered == [calls[1], calls[3], calls[0], calls[2]]


def test_classes_do_not_share_a_run(loop: Loop, model: Model) -> None:
    before = runs(model)
    loop.infer(*(linear(1, batch=batch) for batch in (True, False, True)))
    after = runs(model)
    assert {rows: count - before.get(rows, 0) for rows, count in after.items()} == {1: 1, 2: 1}
