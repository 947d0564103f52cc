"""What requests take of the server's memory, whole or not, until they are answered."""

import gzip
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from struct import pack
from typing import Any

import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from support import onnx_files
from support.http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    REQUEST,
    RST_STREAM,
    WINDOW_UPDATE,
    block,
    frame,
    message,
)
from support.http2 import request as request_frames
from support.raw import Raw, end_of
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits
from forwardpass.server.transport.aio import streams
from forwardpass.server.transport.aio.memory import RequestMemory

MIB = 2**20
SERVICE = "/inference.GRPCInferenceService"
WATCH = "/grpc.health.v1.Health/Watch"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    onnx_files.save(onnx_files.linear(), models / "linear.onnx")
    onnx_files.save(onnx_files.slow(), models / "slow.onnx")
    config = Config(
        models=models,
        port=0,
        transport=Transport.ASYNCIO,
        limits=Limits(general=True),
        model_control=True,
    )
    with Server(config) as server:
        yield server


@pytest.fixture
def memory(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[RequestMemory]:
    """The server's, of which there are 3.5 MiB; nothing of it may be left in use."""
    transport: Any = server._transport
    memory: RequestMemory = transport.memory
    monkeypatch.setattr(memory, "_limit", 7 * MIB // 2)
    yield memory
    wait_until(lambda: memory.used == 0)


@pytest.fixture
def raw(server: Server) -> Iterator[Raw]:
    # With windows for answers that have an id as long as their requests have.
    with closing(Raw(server, pack(">HI", 4, 2**31 - 1))) as raw:
        raw.send(frame(WINDOW_UPDATE, 0, 0, pack(">I", 2**31 - 1 - 65535)))
        yield raw


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def begun(stream_id: int, path: str) -> bytes:
    """A request of messages that may be compressed, without any yet."""
    fields = dict(REQUEST) | {":path": path, "grpc-encoding": "gzip"}
    return request_frames(stream_id, None, block(fields.items()))


def compressed(data: bytes) -> bytes:
    packed = gzip.compress(data)
    return b"\1" + pack(">I", len(packed)) + packed


def slow(turns: int, id_bytes: int) -> bytes:
    """A call of so many bytes that takes some time, once there was another one."""
    request = infer_request("slow", {"turns": np.array(turns)}, id="x" * id_bytes)
    return bytes(request.SerializeToString())


def assert_refused(raw: Raw, says: bytes) -> int:
    """Read up to the first error and return its stream."""
    end = raw.read_until(lambda each: each.kind == HEADERS and bool(each.flags & END_STREAM))[-1]
    assert b"grpc-status\x018" in end.payload
    assert says in end.payload
    return end.stream_id


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_whole_messages_whose_end_does_not_come_take_only_so_much_memory(
    memory: RequestMemory, raw: Raw, packed: bool
) -> None:
    data = bytes(MIB)
    framed = compressed(data) if packed else message(data)
    for stream_id in (1, 3, 5, 7):
        raw.send(begun(stream_id, f"{SERVICE}/ModelInfer"))
        for start in range(0, len(framed), 2**14):
            raw.send(frame(DATA, 0, stream_id, framed[start : start + 2**14]))
        if stream_id < 7:
            wait_until(lambda: memory.used == (stream_id + 1) // 2 * MIB)  # noqa: B023
    assert assert_refused(raw, b"back off") == 7
    assert memory.used == 3 * MIB
    raw.send(*(frame(RST_STREAM, 0, n, pack(">I", 8)) for n in (1, 3, 5)))


def test_small_messages_whose_end_does_not_come_are_counted_too(
    memory: RequestMemory, raw: Raw
) -> None:
    data = bytes(60_000)
    for stream_id in range(1, 140, 2):
        raw.send(
            begun(stream_id, f"{SERVICE}/ModelInfer"), frame(DATA, 0, stream_id, compressed(data))
        )
    assert assert_refused(raw, b"back off") == 1 + 2 * (7 * MIB // 2 // len(data))
    raw.close()


def test_a_large_message_that_comes_in_one_read_is_counted_until_it_is_answered(
    memory: RequestMemory, raw: Raw
) -> None:
    request = slow(300, 100_000)
    raw.send(request_frames(1, message(request)))
    wait_until(lambda: memory.used == len(request))
    raw.read_until(end_of(1))
    assert memory.used == 0


def test_whole_messages_that_come_in_one_read_are_refused_beyond_the_memory(
    memory: RequestMemory, raw: Raw
) -> None:
    request = slow(300, 100_000)
    count = 7 * MIB // 2 // len(request) + 1
    raw.send(*(request_frames(2 * n + 1, message(request)) for n in range(count)))
    assert assert_refused(raw, b"back off") == 2 * count - 1
    raw.close()


def test_calls_of_a_stream_are_counted_until_they_are_answered(
    memory: RequestMemory, raw: Raw
) -> None:
    raw.send(begun(1, f"{SERVICE}/ModelStreamInfer"))
    for _ in range(4):
        raw.send(frame(DATA, 0, 1, compressed(slow(300, MIB))))
    assert_refused(raw, b"back off")


def test_a_stream_of_large_messages_is_read_no_faster_than_it_is_answered(
    server: Server, memory: RequestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_AHEAD_BYTES", MIB)
    with Stub(server.port) as stub:
        requests = [slow(30, MIB) for _ in range(12)]
        answers = list(stub.stream(requests))
    assert [answer.error_message for answer in answers] == [""] * 12
    assert memory.used == 0


def test_answers_of_a_stream_that_wait_for_others_hold_no_request(
    memory: RequestMemory, raw: Raw
) -> None:
    raw.send(begun(1, f"{SERVICE}/ModelStreamInfer"))
    raw.send(frame(DATA, 0, 1, compressed(slow(3000, 0))))
    large = GOOD["linear"].request()
    large.id = "y" * MIB
    for _ in range(12):
        # One after the other: the first call is still under way, and they are answered.
        raw.send(frame(DATA, 0, 1, compressed(large.SerializeToString())))
        wait_until(lambda: memory.used == 0)
    raw.send(frame(DATA, END_STREAM, 1, b""))
    raw.close()


@pytest.mark.parametrize(
    ("path", "limit"), [(WATCH, 4096), (f"{SERVICE}/ModelReady", 65536)], ids=["Watch", "RPC"]
)
def test_a_long_name_is_refused_before_it_is_unpacked(
    memory: RequestMemory, raw: Raw, path: str, limit: int
) -> None:
    name = health_pb2.HealthCheckRequest(service="n" * 8 * MIB).SerializeToString()
    raw.send(begun(1, path), frame(DATA, END_STREAM, 1, compressed(name)))
    assert_refused(raw, b"above %d" % limit)
    assert memory.used == 0


def test_a_watch_holds_no_message(memory: RequestMemory, raw: Raw) -> None:
    asked = health_pb2.HealthCheckRequest(service="n" * 4000).SerializeToString()
    raw.send(begun(1, WATCH), frame(DATA, END_STREAM, 1, message(asked)))
    raw.read_until(lambda each: each.kind == DATA)
    assert memory.used == 0


def test_an_rpc_that_waits_for_a_thread_is_counted_though_it_is_cancelled(
    server: Server, memory: RequestMemory, raw: Raw
) -> None:
    load = pb.RepositoryModelLoadRequest(model_name="linear")
    load.parameters["files"].string_param = "f" * MIB
    asked: list[Callable[[], None]] = []
    transport: Any = server._transport
    with pytest.MonkeyPatch.context() as patch:
        # Threads that are all busy.
        patch.setattr(transport._threads, "submit", asked.append)
        raw.send(begun(1, f"{SERVICE}/RepositoryModelLoad"))
        raw.send(frame(DATA, END_STREAM, 1, compressed(load.SerializeToString())))
        wait_until(lambda: bool(asked))
        raw.send(frame(RST_STREAM, 0, 1, pack(">I", 8)))
        with Stub(server.port) as stub:
            assert_answered(stub, GOOD["linear"])
        assert memory.used > MIB
    transport._threads.submit(asked[0])
