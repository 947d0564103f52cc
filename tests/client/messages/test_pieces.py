"""Arrays that are more than a call should carry."""

import itertools
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import grpc
import numpy as np
import pytest
from support.clients import AnyClient

from forwardpass.client import (
    InvalidInputError,
    ProtocolError,
    ServerUnavailableError,
    TooLargeError,
)
from forwardpass.client._conversation.core import PIECES_IN_FLIGHT
from forwardpass.proto.metadata import BATCH_INVARIANT

ROW_BYTES = 12


@pytest.fixture
def server(server):
    server.models["net"].properties = {BATCH_INVARIANT: "true"}
    return server


@pytest.fixture
def client(server, connect):
    """A client that sends ten rows of `net` a call."""
    with connect(server.target, timeout_s=30, max_message_bytes=10 * ROW_BYTES + 5) as client:
        yield client


def rows(count):
    return np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)


def assert_answered(prediction, x):
    assert list(prediction) == ["y", "total"]
    np.testing.assert_array_equal(
        prediction["y"], x @ np.array([[1, 0], [0, 2], [4, 8]], np.float32)
    )
    np.testing.assert_array_equal(prediction["total"], x.sum(axis=1))


@pytest.mark.parametrize("count", [1, 10, 11, 95, 1000])
def test_more_rows_than_a_message_holds_are_cut_and_joined(client, server, count) -> None:
    x = rows(count)
    assert_answered(client.predict("net", x), x)
    assert server.calls["ModelInfer"] == -(-count // 10)
    assert max(map(len, server.requests)) < 10 * ROW_BYTES + 60


def test_what_is_joined_cannot_be_changed_and_names_its_version(client) -> None:
    prediction = client.predict("net", rows(25))
    assert (prediction.model, prediction.version, prediction.timing) == ("net", "1", None)
    with pytest.raises(ValueError, match="read-only"):
        prediction["y"][0] = 1


def test_outputs_asked_for_are_joined_in_that_order(client) -> None:
    x = rows(25)
    prediction = client.predict("net", x, outputs=["total"])
    assert list(prediction) == ["total"]
    np.testing.assert_array_equal(prediction["total"], x.sum(axis=1))


@pytest.mark.parametrize("said", ["false", "not batched: its rows are not told apart", None])
def test_where_rows_may_depend_on_one_another_they_stay_together(client, server, said) -> None:
    server.models["net"].properties = {} if said is None else {BATCH_INVARIANT: said}
    x = rows(100)
    assert_answered(client.predict("net", x), x)
    assert server.calls["ModelInfer"] == 1


def test_the_caller_may_say_how_many_rows_a_call_has(client, server) -> None:
    server.models["net"].properties = {}
    x = rows(100)
    assert_answered(client.predict("net", x, rows_per_call=30), x)
    assert server.calls["ModelInfer"] == 4
    assert_answered(client.predict("net", x[:30], rows_per_call=30), x[:30])
    assert server.calls["ModelInfer"] == 5


def test_none_cuts_nothing_so_that_the_server_may_refuse_it(
    server, connect: Callable[..., AnyClient]
) -> None:
    with connect(server.target, max_message_bytes=None) as client:
        with pytest.raises(TooLargeError, match="larger than max"):
            client.predict("net", rows(400_000))
        assert client.predict("net", rows(300_000))["total"].shape == (300_000,)
    assert server.calls["ModelInfer"] == 1


def test_by_default_a_message_is_one_that_any_server_of_grpc_takes(
    server, connect: Callable[..., AnyClient]
) -> None:
    with connect(server.target) as client:
        x = rows(400_000)
        assert_answered(client.predict("net", x), x)
    assert server.calls["ModelInfer"] == 2
    assert max(map(len, server.requests)) < 4 * 2**20


@pytest.mark.parametrize(
    ("x", "rows_per_call"),
    [([1, 2, 3], 1), (rows(3), 0), (np.zeros((1, 3, 3)), 2)],
    ids=["single row", "none a call", "no matrix"],
)
def test_rows_that_cannot_be_cut_so_are_refused(client, x, rows_per_call) -> None:
    with pytest.raises(InvalidInputError):
        client.predict("net", x, rows_per_call=rows_per_call)


def test_a_model_without_rows_is_refused_with_the_fix(client, server) -> None:
    server.models["net"].outputs = {"y": ("FP32", (2,))}
    with pytest.raises(InvalidInputError, match="a model that answers rows, got 5; leave it out"):
        client.predict("net", rows(10), rows_per_call=5)


def test_a_model_that_does_not_answer_row_by_row_is_a_protocol_error(client, server) -> None:
    server.models["net"].run = lambda _: {
        "y": np.zeros((2, 2), np.float32),
        "total": np.zeros(2, np.float32),
    }
    with pytest.raises(ProtocolError, match=re.escape("output 'y': expected shape [10, 2] for 10")):
        client.predict("net", rows(25))


def test_a_few_pieces_are_in_flight_at_once(client, server) -> None:
    lock, now, most = threading.Lock(), 0, 0
    together = threading.Event()

    def answer(request, context):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == PIECES_IN_FLIGHT:
                together.set()
        if server.calls["ModelInfer"] > 1:
            # Only the first goes alone.
            together.wait(10)
        try:
            return server._model_infer(request, context)
        finally:
            with lock:
                now -= 1

    server.answers["ModelInfer"] = answer
    x = rows(200)
    assert_answered(client.predict("net", x), x)
    assert most == PIECES_IN_FLIGHT


def test_all_pieces_go_to_one_version(client, server) -> None:
    old = server.models["net"]
    new = replace(old, version="2", run=lambda arrays: {k: -v for k, v in old.run(arrays).items()})
    count = itertools.count(1)

    def answer(request, context):
        # As a server that serves the old version on while the new one is its choice.
        asked = request.find(b"\x12\x011") >= 0
        server.models["net"] = old if asked or next(count) == 1 else new
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer
    x = rows(95)
    prediction = client.predict("net", x)
    assert prediction.version == "1"
    assert_answered(prediction, x)


def test_a_version_that_is_gone_in_between_is_left_for_the_new_one(client, server) -> None:
    x = rows(95)
    client.predict("net", x[:5])
    old = server.models["net"]
    new = replace(old, version="2")
    first = True

    def answer(request, context):
        nonlocal first
        reply = server._model_infer(request, context)
        if first:
            first = False
            server.models["net"] = new
        return reply

    server.answers["ModelInfer"] = answer
    prediction = client.predict("net", x)
    assert prediction.version == "2"
    assert_answered(prediction, x)


def test_progress_is_reported_after_each_piece(client) -> None:
    told = []
    client.predict("net", rows(25), progress=lambda done, whole: told.append((done, whole)))
    assert told == [(10, 25), (20, 25), (25, 25)]


def test_a_bar_is_shown_to_nobody_where_there_is_no_terminal(client, capfd) -> None:
    client.predict("net", rows(25), progress=True)
    assert capfd.readouterr().err == ""


def test_an_error_of_one_piece_is_that_of_the_whole_and_sends_no_more(client, server) -> None:
    def answer(request, context):
        if server.calls["ModelInfer"] > 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer
    with pytest.raises(ServerUnavailableError, match="gone"):
        client.predict("net", rows(5000))
    assert server.calls["ModelInfer"] < 30


def test_the_deadline_is_that_of_all_pieces(client, server) -> None:
    def slow(request, context):
        time.sleep(0.05)
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = slow
    with pytest.raises(TimeoutError):
        client.predict("net", rows(5000), timeout_s=0.5)
