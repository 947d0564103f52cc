"""`grpc.health.v1`: the server and each model, on request and as a stream."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import onnx_files, pages
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.waiting import eventually

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.health import Health

# A health service that deadlocks (grpc/grpc#43403) is to fail a test here, not to hang the run.
pytestmark = [pytest.mark.timeout(20), pytest.mark.usefixtures("transport")]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def check(stub: Stub, name: str) -> int:
    health: Any = health_pb2_grpc.HealthStub(stub.channel)
    return int(health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status)


def watch(stub: Stub, name: str) -> Any:
    """A stream of replies."""
    health: Any = health_pb2_grpc.HealthStub(stub.channel)
    return health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=20)


def told(stream: Any) -> int:
    """The next state that a stream tells."""
    return int(next(stream).status)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("", SERVING),
        ("linear", SERVING),
        ("partly_broken", SERVING),
        ("garbage", NOT_SERVING),
        ("sequence", NOT_SERVING),
    ],
)
def test_check(stub: Stub, name: str, status: int) -> None:
    assert check(stub, name) == status


@pytest.mark.parametrize("name", ["nothing", "linear/1", "LINEAR", "n" * 4_000])
def test_check_of_an_unknown_name_is_not_found(stub: Stub, name: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        check(stub, name)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("ask", [check, lambda stub, name: told(watch(stub, name))])
def test_a_message_that_is_longer_than_any_name_is_refused(
    stub: Stub, ask: Callable[[Stub, str], int]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stub, "n" * 5_000)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "above 4096" in str(caught.value.details())


def test_list_reports_every_state(stub: Stub) -> None:
    health: Any = health_pb2_grpc.HealthStub(stub.channel)
    messages: Any = health_pb2
    statuses = health.List(messages.HealthListRequest(), timeout=10).statuses
    told = {name: reply.status for name, reply in statuses.items()}
    assert told[""] == told["linear"] == SERVING
    assert told["garbage"] == NOT_SERVING
    for name, status in told.items():
        assert check(stub, name) == status


def test_watch_reports_the_state_first(stub: Stub) -> None:
    for name, status in {"": SERVING, "linear": SERVING, "garbage": NOT_SERVING}.items():
        assert told(watch(stub, name)) == status


def test_watch_of_an_unknown_name_says_so(stub: Stub) -> None:
    assert told(watch(stub, "nothing")) == SERVICE_UNKNOWN


class Own:
    """A server of `linear` for one test, with two threads for calls; and its watchers.

    They are kept until it has stopped: what becomes of those that leave has a test of its own.
    """

    def __init__(self, models: Path) -> None:
        self.server = Server(Config(models=models, port=0, workers=2))
        self.stub = Stub(self.server.port)
        self.streams: list[Any] = []

    def watch(self, *names: str) -> list[Any]:
        self.streams += [watch(self.stub, name) for name in names]
        return self.streams[-len(names) :]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")
    own = Own(tmp_path)
    with own.stub, own.server:
        yield own


def test_watch_sees_draining_while_calls_are_still_answered(own: Own) -> None:
    streams = own.watch("", "linear")
    assert [told(stream) for stream in streams] == [SERVING, SERVING]

    own.server.drain()

    assert [told(stream) for stream in streams] == [NOT_SERVING, NOT_SERVING]
    assert check(own.stub, "") == NOT_SERVING
    assert check(own.stub, "linear") == NOT_SERVING
    assert_answered(own.stub, GOOD["linear"])


def test_watchers_hold_no_thread_that_calls_need(own: Own) -> None:
    assert [told(stream) for stream in own.watch(*[""] * 8)] == [SERVING] * 8

    assert_answered(own.stub, GOOD["linear"])


WATCHERS_LEAVE = """
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport

for _ in range(20):
    with Server(Config(models=Path(sys.argv[1]), port=0)) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            watchers = [health.Watch(request, timeout=30) for _ in range(8)]
            assert all(next(watcher).status for watcher in watchers)
"""


def test_watchers_that_leave_while_the_state_changes_do_not_stop_the_server(
    tmp_path: Path,
) -> None:
    # In a process of its own: what hangs there is ended with it (grpc/grpc#43403).
    path = onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")

    subprocess.run([sys.executable, "-c", WATCHERS_LEAVE, path], check=True, timeout=60)


class Heard(list[tuple[str, bool]]):
    def __call__(self, name: str, serving: bool) -> None:
        self.append((name, serving))


def test_a_listener_hears_the_state_and_each_change() -> None:
    health, heard = Health(), Heard()
    health.set("early", serving=True)

    health.listen(heard)
    health.set("late", serving=False)
    health.set("early", serving=False)

    assert heard == [("", False), ("early", True), ("late", False), ("early", False)]


def test_nothing_serves_at_first_or_after_draining() -> None:
    health, heard = Health(), Heard()
    assert not health.ready
    for name in ("", "model"):
        health.set(name, serving=True)
    assert health.ready
    health.listen(heard)
    heard.clear()

    health.drain()

    assert not health.ready
    assert heard == [("", False), ("model", False)]


def test_a_stopped_server_leaves_no_thread_behind(tmp_path: Path, transport: Transport) -> None:
    path = onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")
    before = set(threading.enumerate())
    config = Config(models=path, port=0, http_port=0, transport=transport)
    with pages.served(path, transport=transport) as (_, client):
        assert pages.run(client, "linear", {"x": [[1, 2, 3]]})["layers"]
    # One that never began.
    Server(config).stop()

    eventually(lambda: set(threading.enumerate()) <= before)
