"""ModelStreamInfer: answers in order, errors that end nothing, streams that end in time."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import grpc
import numpy as np
import pytest
from support import onnx_files
from support.process import server_process
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.wire import arrays, infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.errors import ModelNotFoundError, ServingError, ShuttingDownError
from forwardpass.server.guard import Limits
from forwardpass.server.rpc.infer import Call, Reply
from forwardpass.server.rpc.stream import AHEAD_BYTES, WINDOW, Streams

pytestmark = pytest.mark.usefixtures("transport", "shared_trial")

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streamed")
    onnx_files.save(onnx_files.linear(), root / "linear.onnx")
    onnx_files.save(onnx_files.slow(), root / "slow.onnx")
    return root


def configured(models: Path, **settings: Any) -> Config:
    return Config(models=models, port=0, limits=Limits(general=True), **settings)


@pytest.fixture(scope="module")
def stub(models: Path, transport: Transport) -> Iterator[Stub]:
    with Server(configured(models)) as server, Stub(server.port) as stub:
        yield stub


def linear(number: int) -> pb.ModelInferRequest:
    """A request that is answered with its own number."""
    return infer_request("linear", {"x": x_of(number)}, id=str(number))


def x_of(number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full((1, 3), number, np.float32)


def y_of(number: int) -> list[list[float]]:
    y: list[list[float]] = (x_of(number) @ onnx_files.W.T + onnx_files.B).tolist()
    return y


def assert_answers(answer: pb.ModelStreamInferResponse, number: int) -> None:
    assert not answer.error_message
    reply = answer.infer_response
    assert reply.id == str(number)
    assert reply.parameters["triton_final_response"].bool_param
    assert arrays(reply)["y"].tolist() == y_of(number)


def executions(stub: Stub, model: str) -> int:
    request = pb.ModelStatisticsRequest(name=model)
    (found,) = stub.call("ModelStatistics", request, pb.ModelStatisticsResponse).model_stats
    return int(found.execution_count)


def wait_until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def readers() -> list[threading.Thread]:
    """The threads that read streams."""
    return [thread for thread in threading.enumerate() if thread.name == "stream"]


class Requests:
    """Requests that are sent when the test says so."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[pb.ModelInferRequest | None] = SimpleQueue()

    def send(self, request: pb.ModelInferRequest) -> None:
        self._queue.put(request)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pb.ModelInferRequest:
        request = self._queue.get()
        if request is None:
            raise StopIteration
        return request


def test_a_thousand_requests_are_answered_in_their_order_and_together(stub: Stub) -> None:
    before = executions(stub, "linear")

    answers = list(stub.stream(linear(number) for number in range(1000)))

    assert len(answers) == 1000
    for number, answer in enumerate(answers):
        assert_answers(answer, number)
    assert 0 < executions(stub, "linear") - before < 1000


def test_a_caller_may_wait_for_each_answer(stub: Stub) -> None:
    requests = Requests()
    answers = stub.stream(requests)
    for number in range(50):
        requests.send(linear(number))
        assert_answers(next(answers), number)

    requests.end()

    assert list(answers) == []
    assert answers.code() is Code.OK


def test_a_stream_without_requests_ends(stub: Stub) -> None:
    answers = stub.stream([])

    assert list(answers) == []
    assert answers.code() is Code.OK


def bad_requests() -> dict[str, tuple[pb.ModelInferRequest | bytes, str, str]]:
    """A request, the id of its answer, a fragment of the error."""
    unknown, misshapen, shared = linear(7), linear(8), linear(9)
    unknown.model_name = "nothing"
    misshapen.inputs[0].shape[1] = 2
    shared.inputs[0].parameters["shared_memory_region"].string_param = "region"
    del shared.raw_input_contents[:]
    return {
        "unknown model": (unknown, "7", "'nothing'"),
        "wrong shape": (misshapen, "8", "input 'x'"),
        "not allowed": (shared, "9", "--shared-memory"),
        "no message": (b"\x0a\x20abc", "", "ModelInferRequest"),
        "empty": (b"", "", "unknown model: '' is not found"),
    }


