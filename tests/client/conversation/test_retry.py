"""What is called again, when, and when no more."""

import random
import socket
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from client.conftest import OipServer
from google.rpc import error_details_pb2, status_pb2
from support.clients import AnyClient

from forwardpass.client import (
    InvalidInputError,
    OverloadedError,
    Retry,
    ServerError,
    ServerUnavailableError,
    TooLargeError,
)
from forwardpass.client._comeback import comeback_s
from forwardpass.client.errors import ERRORS, from_rpc_error
from forwardpass.client.retry import Retrier

AWAY = ServerUnavailableError("away", code=grpc.StatusCode.UNAVAILABLE)
QUICK = Retry(attempts=4, first_s=0.001)


def failing(server, times, code=grpc.StatusCode.UNAVAILABLE, text="away"):
    """Let the first calls of ModelInfer fail."""

    def answer(request, context):
        if server.calls["ModelInfer"] <= times:
            context.abort(code, text)
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.UNAVAILABLE, "the server shuts down"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "model 'net': 8 calls wait already; back off"),
    ],
)
def test_what_passes_is_called_again(
    server: OipServer, connect: Callable[..., AnyClient], code, text
) -> None:
    failing(server, 3, code, text)
    with connect(server.target, retry=QUICK) as client:
        assert client.predict("net", [1, 2, 3])["total"] == 6
    assert server.calls["ModelInfer"] == 4


def test_the_policy_says_how_often(server: OipServer, connect: Callable[..., AnyClient]) -> None:
    failing(server, 4)
    with connect(server.target, retry=QUICK) as client:
        with pytest.raises(ServerUnavailableError, match="away") as caught:
            client.predict("net", [1, 2, 3])
        assert caught.value.__notes__ == ["after 4 calls"]
        assert server.calls["ModelInfer"] == 4


def test_none_calls_once(server: OipServer, connect: Callable[..., AnyClient]) -> None:
    failing(server, 1)
    with connect(server.target, retry=None) as client:
        with pytest.raises(ServerUnavailableError):
            client.predict("net", [1, 2, 3])
        assert server.calls["ModelInfer"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "message of 5000 bytes is above the server's limit of 2048; send fewer rows",
        "model 'net': 11 rows are above the server's limit of 10; send fewer rows",
        "SERVER: Received message larger than max (5000 vs. 2048)",
        "grpc: received message larger than max (5000 vs. 2048)",
        "gRPC message exceeds maximum size 2048: 5000",
    ],
)
def test_a_call_that_is_too_large_is_not_called_again(
    server: OipServer, connect: Callable[..., AnyClient], text
) -> None:
    failing(server, 1, grpc.StatusCode.RESOURCE_EXHAUSTED, text)
    with connect(server.target, retry=QUICK) as client:
        with pytest.raises(TooLargeError) as caught:
            client.predict("net", [1, 2, 3])
        assert isinstance(caught.value, OverloadedError)
        assert server.calls["ModelInfer"] == 1


def test_what_would_fail_again_is_not_called_again(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    passing = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK}
    # A refused input or model has the client look at the metadata, which are as before.
    with connect(server.target, retry=QUICK) as client:
        for code in set(grpc.StatusCode) - passing:
            server.calls.clear()
            failing(server, 1, code)
            with pytest.raises(ERRORS[code]):
                client.predict("net", [1, 2, 3])
            assert server.calls["ModelInfer"] == 1, code


