"""Answers that callers do not read, over both transports: counted, bounded, ended in time."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import onnx_files
from support.cgroups import memory_cgroup
from support.http2 import (
    DATA,
    REQUEST,
    RST_STREAM,
    block,
    frame,
    message,
    request,
)
from support.process import PROGRAM
from support.raw import NO_WINDOW, Deaf, Raw, wide_call
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.waiting import eventually

from forwardpass.client import Client
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.transport.event_loop import memory as event_loop
from forwardpass.server.transport.event_loop.memory import RequestMemory
from forwardpass.server.transport.event_loop.server import AsyncioServer
from forwardpass.server.transport.grpcio import sending as grpcio
from forwardpass.server.transport.grpcio.receiving import Receiving
from forwardpass.server.transport.grpcio.server import GrpcioServer

pytestmark = pytest.mark.usefixtures("transport")

MIB = 2**20
LIMIT = 16 * MIB
Ask = Callable[[Any, float], Deaf]
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    onnx_files.save(onnx_files.wide(), root / "wide.onnx")
    onnx_files.save(onnx_files.linear(), root / "linear.onnx")
    return root


def served(models: Path, **settings: Any) -> Server:
    return Server(
        Config(models=models, port=0, max_message_bytes=MIB, max_request_memory=LIMIT, **settings)
    )


@pytest.fixture
def deaf() -> Iterator[Ask]:
    with ExitStack() as stack:
        yield lambda server, mib: stack.enter_context(closing(Deaf(server, wide_call(mib))))


def counted(server: Server) -> int:
    """Bytes of requests and answers that the server counts."""
    transport = server._front.transport
    if isinstance(transport, AsyncioServer):
        memory = transport.state.memory
        return memory.used + memory.unread + memory.promised
    assert isinstance(transport, GrpcioServer)
    return transport._receiving.used


def test_answers_that_nobody_reads_count_and_the_next_call_is_asked_to_come_back(
    models: Path, deaf: Ask
) -> None:
    with served(models) as server, Stub(server.port) as stub:
        callers = [deaf(server, 2) for _ in range(12)]
        refusals = [refusal for refusal in map(Deaf.refusal, callers) if refusal]
        # grpcio has two copies of an answer.
        assert 4 < len(refusals) < 10
        for refusal in refusals:
            assert refusal["grpc-status"] == "8"
            assert "back off" in refusal["grpc-message"]
            assert int(refusal["grpc-retry-pushback-ms"]) > 0
        assert 6 * MIB < counted(server) <= LIMIT
        # Small answers have room.
        assert_answered(stub, GOOD["linear"])
        # Given back when their callers leave.
        for caller in callers:
            caller.close()
        eventually(lambda: counted(server) < MIB)
        with Client(f"127.0.0.1:{server.port}") as client:
            answer = client.predict("wide", np.ones((512, 1), np.float32))
            assert answer["y"].shape == (512, onnx_files.WIDTH)
        eventually(lambda: counted(server) < MIB)


def test_no_burst_of_calls_exceeds_the_memory(
    models: Path, deaf: Ask, monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> None:
    """Counted at each promise, before anything is computed."""
    seen: list[tuple[int, bool]] = []
    kind: Any = RequestMemory if transport is Transport.ASYNCIO else Receiving
    name = "promise_all" if kind is RequestMemory else "promise"
    promise = getattr(kind, name)

    def watched(memory: Any, size: int) -> bool:
        given = promise(memory, size)
        total = memory.used
        if isinstance(memory, RequestMemory):
            total += memory.unread + memory.promised
        seen.append((total, given))
        return bool(given)

    monkeypatch.setattr(kind, name, watched)
    with served(models, workers=8) as server:
        callers = [deaf(server, 1) for _ in range(48)]
        refused = [bool(caller.refusal()) for caller in callers]
    assert 6 <= refused.count(False) <= 15
    assert max(total for total, _ in seen) <= LIMIT


def test_an_answer_that_nobody_reads_is_ended_in_time(models: Path, deaf: Ask) -> None:
    with served(models, max_unread_s=0.5) as server:
        caller = deaf(server, 2)
        assert not caller.refusal()
        assert caller.ended()
        eventually(lambda: counted(server) < MIB)


def test_a_stream_whose_answers_nobody_reads_is_ended_in_time(models: Path) -> None:
    with served(models, max_unread_s=0.5) as server, closing(Raw(server, NO_WINDOW)) as raw:
        raw.send(request(1, None, block((dict(REQUEST) | {":path": STREAM}).items())))
        for _ in range(4):
            raw.send(frame(DATA, 0, 1, message(wide_call(2))))
        eventually(lambda: counted(server) > 2 * MIB)
        raw.read_until(lambda each: each.kind == RST_STREAM)
        eventually(lambda: counted(server) < MIB)


def test_answers_that_are_not_read_for_long_leave_their_memory_to_others(
    models: Path, deaf: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (event_loop, grpcio):
        monkeypatch.setattr(module, "_FAIR_S", 0.5)
    with served(models) as server:
        for _ in range(10):
            deaf(server, 3).refusal()
        # Refused at first, and told when to come back.
        eventually(lambda: not deaf(server, 4).refusal())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_a_container_answers_that_nobody_reads_leave_the_server_alive(
    models: Path, transport: Transport, deaf: Ask
) -> None:
    """200 answers of 40 MiB, of which nothing is read, with 1 GiB."""
    command = [sys.executable, "-c", PROGRAM, str(models), "0", "1", transport]
    with memory_cgroup(2**30, "unread") as cgroup, ExitStack() as stack:
        process = stack.enter_context(cgroup.popen(command, stdout=subprocess.PIPE))
        stack.callback(process.kill)
        assert process.stdout is not None
        server = SimpleNamespace(port=int(process.stdout.readline()))
        with Client(f"127.0.0.1:{server.port}", timeout_s=60) as client:
            eventually(client.ready)
        callers = [deaf(server, 40) for _ in range(200)]
        refusals = [caller.refusal() for caller in callers]
        assert {refusal.get("grpc-status", "8") for refusal in refusals} == {"8"}
        refused = list(map(bool, refusals))
        print(
            f"\n{transport}: {refused.count(False)} of 200, peak {cgroup.peak_mib:.0f} MiB",
            file=sys.__stderr__,
        )
        assert 1 <= refused.count(False) < 20
        assert cgroup.killed == 0
        with Stub(server.port) as stub:
            assert_answered(stub, GOOD["linear"])
