"""A network and servers that break: no wrong answer, no call that hangs, the documented errors."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from client.conftest import OipServer
from support import onnx_files
from support.clients import AnyClient
from support.process import server_process
from support.proxy import Proxy

from forwardpass.client import (
    CallCancelledError,
    ClientClosedError,
    DeadlineExceededError,
    Retry,
    ServerUnavailableError,
)

PATIENT = Retry(attempts=300, first_s=0.05, max_s=0.2, budget=10_000)
BIG = np.arange(90_000, dtype=np.float32).reshape(-1, 3)


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("size", [0, 1, 30, 1000, 100_000])
def test_a_connection_that_breaks_in_a_reply_is_a_call_made_again(
    proxy, connect: Callable[..., AnyClient], reset, size
) -> None:
    with connect(proxy.target, retry=PATIENT) as client:
        client.predict("net", [1, 2, 3])
        proxy.break_after(size, reset=reset)
        for _ in range(3):
            np.testing.assert_array_equal(client.predict("net", BIG)["total"], BIG.sum(axis=1))
        assert proxy.breaks == 1


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
def test_without_a_retry_a_connection_that_breaks_is_unavailable(
    proxy, connect: Callable[..., AnyClient], reset
) -> None:
    with connect(proxy.target, retry=None) as client:
        client.predict("net", [1, 2, 3])
        proxy.break_after(50_000, reset=reset)
        with pytest.raises(ServerUnavailableError):
            client.predict("net", BIG)


def test_connections_that_break_again_and_again_cost_no_call_and_mix_no_answer(
    proxy, connect: Callable[..., AnyClient]
) -> None:
    stop = threading.Event()

    def disturb():
        while not stop.wait(0.05):
            proxy.break_after(5000, reset=proxy.breaks % 2 == 0)

    def calls(seed):
        rng = np.random.default_rng(seed)
        for _ in range(40):
            x = rng.integers(0, 1000, (int(rng.integers(1, 200)), 3))
            np.testing.assert_array_equal(client.predict("net", x)["total"], x.sum(axis=1))

    with (
        connect(proxy.target, retry=PATIENT, timeout_s=60) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        client.predict("net", [1, 2, 3])
        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            list(pool.map(calls, range(8)))
            proxy.break_after(100, reset=True)
            calls(8)
        finally:
            stop.set()
            disturber.join()
    assert proxy.breaks > 0


def test_a_reply_later_than_the_deadline_is_that_and_the_next_call_is_answered(
    proxy, connect: Callable[..., AnyClient]
) -> None:
    with connect(proxy.target) as client:
        client.predict("net", [1, 2, 3])
        proxy.passing.clear()
        with pytest.raises(DeadlineExceededError):
            client.predict("net", [1, 2, 3], timeout_s=0.2)
        proxy.passing.set()
        assert client.predict("net", [4, 5, 6])["total"] == 15


QUICK = {
    "keepalive_s": 0.3,
    "options": [("grpc.keepalive_timeout_ms", 300), ("grpc.http2.ping_timeout_ms", 300)],
}
"""A keepalive that takes no patience of a test."""


def test_a_connection_that_goes_silent_is_found_dead_by_its_keepalive(
    proxy, connect: Callable[..., AnyClient]
) -> None:
    with connect(proxy.target, retry=None, **QUICK, timeout_s=40) as client:
        client.predict("net", [1, 2, 3])
        proxy.silence()
        with pytest.raises(ServerUnavailableError):
            client.predict("net", [1, 2, 3])


@pytest.mark.slow
def test_by_default_a_silent_connection_is_found_dead_ten_seconds_after_a_ping(
    proxy, connect: Callable[..., AnyClient]
) -> None:
    with connect(proxy.target, retry=None, keepalive_s=1, timeout_s=40) as client:
        client.predict("net", [1, 2, 3])
        proxy.silence()
        with pytest.raises(ServerUnavailableError):
            client.predict("net", [1, 2, 3])


def test_a_call_on_a_connection_that_goes_silent_is_made_again_on_another(
    proxy, connect: Callable[..., AnyClient]
) -> None:
    with connect(proxy.target, retry=PATIENT, **QUICK, timeout_s=40) as client:
        client.predict("net", [1, 2, 3])
        proxy.silence()
        assert client.predict("net", [4, 5, 6])["total"] == 15


def test_without_a_keepalive_a_connection_that_goes_silent_is_waited_for(
    proxy, connect: Callable[..., AnyClient]
) -> None:
    with connect(proxy.target, retry=None) as client:
        client.predict("net", [1, 2, 3])
        proxy.silence()
        with pytest.raises(DeadlineExceededError):
            client.predict("net", [1, 2, 3], timeout_s=3)


def test_a_stream_survives_connections_that_break(proxy, connect: Callable[..., AnyClient]) -> None:
    with connect(proxy.target, retry=PATIENT) as client:
        client.predict("net", [1, 2, 3])
        totals = []
        for prediction in client.predict_stream("net", ([i, i, i] for i in range(200))):
            totals.append(float(prediction["total"]))
            if len(totals) % 50 == 0:
                proxy.break_after(300, reset=True)
    assert totals == [3 * i for i in range(200)]
    assert proxy.breaks >= 3


def test_closing_in_the_middle_of_calls_ends_each_in_a_documented_way(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    def answer(request, context):
        time.sleep(0.01)
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer
    client = connect(server.target)
    ends = []

    def calls():
        try:
            while True:
                client.predict("net", [1, 2, 3])
        except (CallCancelledError, ClientClosedError) as error:
            ends.append(type(error))

    threads = [threading.Thread(target=calls) for _ in range(8)]
    for thread in threads:
        thread.start()
    while server.calls["ModelInfer"] < 20:
        time.sleep(0.005)
    client.__exit__(None, None, None)
    for thread in threads:
        thread.join(20)
    assert len(ends) == 8
    with pytest.raises(ClientClosedError):
        client.predict("net", [1, 2, 3])


def test_closing_in_the_middle_of_a_stream_ends_it_in_a_documented_way(
    server: OipServer, connect: Callable[..., AnyClient]
) -> None:
    client = connect(server.target)
    stream = client.predict_stream("net", ([i, i, i] for i in range(1000)))
    next(stream)
    client.__exit__(None, None, None)
    with pytest.raises((CallCancelledError, ClientClosedError)):
        list(stream)


def test_a_server_that_is_killed_and_started_again_costs_no_call(
    tmp_path: Path, connect: Callable[..., AnyClient]
) -> None:
    onnx_files.save(onnx_files.linear(), tmp_path / "linear" / "1" / "model.onnx")
    stop, failed, answered = threading.Event(), [], [0] * 4
    expected = np.array([14.5, 31.5], np.float32)

    def calls(index, client):
        while not stop.is_set():
            try:
                got = client.predict("linear", [1, 2, 3])["y"]
                assert np.array_equal(got, expected)
                answered[index] += 1
            except Exception as error:
                failed.append(error)

    with server_process(tmp_path) as first, Proxy(first.port) as proxy:
        with connect(proxy.target, retry=PATIENT, timeout_s=60) as client:
            threads = [threading.Thread(target=calls, args=[i, client]) for i in range(4)]
            for thread in threads:
                thread.start()
            try:
                while min(answered) < 10:
                    time.sleep(0.01)
                first.process.kill()
                first.process.wait()
                with server_process(tmp_path) as second:
                    proxy.to_port = second.port
                    enough = [count + 10 for count in answered]
                    deadline = time.monotonic() + 60
                    while not all(map(int.__gt__, answered, enough)):
                        assert time.monotonic() < deadline, failed[:3]
                        time.sleep(0.01)
                    stop.set()
                    for thread in threads:
                        thread.join(60)
            finally:
                stop.set()
    assert not failed, failed[:3]