def test_metadata_are_called_for_again_too(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    def answer(request, context):
        if server.calls["ModelMetadata"] < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        return server._model_metadata(request, context)

    server.answers["ModelMetadata"] = answer
    with connect(server.target, retry=QUICK) as client:
        assert client.predict("net", [1, 2, 3])["total"] == 6


def test_a_stream_calls_again_and_keeps_its_order(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    def answer(request, context):
        if server.calls["ModelInfer"] % 3 == 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer
    with connect(server.target, retry=Retry(attempts=10, first_s=0.001)) as client:
        stream = client.predict_stream("net", ([i, i, i] for i in range(50)))
        assert [p["total"] for p in stream] == [3 * i for i in range(50)]


def test_a_pause_that_outlasts_the_deadline_is_not_made(connect: Callable[..., AnyClient]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    policy = Retry(attempts=100, first_s=60, max_s=60)
    with connect(target, retry=policy) as client:
        start = time.monotonic()
        with pytest.raises(ServerUnavailableError):
            client.predict("net", [1, 2, 3], timeout_s=20)
        assert time.monotonic() - start < 15


def test_calls_whose_deadline_leaves_no_pause_take_nothing_from_the_budget(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    failing(server, 4)
    with connect(server.target, retry=Retry(attempts=2, first_s=2.0, budget=1)) as client:
        client.metadata("net")
        for _ in range(3):
            # A pause is 1 s at least.
            with pytest.raises(ServerUnavailableError):
                client.predict("net", [1, 2, 3], timeout_s=0.9)
        assert client.predict("net", [1, 2, 3], timeout_s=30)["total"] == 6


# The policy


def test_pauses_double_up_to_the_longest_and_half_of_each_is_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retrier = Retrier(Retry(attempts=7, first_s=0.1, max_s=1.0))
    for chance, share in ((0.0, 0.5), (1.0, 1.0)):
        monkeypatch.setattr(random, "random", lambda chance=chance: chance)
        pauses = [retrier.pause_s(attempt, AWAY) for attempt in range(1, 7)]
        assert pauses == pytest.approx([share * s for s in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0)])
    assert retrier.pause_s(7, AWAY) is None


def test_the_budget_is_spent_together_and_earned_back() -> None:
    retrier = Retrier(Retry(attempts=100, budget=3))
    assert [retrier.pause_s(1, AWAY) is None for _ in range(5)] == [False] * 3 + [True] * 2
    for _ in range(11):
        retrier.succeeded()
    assert [retrier.pause_s(1, AWAY) is None for _ in range(2)] == [False, True]
    for _ in range(1000):
        retrier.succeeded()
    assert [retrier.pause_s(1, AWAY) is None for _ in range(4)] == [False] * 3 + [True]


def test_a_server_that_is_down_is_not_called_ever_more(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    failing(server, 10**9)
    with connect(server.target, retry=Retry(attempts=5, first_s=0.0, budget=10)) as client:
        for _ in range(50):
            with pytest.raises(ServerUnavailableError):
                client.predict("net", [1, 2, 3])
    assert server.calls["ModelInfer"] == 60


@pytest.mark.parametrize("error", [InvalidInputError("no"), ServerError("no"), TooLargeError("no")])
def test_only_what_passes_gets_a_pause(error) -> None:
    assert Retrier(Retry()).pause_s(1, error) is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"attempts": 0}, "attempts: expected at least 1, got 0"),
        ({"first_s": -1}, "first_s: expected 0 or more, got -1"),
        ({"max_s": -0.1}, "max_s: expected 0 or more"),
        ({"budget": -1}, "budget: expected 0 or more"),
    ],
)
def test_a_policy_that_is_none_is_refused(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        Retry(**arguments)


def test_the_texts_of_our_own_server_distinguish_too_large_from_too_many() -> None:
    from forwardpass.server import errors as served

    class Failed(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.RESOURCE_EXHAUSTED

        def details(self):
            return str(self.args[0])

    too_large = (served.MessageTooLargeError(9, 5), served.TooManyRowsError("m", 9, 5))
    for error in too_large:
        assert type(from_rpc_error(Failed(error), target="")) is TooLargeError
    too_many = (served.QueueFullError("m", 5), served.TooManyStreamsError(5))
    for refusal in too_many:
        assert type(from_rpc_error(Failed(refusal), target="")) is OverloadedError


# When the server says when to come back


def status_with(*details: Any) -> bytes:
    status = status_pb2.Status(code=8, message="busy")
    for detail in details:
        status.details.add().Pack(detail)
    data: bytes = status.SerializeToString()
    return data


def delayed(seconds: float) -> error_details_pb2.RetryInfo:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromNanoseconds(round(seconds * 1e9))
    return info


PUSHBACK, DETAILS = "grpc-retry-pushback-ms", "grpc-status-details-bin"
VIOLATION = error_details_pb2.BadRequest(
    field_violations=[error_details_pb2.BadRequest.FieldViolation(field="x", description="y")]
)


@pytest.mark.parametrize(
    ("trailers", "seconds"),
    [
        ([], None),
        ([("x-request-id", "7")], None),
        ([(PUSHBACK, "250")], 0.25),
        ([(PUSHBACK, "0")], 0.0),
        # gRFC A6: either says that there should be no further call.
        ([(PUSHBACK, "-1")], -1.0),
        ([(PUSHBACK, "soon")], -1.0),
        ([(DETAILS, status_with(delayed(1.5)))], 1.5),
        ([(DETAILS, status_with(VIOLATION, delayed(70)))], 70.0),
        ([(DETAILS, status_with(VIOLATION))], None),
        ([(DETAILS, status_with(delayed(1.5))), (PUSHBACK, "20")], 0.02),
        ([(DETAILS, status_with(delayed(1.5))[:-3])], None),
        ([(DETAILS, b"\xff/google.rpc.RetryInfo")], None),
    ],
)
def test_when_to_come_back_is_read_from_the_trailers(
    trailers: list[tuple[str, str | bytes]], seconds: float | None
) -> None:
    assert comeback_s(trailers) == seconds


def test_a_call_is_not_made_again_before_the_server_wants_it() -> None:
    retrier = Retrier(Retry(attempts=5, first_s=0.001, max_s=0.002))
    busy = OverloadedError("busy")
    busy.retry_s = 3.0
    for attempt in range(1, 5):
        pause_s = retrier.pause_s(attempt, busy)
        assert pause_s is not None
        assert 3.0 <= pause_s <= 3.75
    # Not by a deadline that would pass meanwhile either.
    assert retrier.pause_s(1, busy, left_s=2.9) is None
    busy.retry_s = -1.0
    assert retrier.pause_s(1, busy) is None


@pytest.mark.parametrize(
    "trailer", [(PUSHBACK, "400"), (DETAILS, status_with(delayed(0.4)))], ids=["trailer", "details"]
)
def test_both_clients_wait_as_long_as_the_server_says(
    server: OipServer, connect: Callable[..., AnyClient], trailer: tuple[str, str | bytes]
) -> None:
    times: list[float] = []

    def answer(request, context):
        times.append(time.monotonic())
        if len(times) == 1:
            context.set_trailing_metadata((trailer,))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer
    with connect(server.target, retry=QUICK) as client:
        assert client.predict("net", [1, 2, 3])["total"] == 6
    assert times[1] - times[0] >= 0.4


def test_a_server_that_says_never_is_not_called_again(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    def answer(request, context):
        context.set_trailing_metadata(((PUSHBACK, "-1"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")

    server.answers["ModelInfer"] = answer
    with connect(server.target, retry=QUICK) as client, pytest.raises(OverloadedError):
        client.predict("net", [1, 2, 3])
    assert server.calls["ModelInfer"] == 1