@pytest.mark.parametrize(("bad", "call_id", "says"), bad_requests().values(), ids=bad_requests())
def test_a_request_that_fails_is_reported_in_its_place_and_ends_nothing(
    stub: Stub, bad: pb.ModelInferRequest | bytes, call_id: str, says: str
) -> None:
    answers = stub.stream([linear(0), bad, linear(1), bad, linear(2)])

    got = list(answers)

    assert answers.code() is Code.OK
    assert len(got) == 5
    for number, answer in enumerate(got[::2]):
        assert_answers(answer, number)
    for answer in got[1::2]:
        assert says in answer.error_message
        # A client that looks only for a reply finds none.
        assert answer.infer_response == pb.ModelInferResponse(id=call_id)


def test_models_may_be_mixed_in_one_stream(stub: Stub) -> None:
    slow = infer_request("slow", {"turns": np.array(20)}, id="slow")
    answers = list(stub.stream([linear(0), slow, linear(1), slow, linear(2)]))

    assert [answer.infer_response.id for answer in answers] == ["0", "slow", "1", "slow", "2"]


def test_many_streams_at_a_time_keep_apart(stub: Stub) -> None:
    def stream(first: int) -> None:
        numbers = range(first, first + 100)
        for number, answer in zip(numbers, stub.stream(map(linear, numbers)), strict=True):
            assert_answers(answer, number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stream, range(0, 8000, 1000)))


def test_a_cancelled_stream_stops_its_work(stub: Stub) -> None:
    before = executions(stub, "slow")
    slow = infer_request("slow", {"turns": np.array(50)})
    count = 20 * WINDOW
    answers = stub.stream([slow] * count)
    next(answers)

    answers.cancel()

    wait_until(lambda: not readers())
    done = executions(stub, "slow") - before
    time.sleep(0.3)
    assert executions(stub, "slow") - before <= done + WINDOW
    assert done < count / 2
    assert_answered(stub, GOOD["linear"])


def test_a_stream_past_its_deadline_ends(stub: Stub) -> None:
    slow = infer_request("slow", {"turns": np.array(50)})
    answers = stub.stream([slow] * (20 * WINDOW), timeout=0.3)

    with pytest.raises(grpc.RpcError):
        list(answers)

    assert answers.code() is Code.DEADLINE_EXCEEDED
    wait_until(lambda: not readers())


def test_idle_streams_take_no_thread_from_other_calls(models: Path) -> None:
    with (
        Server(configured(models, workers=2)) as server,
        Stub(server.port) as stub,
        ExitStack() as streams,
    ):
        for number in range(12):
            requests = Requests()
            streams.callback(requests.end)
            answers = stub.stream(requests)
            requests.send(linear(number))
            assert_answers(next(answers), number)

        for _ in range(5):
            assert_answered(stub, GOOD["linear"])


def test_one_stream_too_many_is_refused_by_the_flag(models: Path) -> None:
    with Server(configured(models, max_streams=2)) as server, Stub(server.port) as stub:
        held = [Requests(), Requests()]
        streams = [stub.stream(requests) for requests in held]
        for number, requests in enumerate(held):
            requests.send(linear(number))
            assert_answers(next(streams[number]), number)

        for _ in range(3):
            refused = stub.stream([linear(0)])
            with pytest.raises(grpc.RpcError):
                next(refused)
            assert refused.code() is Code.RESOURCE_EXHAUSTED
            assert "--max-streams" in refused.details()
            assert "2 streams" in refused.details()

        held[0].end()
        assert list(streams[0]) == []

        def has_room() -> bool:
            try:
                assert_answers(next(stub.stream([linear(3)])), 3)
            except grpc.RpcError:
                return False
            return True

        wait_until(has_room)
        held[1].end()


def test_a_message_above_the_limit_ends_the_stream_after_the_answers(models: Path) -> None:
    config = configured(models, max_message_bytes=2048)
    with Server(config) as server, Stub(server.port) as stub:
        large = linear(1)
        large.id = "i" * 3000
        answers = stub.stream([linear(0), large, linear(2)])

        assert_answers(next(answers), 0)
        with pytest.raises(grpc.RpcError):
            next(answers)
        assert answers.code() is Code.RESOURCE_EXHAUSTED
        assert "--max-message-bytes" in answers.details()


