"""What requests take of the server's memory, whole or not, until they are answered."""

import gzip
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import onnx
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
    Frame,
    block,
    frame,
    message,
)
from support.http2 import request as request_frames
from support.raw import Raw, end_of, linear
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.waiting import eventually
from support.wire import infer_request

from forwardpass.client import Client, OverloadedError
from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits
from forwardpass.server.transport.event_loop import memory as memory_module
from forwardpass.server.transport.event_loop import streams
from forwardpass.server.transport.event_loop.memory import RequestMemory
from forwardpass.server.transport.event_loop.server import AsyncioServer
from forwardpass.server.transport.event_loop.state import ServerState

pytestmark = pytest.mark.usefixtures("shared_trial")

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
    """The server's, of which requests have 3.5 MiB; nothing of it may be left in use."""
    transport: Any = server._transport
    memory: RequestMemory = transport.state.memory
    monkeypatch.setattr(memory, "_limit", 7 * MIB // 2)
    # The answers have the ids of their requests, and would take as much.
    monkeypatch.setattr(memory, "promise_all", lambda _: True)
    monkeypatch.setattr(memory, "keep", lambda _: None)
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
    data = np.random.default_rng(0).bytes(MIB)
    framed = compressed(data) if packed else message(data)
    # One that is compressed is unpacked once the end has come.
    size = len(framed) - 5
    for stream_id in (1, 3, 5, 7):
        raw.send(begun(stream_id, f"{SERVICE}/ModelInfer"))
        for start in range(0, len(framed), 2**14):
            raw.send(frame(DATA, 0, stream_id, framed[start : start + 2**14]))
        if stream_id < 7:
            wait_until(lambda: memory.used == (stream_id + 1) // 2 * size)  # noqa: B023
    assert assert_refused(raw, b"back off") == 7
    assert memory.used == 3 * size
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
    request = slow(1000, 100_000)
    raw.send(request_frames(1, message(request)))
    wait_until(lambda: memory.used == len(request))
    raw.read_until(end_of(1))
    assert memory.used == 0


def test_whole_messages_that_come_in_one_read_are_refused_beyond_the_memory(
    memory: RequestMemory, raw: Raw
) -> None:
    request = slow(5000, 100_000)
    count = 7 * MIB // 2 // len(request) + 1
    raw.send(*(request_frames(2 * n + 1, message(request)) for n in range(count)))
    assert assert_refused(raw, b"back off") == 2 * count - 1
    raw.close()


def test_what_a_message_unpacks_to_is_counted_until_it_is_answered(
    memory: RequestMemory, raw: Raw
) -> None:
    request = slow(5000, MIB)
    for stream_id in (1, 3, 5):
        raw.send(begun(stream_id, f"{SERVICE}/ModelInfer"))
        raw.send(frame(DATA, END_STREAM, stream_id, compressed(request)))
    wait_until(lambda: memory.used == 3 * len(request))
    raw.send(begun(7, f"{SERVICE}/ModelInfer"))
    raw.send(frame(DATA, END_STREAM, 7, compressed(request)))
    assert assert_refused(raw, b"back off") == 7
    raw.close()


def test_calls_of_a_stream_are_counted_until_they_are_answered(
    memory: RequestMemory, raw: Raw
) -> None:
    raw.send(begun(1, f"{SERVICE}/ModelStreamInfer"))
    for _ in range(4):
        raw.send(frame(DATA, 0, 1, compressed(slow(5000, MIB))))
    assert_refused(raw, b"back off")


def test_a_stream_of_large_messages_is_read_no_faster_than_it_is_answered(
    server: Server, memory: RequestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "AHEAD_BYTES", MIB)
    with Stub(server.port) as stub:
        requests = [slow(30, MIB) for _ in range(12)]
        answers = list(stub.stream(requests))
    assert [answer.error_message for answer in answers] == [""] * 12
    assert memory.used == 0


def test_answers_of_a_stream_that_wait_for_others_hold_no_request_and_count(
    memory: RequestMemory, raw: Raw
) -> None:
    raw.send(begun(1, f"{SERVICE}/ModelStreamInfer"))
    raw.send(frame(DATA, 0, 1, compressed(slow(3000, 0))))
    large = GOOD["linear"].request()
    large.id = "y" * 100_000
    for number in range(1, 13):
        # One after the other: the first call is still under way, and they are answered.
        raw.send(frame(DATA, 0, 1, compressed(large.SerializeToString())))
        wait_until(lambda: number * 100_000 < memory.used < number * 100_000 + 20_000)  # noqa: B023
    raw.send(frame(DATA, END_STREAM, 1, b""))
    raw.close()


def test_an_answer_behind_a_message_that_ends_the_stream_is_not_kept(
    memory: RequestMemory, raw: Raw
) -> None:
    """The first call is still under way when the third is answered, which nobody will send."""
    broken = bytearray(compressed(bytes(200_000)))
    broken[-8] ^= 1  # Its checksum.
    large = GOOD["linear"].request()
    large.id = "y" * 100_000
    raw.send(begun(1, f"{SERVICE}/ModelStreamInfer"))
    raw.send(frame(DATA, 0, 1, compressed(slow(1, 0)) + compressed(slow(3000, 0))))
    raw.send(frame(DATA, 0, 1, bytes(broken) + compressed(large.SerializeToString())))
    end = raw.read_until(end_of(1))[-1]
    assert b"grpc-status\x0213" in end.payload


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
    load.parameters["files"].string_param = "f" * 60_000
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
        assert memory.used > 60_000
    transport._threads.submit(asked[0])


def served(models: Path, **settings: Any) -> Server:
    """A server of a model whose call of `ROWS` has an answer of 512 KiB, and 4 MiB for them."""
    onnx_files.save(onnx_files.linear(), models / "linear.onnx")
    return Server(
        Config(
            models=models,
            port=0,
            transport=Transport.ASYNCIO,
            max_message_bytes=MIB,
            max_request_memory=4 * MIB,
            **settings,
        )
    )


def state_of(server: Server) -> ServerState:
    assert isinstance(server._front.transport, AsyncioServer)
    return server._front.transport.state


def unread(state: ServerState) -> int:
    return sum(each.unread for each in list(state.connections))


ROWS = infer_request("linear", {"x": np.ones((2**16, 3), np.float32)}).SerializeToString()
NO_WINDOW = pack(">HI", 4, 0)


def test_answers_that_nobody_reads_count_until_their_connection_ends(tmp_path: Path) -> None:
    with served(tmp_path) as server, ExitStack() as stack:
        state = state_of(server)
        peers = [stack.enter_context(closing(Raw(server, NO_WINDOW))) for _ in range(5)]
        for number, peer in enumerate(peers, 1):
            # Of each answer nothing may be sent.
            peer.send(request_frames(1, message(ROWS)))
            eventually(lambda: unread(state) > number * MIB // 2)  # noqa: B023
        eventually(lambda: state.memory.promised == 0)
        assert 5 * MIB // 2 < state.memory.unread < 5 * MIB // 2 + 2**16
        for peer in peers:
            peer.close()
        # Whoever reads is answered, and leaves nothing.
        with Stub(server.port) as stub:
            for _ in range(3):
                assert_answered(stub, GOOD["linear"])
        eventually(lambda: state.memory.unread == 0)


def test_no_burst_of_calls_exceeds_the_memory_of_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted at every promise, while nobody reads: 64 answers of 512 KiB, of which 4 MiB fit."""
    seen: list[int] = []
    promise = RequestMemory.promise

    def counted(memory: RequestMemory, size: int) -> bool:
        given = promise(memory, size)
        seen.append(memory.unread + memory.promised)
        return given

    monkeypatch.setattr(RequestMemory, "promise", counted)
    with served(tmp_path, workers=4) as server, ExitStack() as stack:
        state = state_of(server)
        peers = [stack.enter_context(closing(Raw(server, NO_WINDOW))) for _ in range(32)]
        for stream_id in (1, 3):
            for peer in peers:
                peer.send(request_frames(stream_id, message(ROWS)))
        codes = []
        for peer in peers:
            ends: set[int] = set()
            # An answer has its fields though its data may not be sent; an error only trailers.
            while len(ends) < 2:
                (*_, field) = peer.read_until(lambda each: each.kind == HEADERS)
                ends.add(field.stream_id)
                codes.append(b"grpc-status\x018" in field.payload)
                if not codes[-1]:
                    # The next call of this connection may wait for this answer.
                    break
        answered = codes.count(False)
        assert 1 <= answered <= 7
        assert codes.count(True) >= 32
        assert max(seen) <= 4 * MIB
        assert len(state.connections) == 32


def test_answers_that_are_not_read_for_long_leave_their_memory_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_FAIR_S", 1.0)
    with served(tmp_path) as server, ExitStack() as stack:
        state = state_of(server)
        for number in range(1, 7):
            peer = stack.enter_context(closing(Raw(server, NO_WINDOW)))
            peer.send(request_frames(1, message(ROWS)))
            eventually(lambda: unread(state) > number * MIB // 2)  # noqa: B023
        with Client(f"127.0.0.1:{server.port}") as client:

            def answered() -> bool:
                # Rejected at first, with the time to come back.
                try:
                    client.predict("linear", np.ones((2**16, 3), np.float32))
                except OverloadedError:
                    return False
                return True

            eventually(answered)
        eventually(lambda: len(state.connections) <= 5)


def test_an_answer_above_the_limit_has_room_alone(tmp_path: Path) -> None:
    memory = RequestMemory(MIB)
    assert memory.promise(2 * MIB)
    assert not memory.promise(1)
    memory.keep(2 * MIB)
    # Nobody has it any more.
    memory.look()
    assert memory.promise(2 * MIB)


def test_a_model_whose_answers_have_any_size_is_promised_what_they_took(tmp_path: Path) -> None:
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("ConstantOfShape", ["n"], ["y"])],
            "any",
            [onnx.helper.make_tensor_value_info("n", onnx.TensorProto.INT64, [1])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["m"])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx_files.save(model, tmp_path / "any.onnx")
    with served(tmp_path, limits=Limits(general=True)) as server, ExitStack() as stack:
        state = state_of(server)
        asked = infer_request("any", {"n": np.array([2**17])}).SerializeToString()
        for _ in range(12):
            peer = stack.enter_context(closing(Raw(server, NO_WINDOW)))
            peer.send(request_frames(1, message(asked)))
            # Its end, or its beginning.
            peer.read_until(lambda each: each.kind == HEADERS)
        assert 3 * MIB <= unread(state) <= 4 * MIB


@pytest.mark.parametrize("what", ["nothing", "one byte at a time"])
def test_an_answer_that_is_taken_too_slowly_is_ended(tmp_path: Path, what: str) -> None:
    with served(tmp_path, max_unread_s=1.0) as server:
        state = state_of(server)
        with closing(Raw(server, NO_WINDOW)) as raw:
            raw.send(request_frames(1, message(ROWS)))
            ended: list[Frame] = []

            def reset() -> bool:
                try:
                    if what != "nothing":
                        raw.send(frame(WINDOW_UPDATE, 0, 1, pack(">I", 1)))
                    ended.extend(raw.read_until(lambda _: True))
                except (EOFError, ConnectionError):
                    return True
                return any(each.kind == RST_STREAM for each in ended)

            raw.socket.settimeout(20)
            eventually(reset)
        eventually(lambda: not state.connections)


def test_who_takes_one_answer_and_leaves_another_loses_that_one(tmp_path: Path) -> None:
    with served(tmp_path, max_unread_s=1.0) as server, closing(Raw(server, NO_WINDOW)) as raw:
        raw.send(request_frames(1, message(ROWS)))
        raw.read_until(lambda each: each.kind == HEADERS)
        raw.send(frame(WINDOW_UPDATE, 0, 0, pack(">I", 2**30)))
        stream_id, seen = 3, 0
        while not seen:
            # Small answers, one after the other.
            time.sleep(0.01)
            raw.send(*asked(stream_id))
            for each in raw.read_until(lambda each: each.kind == RST_STREAM or end(each)):
                seen += each.kind == RST_STREAM and each.stream_id == 1
            stream_id += 2
        # The connection goes on.
        raw.send(*asked(stream_id))
        raw.read_until(end_of(stream_id))


def asked(stream_id: int) -> tuple[bytes, ...]:
    """A small call with a window for its answer."""
    return (
        request_frames(stream_id, None),
        frame(WINDOW_UPDATE, 0, stream_id, pack(">I", 1000)),
        frame(DATA, END_STREAM, stream_id, linear()),
    )


def end(each: Frame) -> bool:
    return each.kind == HEADERS and bool(each.flags & END_STREAM)
