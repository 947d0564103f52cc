"""The load generator of the benchmarks, against real servers."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count

import grpc
import numpy as np
import pytest
from benchmarks.field.open_loop import poisson, send
from benchmarks.server_process import ServerProcess

SERVICE = "test.Echo"


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    def refuse(message: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no")

    def half(message: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_code(grpc.StatusCode.INTERNAL)
        return message

    numbers = count()
    handlers = {
        "Same": lambda message, _: message,
        "Other": lambda message, _: message + b"!",
        "Number": lambda *_: b"%d" % (next(numbers) // 3),
        "Refuse": refuse,
        "AnswerAndFail": half,
    }
    server = grpc.server(
        ThreadPoolExecutor(8),
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", 3),
        ],
    )
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]]
    methods = {name: grpc.unary_unary_rpc_method_handler(f) for name, f in handlers.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield "127.0.0.1", port
    server.stop(None).wait()


@pytest.mark.parametrize("size", [0, 1, 16_383, 70_000, 3_000_000])
def test_messages_of_any_size_are_answered(address: tuple[str, int], size: int) -> None:
    message = np.random.default_rng(0).bytes(size)
    times = np.zeros(10)
    outcome = send(
        address, f"/{SERVICE}/Same", message, lambda got: got == message, times, connections=2
    )
    assert outcome.calls == len(outcome.latencies_s) == 10
    assert not outcome.errors


def test_equal_answers_and_different_ones_are_distinguished(
    address: tuple[str, int],
) -> None:
    got: list[bytes] = []

    def keep(message: bytes) -> bool:
        got.append(message)
        return True

    outcome = send(address, f"/{SERVICE}/Number", b"m", keep, np.zeros(300))

    assert not outcome.errors
    assert sorted(map(int, got)) == [number // 3 for number in range(300)]


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_the_server_of_frames_alone_answers_nothing_to_every_call(size: int) -> None:
    message = bytes(size)
    with ServerProcess("-m", "benchmarks.servers.frames") as server:
        with grpc.insecure_channel(server.target) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/b")
            assert call(message, timeout=30) == b""
        host, _, port = server.target.rpartition(":")

        outcome = send((host, int(port)), "/a/b", message, lambda got: got == b"", np.zeros(50))

    assert len(outcome.latencies_s) == 50
    assert not outcome.errors


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("Other", "wrong answer"),
        ("Refuse", "status 8"),
        ("AnswerAndFail", "status 13"),
        ("Missing", "status 12"),
    ],
)
def test_a_call_that_went_wrong_is_counted_as_an_error_and_not_timed(
    address: tuple[str, int], method: str, error: str
) -> None:
    outcome = send(address, f"/{SERVICE}/{method}", b"m", lambda got: got == b"m", np.zeros(20))
    assert dict(outcome.errors) == {error: 20}
    assert not outcome.latencies_s


def test_calls_come_at_their_times_however_slow_the_answers_are(address: tuple[str, int]) -> None:
    times = np.array([0.0, 0.1, 0.2])
    outcome = send(address, f"/{SERVICE}/Same", b"m", lambda got: got == b"m", times)
    assert outcome.calls == 3
    assert min(outcome.late_s) >= 0
    assert min(np.array(outcome.latencies_s)) > 0


def test_a_connection_that_closes_is_an_error_of_its_own() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        closer = threading.Thread(target=lambda: listening.accept()[0].close())
        closer.start()
        with pytest.raises(ConnectionError):
            send(listening.getsockname(), "/a/b", b"", bool, np.zeros(1), connections=1)
        closer.join()


def test_times_are_those_of_a_poisson_process() -> None:
    times = poisson(1000.0, 20.0, seed=1)
    gaps = np.diff(times)
    assert times[-1] < 20
    # Its gaps have the mean 1 / rate and a standard deviation of the same size.
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert gaps.std() == pytest.approx(1e-3, rel=0.03)