def test_a_server_that_stops_answers_what_it_read_and_ends_idle_streams(models: Path) -> None:
    with Server(configured(models)) as server, Stub(server.port) as stub:
        idle, busy = Requests(), Requests()
        idle_answers, busy_answers = stub.stream(idle), stub.stream(busy)
        idle.send(linear(0))
        assert_answers(next(idle_answers), 0)
        busy.send(infer_request("slow", {"turns": np.array(1000)}, id="in flight"))
        time.sleep(0.1)

        started = time.monotonic()
        server.stop(grace_s=60)

        assert time.monotonic() - started < 20
        assert next(busy_answers).infer_response.id == "in flight"
        for answers in (idle_answers, busy_answers):
            with pytest.raises(grpc.RpcError):
                next(answers)
            assert answers.code() is Code.UNAVAILABLE
        wait_until(lambda: not readers())
        idle.end()
        busy.end()


def test_an_idle_stream_does_not_hold_up_sigterm(models: Path) -> None:
    with server_process(models, grace_s=60) as server, Stub(server.port) as stub:
        requests = Requests()
        answers = stub.stream(requests)
        requests.send(linear(0))
        assert_answers(next(answers), 0)

        server.send(signal.SIGTERM)

        assert server.exit_code(within_s=10) == 0
        with pytest.raises(grpc.RpcError):
            next(answers)
        assert answers.code() is Code.UNAVAILABLE
        requests.end()


# The service's side alone: an iterator in, an iterator out.


def echo(calls: Iterable[Call]) -> list[Reply | ServingError]:
    return [
        Reply(pb.ModelInferResponse(id=bytes(call.message).decode()).SerializeToString())
        for call in calls
    ]


def ids(messages: Iterable[bytes]) -> list[str]:
    return [pb.ModelStreamInferResponse.FromString(data).infer_response.id for data in messages]


def calls(count: int) -> Iterator[Call]:
    return (Call(str(number).encode()) for number in range(count))


def test_no_more_is_read_ahead_than_the_window() -> None:
    read = 0
    answering, go_on = threading.Event(), threading.Event()

    def source() -> Iterator[Call]:
        nonlocal read
        for call in calls(10 * WINDOW):
            read += 1
            yield call

    def infer(batch: Iterable[Call]) -> list[Reply | ServingError]:
        answering.set()
        go_on.wait(10)
        return echo(batch)

    answers = Streams().answer(source(), infer)
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(ids, answers)
        answering.wait(10)
        time.sleep(0.1)
        # One batch is being answered, one waits, and one more call is at the door.
        assert read <= 2 * WINDOW + 1
        go_on.set()
        assert got.result(10) == [str(number) for number in range(10 * WINDOW)]


def test_no_more_bytes_are_read_ahead_than_may_wait() -> None:
    read = 0
    go_on = threading.Event()

    def source() -> Iterator[Call]:
        nonlocal read
        for _ in range(20):
            read += 1
            yield Call(bytes(AHEAD_BYTES // 2))

    def infer(batch: Sequence[Call]) -> list[Reply | ServingError]:
        go_on.wait(10)
        return [Reply(b"") for _ in batch]

    answers = Streams().answer(source(), infer)
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(list, answers)
        wait_until(lambda: read > 2)
        time.sleep(0.1)
        # At most two or three are being answered, two wait, and one more is at the door.
        assert read <= 6
        go_on.set()
        assert len(got.result(10)) == 20


def test_a_batch_is_never_larger_than_the_window() -> None:
    sizes: list[int] = []

    def infer(batch: Sequence[Call]) -> list[Reply | ServingError]:
        sizes.append(len(batch))
        time.sleep(0.001)
        return echo(batch)

    assert len(ids(Streams().answer(calls(500), infer))) == 500
    assert 1 < max(sizes) <= WINDOW


def test_closing_the_answers_ends_the_reading() -> None:
    def endless() -> Iterator[Call]:
        while True:
            yield Call(b"again")

    answers = Streams().answer(endless(), echo)
    next(answers)
    answers.close()  # type: ignore[attr-defined]

    wait_until(lambda: not readers())


def test_what_the_calls_end_with_comes_after_the_answers() -> None:
    def failing() -> Iterator[Call]:
        yield from calls(3)
        raise ModelNotFoundError("m", [])

    got: list[bytes] = []
    with pytest.raises(ModelNotFoundError):
        got.extend(Streams().answer(failing(), echo))
    assert ids(got) == ["0", "1", "2"]


def test_after_the_stop_no_stream_begins() -> None:
    streams = Streams()
    streams.stop()

    with pytest.raises(ShuttingDownError):
        next(streams.answer(calls(1), echo))
