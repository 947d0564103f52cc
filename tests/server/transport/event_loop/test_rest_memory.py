"""What JSON takes of the server's memory: answers that nobody reads, and long requests."""

import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import onnx_files
from support.command import COMMAND, serving
from support.ports import free_ports
from support.proc import peak_mib, resident_mib
from support.rest import Rest, written
from support.waiting import eventually

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.transport.event_loop.memory import RequestMemory

MIB = 2**20
LIMIT = 64 * MIB
LONG = float(np.float32(-1.2345678e-20))
"""Has 23 characters in JSON, for 4 bytes."""
INFER = "/v2/models/wide/infer"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    onnx_files.save(onnx_files.wide(), root / "wide.onnx")
    onnx_files.save(onnx_files.linear(), root / "linear.onnx")
    return root


def wide_body(mib: float, *, binary: bool = False) -> dict[str, Any]:
    """A call whose answer has so many MiB as a tensor."""
    rows = int(mib * MIB) // (4 * onnx_files.WIDTH)
    entry = {"name": "x", "datatype": "FP32", "shape": [rows, 1], "data": [LONG] * rows}
    return {"inputs": [entry], "parameters": {"binary_data_output": binary}}


class Deaf:
    """A caller that reads the status of its answer alone."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(request)

    def status(self) -> int:
        start = b""
        while len(start) < 12:
            start += self.socket.recv(12 - len(start))
        return int(start[9:])

    def close(self) -> None:
        self.socket.close()


@contextmanager
def served(models: Path, **settings: Any) -> Iterator[Server]:
    config = Config(
        models=models,
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        max_message_bytes=MIB,
        **{"max_request_memory": LIMIT} | settings,
    )
    with Server(config) as server:
        yield server


def memory_of(server: Server) -> RequestMemory:
    transport: Any = server._transport
    memory: RequestMemory = transport.state.memory
    return memory


def test_no_burst_of_calls_exceeds_the_memory_with_answers_that_nobody_reads(
    models: Path, tmp_path: Path
) -> None:
    """40 answers of 1 MiB as tensors, of some 6 MiB as JSON, with 64 MiB."""
    port, http_port = free_ports(2)
    arguments = ["--port", str(port), "--http-port", str(http_port)]
    arguments += ["--max-request-memory", str(LIMIT), "--max-message-bytes", str(MIB)]
    with (
        serving(models, *arguments, program=COMMAND, log=tmp_path / "log") as server,
        ExitStack() as stack,
    ):
        with Rest(http_port) as client:
            assert client.post(INFER, wide_body(0.5)).status == 200
        before = resident_mib(server.process.pid)
        request = written("POST", INFER, wide_body(1))
        callers = [stack.enter_context(closing(Deaf(http_port, request))) for _ in range(40)]
        statuses = [caller.status() for caller in callers]
        assert set(statuses) == {200, 429}
        # 7 of 8 MiB at a time while they are written, then some more of 6 MiB.
        assert 1 <= statuses.count(200) <= 20
        peak = peak_mib(server.process.pid) - before
        assert peak < 1.25 * LIMIT / MIB
        with Rest(http_port) as client:
            small = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
            assert client.post("/v2/models/linear/infer", {"inputs": [small]}).status == 200


def test_an_answer_is_promised_what_it_takes_as_it_is_written(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promised: list[int] = []
    promise = RequestMemory.promise_all

    def seen(memory: RequestMemory, size: int) -> bool:
        promised.append(size)
        return promise(memory, size)

    monkeypatch.setattr(RequestMemory, "promise_all", seen)
    with served(models) as server, Rest(server.http_port) as client:
        tensor = 2 * MIB
        for body, most in (
            (wide_body(2, binary=True), tensor + 2**12),
            (wide_body(2), 8 * (tensor + 2**12)),
            (wide_body(2) | {"outputs": [_output(binary=True)]}, tensor + 2**12),
            (wide_body(2, binary=True) | {"outputs": [_output(binary=False)]}, 8 * tensor + 2**15),
        ):
            promised.clear()
            answer = client.post(INFER, body)
            assert answer.status == 200
            assert max(promised) <= most
            # Whatever it is written as, it takes less.
            assert len(answer.body) <= max(promised) + 2**10
        eventually(lambda: _is_free(memory_of(server)))


def _output(*, binary: bool) -> dict[str, Any]:
    return {"name": "y", "parameters": {"binary_data": binary}}


def _is_free(memory: RequestMemory) -> bool:
    memory.look()
    return memory.used == memory.promised == memory.unread == 0


def test_calls_that_arrive_together_are_promised_each_what_it_needs(models: Path) -> None:
    body = wide_body(1)
    binary = wide_body(1, binary=True)
    with served(models, max_request_memory=None) as server, Rest(server.http_port) as client:
        order = [random.Random(3).random() < 0.5 for _ in range(12)]
        for in_json in order:
            client.send("POST", INFER, body if in_json else binary)
        for in_json in order:
            answer = client.answer()
            assert answer.status == 200
            assert ("inference-header-content-length" in answer.fields) is not in_json
        eventually(lambda: _is_free(memory_of(server)))


def test_predictions_by_label_are_bounded(models: Path) -> None:
    with served(models, max_request_memory=2**30) as server, Rest(server.http_port) as client:
        path = "/v2/models/wide:predict"
        few = client.post(path, [{"x": 1.5}] * 100)
        assert len(json.loads(few.body)["predictions"]) == 100
        refused = client.post(path, [{"x": 1.5}] * 2000)
        assert refused.status == 400
        assert "send fewer rows" in refused.error
        eventually(lambda: _is_free(memory_of(server)))
