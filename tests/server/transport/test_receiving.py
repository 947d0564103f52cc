"""Requests that arrive slowly, or take much memory, over both transports."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from struct import pack
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import onnx_files
from support.cgroups import memory_cgroup
from support.peers.frames import data, headers
from support.peers.peer import Peer
from support.process import PROGRAM
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.wire import infer_request

from forwardpass.client import Client
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport, request_limit
from forwardpass.server.guard import Limits
from forwardpass.server.process.memory import Room

pytestmark = pytest.mark.usefixtures("transport", "shared_trial")

MIB = 2**20
BATCH = (("forwardpass-priority", "batch"),)
BEGUN = b"\0" + pack(">I", 1000) + bytes(10)
"""A message of which most is missing."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    onnx_files.save(onnx_files.linear(), root / "linear.onnx")
    onnx_files.save(onnx_files.slow(), root / "slow.onnx")
    return root


@pytest.fixture
def uploads() -> Iterator[Callable[[Server], Peer]]:
    """Begins calls whose messages do not go on."""
    with ExitStack() as stack:

        def begin(server: Server) -> Peer:
            peer = stack.enter_context(Peer(server.port))
            peer.send(headers(1) + data(1, BEGUN, 0))
            return peer

        yield begin


def check_health(stub: Stub) -> None:
    of_theirs: Any = health_pb2_grpc.HealthStub(stub.channel)
    answer = of_theirs.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_slow_uploads_take_no_threads_from_others(
    models: Path, uploads: Callable[[Server], Peer]
) -> None:
    with Server(Config(models=models, port=0, workers=2)) as server, Stub(server.port) as stub:
        for _ in range(20):
            uploads(server)
        for metadata in ((), BATCH):
            for _ in range(3):
                stub.infer(GOOD["linear"].request(), metadata=metadata)
        check_health(stub)


def test_a_request_has_a_maximum_of_time_to_arrive(
    models: Path, uploads: Callable[[Server], Peer]
) -> None:
    config = Config(models=models, port=0, workers=2, max_receive_s=0.5)
    with Server(config) as server, Stub(server.port) as stub:
        begun = [uploads(server) for _ in range(4)]
        for peer in begun:
            assert peer.answer(1).grpc_status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert_answered(stub, GOOD["linear"])
        until(lambda: server._transport.load().in_flight == 0)


def test_memory_of_requests_has_a_maximum_and_who_is_refused_comes_back(models: Path) -> None:
    config = Config(
        models=models,
        port=0,
        limits=Limits(general=True),
        max_message_bytes=2 * MIB,
        max_request_memory=2 * MIB,
    )
    with Server(config) as server, Stub(server.port) as stub:
        # More than half each: the second finds no room while the first is computed.
        request = infer_request("slow", {"turns": np.array(3000)}, id="x" * (3 * MIB // 2))
        method: Any = stub.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        body = request.SerializeToString()
        calls = [method.future(body, timeout=60) for _ in range(4)]
        failed = [call for call in calls if call.exception(60) is not None]
        assert 1 <= len(failed) <= 3
        for call in failed:
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "back off" in call.details()
            assert int(dict(call.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        # Given back: one finds room again.
        until(lambda: server._transport.load().in_flight == 0)
        with Client(f"127.0.0.1:{server.port}") as client:
            assert client.predict("slow", {"turns": np.array(1)}) is not None
        large = infer_request("slow", {"turns": np.array(1)}, id="x" * MIB).SerializeToString()

        def has_room() -> bool:
            try:
                return bool(method(large, timeout=60))
            except grpc.RpcError as error:
                # Memory may be given back a moment after the answer that it was for.
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                return False

        until(has_room)


def test_the_default_is_a_share_of_what_the_container_leaves(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left(free: int) -> int:
        found = Room("the container's limit", 10 * free, 9 * free)
        monkeypatch.setattr("forwardpass.server.config.room", lambda: found)
        return request_limit(Config(models=models))

    assert left(2**30) == 2**28
    assert left(2**40) == 8 * 64 * MIB
    # A message of any size that is allowed can be received.
    assert left(2**20) == 64 * MIB
    assert request_limit(Config(models=models, max_request_memory=2**33)) == 2**33
    with pytest.raises(ValueError, match="max_request_memory: expected at least max_message_bytes"):
        Config(models=models, max_request_memory=2**20)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_a_container_more_requests_than_fit_leave_the_server_alive(
    models: Path, transport: Transport
) -> None:
    body = infer_request("nothing", {"x": np.zeros(15 * MIB, np.float32)}).SerializeToString()
    command = [sys.executable, "-c", PROGRAM, str(models), "0", "1", transport]
    unlimited: Any = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with memory_cgroup(2**30, "requests") as cgroup, ExitStack() as stack:
        process = stack.enter_context(cgroup.popen(command, stdout=subprocess.PIPE))
        stack.callback(process.kill)
        assert process.stdout is not None
        port = int(process.stdout.readline())
        address = f"127.0.0.1:{port}"
        calls = []
        for _ in range(32):
            channel = stack.enter_context(grpc.insecure_channel(address, unlimited))
            method: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            calls.append(method.future(body, timeout=300))
        codes = [call.code() for call in calls]
        print(f"\n{transport}: peak {cgroup.peak_mib:.0f} MiB", file=sys.__stderr__)
        expected = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert set(codes) <= expected
        assert cgroup.killed == 0
        with Stub(port) as stub:
            assert_answered(stub, GOOD["linear"])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
