"""The server on asyncio over real sockets: what only a socket shows."""

import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
from support import onnx_files
from support.certificates import write_self_signed
from support.http2 import (
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    block,
    frame,
    hello,
    message,
    request,
)
from support.process import server_process
from support.raw import Raw, end_of, linear
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.transports import as_default
from support.wire import arrays, infer_request

from forwardpass.client import Client
from forwardpass.models import Network, publish
from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits
from forwardpass.server.transport.event_loop import patience
from forwardpass.server.transport.http2.errors import ErrorCode

pytestmark = pytest.mark.usefixtures("shared_trial")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    onnx_files.save(onnx_files.linear(), root / "linear.onnx")
    onnx_files.save(onnx_files.slow(), root / "slow.onnx")
    publish(Network.chain([1, 4_000], name="wide"), root)
    onnx_files.save(onnx_files.identity("FP32", ["n", 16]), root / "echo.onnx")
    return root


def configured(models: Path, **settings: Any) -> Config:
    return Config(
        models=models,
        port=0,
        transport=Transport.ASYNCIO,
        limits=Limits(general=True),
        **settings,
    )


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with Server(configured(models)) as server:
        yield server


@pytest.fixture
def raw(server: Server) -> Iterator[Raw]:
    with closing(Raw(server)) as raw:
        yield raw


def statistics(stub: Stub, name: str) -> dict[int, int]:
    request = pb.ModelStatisticsRequest(name=name)
    reply = stub.call("ModelStatistics", request, pb.ModelStatisticsResponse)
    return {
        int(each.batch_size): int(each.compute_infer.count)
        for each in reply.model_stats[0].batch_stats
    }


def test_calls_that_are_read_in_one_turn_are_one_run(server: Server, raw: Raw) -> None:
    with Stub(server.port) as stub:
        assert_answered(stub, GOOD["linear"])
        before = statistics(stub, "linear")
        raw.send(*(request(2 * number + 1, linear()) for number in range(20)))
        raw.read_until(end_of(39))
        after = statistics(stub, "linear")
    assert sum(after.values()) - sum(before.values()) <= 2
    assert max(after) == 40


def test_an_answer_is_what_the_model_says(raw: Raw) -> None:
    raw.send(request(1, linear()))
    frames = [each for each in raw.read_until(end_of(1)) if each.stream_id == 1]
    assert [each.kind for each in frames] == [HEADERS, DATA, HEADERS]
    reply = pb.ModelInferResponse.FromString(frames[1].payload[5:])
    np.testing.assert_array_equal(arrays(reply)["y"], GOOD["linear"].answer["y"])


def test_a_refused_call_whose_message_comes_in_parts_takes_no_other_call_along(raw: Raw) -> None:
    unknown = block((name, value.replace("ModelInfer", "None")) for name, value in REQUEST)
    sent = frame(DATA, 1, 1, bytes(20_000))
    raw.send(request(1, None, unknown), sent[:10_000])
    raw.read_until(end_of(1))
    raw.send(sent[10_000:], request(3, linear()))
    (answer,) = (each for each in raw.read_until(end_of(3)) if each.kind == DATA)
    assert answer.stream_id == 3


def test_a_large_message_is_answered_and_its_memory_returned(server: Server) -> None:
    x = np.random.default_rng(0).standard_normal((1_000_000, 16)).astype(np.float32)
    with Client(f"127.0.0.1:{server.port}") as client:
        np.testing.assert_array_equal(client.predict("echo", x, timeout_s=60)["y"], x)
    transport: Any = server._transport
    assert transport.state.memory.used == 0


def test_requests_on_their_way_take_only_so_much_memory(models: Path) -> None:
    with Server(configured(models)) as server, closing(Raw(server)) as raw:
        transport: Any = server._transport
        transport.state.memory._limit = 3 * 2**20
        half = b"\0" + pack(">I", 2**21)
        for stream_id in (1, 3, 5, 7):
            raw.send(request(stream_id, None))
            raw.send(frame(DATA, 0, stream_id, half))
            for _ in range(62):
                raw.send(frame(DATA, 0, stream_id, bytes(16384)))
        (refused,) = (
            each
            for each in raw.read_until(lambda each: each.kind == HEADERS)
            if each.kind == HEADERS
        )
        assert b"back off" in refused.payload
        # What is let go makes room.
        raw.send(*(frame(RST_STREAM, 0, n, pack(">I", 8)) for n in (1, 3, 5)))
        raw.send(request(9, linear()))
        raw.read_until(end_of(9))
        assert transport.state.memory.used == 0


def test_a_request_that_does_not_come_is_given_up(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BODY_S", 0.3)
    with Server(configured(models)) as server, closing(Raw(server)) as raw:
        raw.send(request(1, None), frame(DATA, 0, 1, linear()[:20]))
        raw.send(request(3, None))
        ended = {each.stream_id for each in raw.read_until(lambda each: each.kind == RST_STREAM)}
        ended |= {each.stream_id for each in raw.read_until(lambda each: each.kind == RST_STREAM)}
        assert {1, 3} <= ended
        raw.send(request(5, linear()))
        raw.read_until(end_of(5))


def test_a_client_that_takes_no_answers_waits_and_the_others_do_not(server: Server) -> None:
    # Its windows are as wide as they get, so that the socket is what is full.
    wide = pack(">HI", 4, 2**31 - 1)
    few = infer_request("wide", {"x": np.ones((16, 1), np.float32)}).SerializeToString()
    transport: Any = server._transport
    with closing(Raw(server, wide)) as slow, Stub(server.port) as stub:
        slow.send(frame(WINDOW_UPDATE, 0, 0, pack(">I", 2**31 - 1 - 65535)))
        count = 1000
        slow.send(*(request(2 * number + 1, message(few)) for number in range(count)))
        for _ in range(20):
            assert_answered(stub, GOOD["linear"])
            time.sleep(0.02)
        while max(map(unwritten, transport.state.connections)) < 2**20:
            assert_answered(stub, GOOD["linear"])
        time.sleep(0.2)
        # Those of the first turns, when nothing is known of their size, and not all 256 MB.
        assert max(map(unwritten, transport.state.connections)) < 96 * 2**20
        got = 0
        ends = 0
        while ends < count:
            for each in slow.read_until(lambda each: each.kind in (DATA, HEADERS)):
                got += len(each.payload) if each.kind == DATA else 0
                ends += each.kind == HEADERS and bool(each.flags & 1)
        assert got > count * 16 * 4_000 * 4


def unwritten(connection: Any) -> int:
    """Bytes of answers in the server's memory that the socket does not take."""
    return int(connection.connection.queued_bytes + connection._transport.get_write_buffer_size())


def test_a_connection_of_age_is_asked_to_leave_and_no_call_is_lost(models: Path) -> None:
    with Server(configured(models, max_connection_age_s=0.3)) as server:
        with closing(Raw(server)) as raw:
            leaving = raw.read_until(lambda each: each.kind == GOAWAY)[-1]
            assert (leaving.error, leaving.number) == (ErrorCode.NO_ERROR, 2**31 - 1)
            with pytest.raises((EOFError, ConnectionError)):
                raw.read_until(lambda _: False)
        with Stub(server.port) as stub:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert_answered(stub, GOOD["linear"])
                time.sleep(0.001)


def test_a_server_that_stops_answers_what_it_took_and_says_goaway(models: Path) -> None:
    with Server(configured(models)) as server, closing(Raw(server)) as raw:
        slow = infer_request("slow", {"turns": np.array(5000)}).SerializeToString()
        raw.send(request(1, message(slow)), frame(PING, 0, 0, b"arrived!"))
        raw.read_until(lambda each: each.kind == PING)
        stopper = threading.Thread(target=server.stop, args=(60.0,))
        stopper.start()
        frames = raw.read_until(end_of(1))
        assert any(each.kind == GOAWAY for each in frames)
        assert any(each.kind == DATA for each in frames)
        stopper.join(20)
        assert not stopper.is_alive()


def test_a_slow_reader_has_all_of_its_answer_from_a_process_that_ends(models: Path) -> None:
    rows = infer_request("wide", {"x": np.ones((560, 1), np.float32)}).SerializeToString()
    widest = pack(">HI", 4, 2**31 - 1)
    with (
        as_default(Transport.ASYNCIO),
        server_process(models) as process,
        closing(Raw(process, widest, receive_bytes=2**15)) as slow,
    ):
        slow.send(frame(WINDOW_UPDATE, 0, 0, pack(">I", 2**31 - 1 - 65535)))
        slow.send(request(1, message(rows)))
        slow.read_until(lambda each: each.kind == HEADERS)

        process.send(signal.SIGTERM)

        def at_leisure(each: Frame) -> bool:
            time.sleep(0.004)
            return end_of(1)(each)

        got = [each for each in slow.read_until(at_leisure) if each.kind == DATA]
        assert sum(len(each.payload) for each in got) > 560 * 4_000 * 4
        assert process.exit_code(within_s=30) == 0


def test_a_broken_peer_gets_the_reason_and_is_closed_and_the_others_go_on(
    server: Server, raw: Raw
) -> None:
    with closing(Raw(server)) as broken:
        broken.send(frame(SETTINGS, 0, 7))
        goaway = broken.read_until(lambda each: each.kind == GOAWAY)[-1]
        assert goaway.error == ErrorCode.PROTOCOL_ERROR
        with pytest.raises((EOFError, ConnectionError)):
            broken.read_until(lambda _: False)
    raw.send(request(1, linear()))
    raw.read_until(end_of(1))


def test_a_client_that_vanishes_leaves_nothing_behind(models: Path) -> None:
    with Server(configured(models)) as server:
        transport: Any = server._transport
        for _ in range(10):
            raw = Raw(server)
            raw.send(request(1, linear()), request(3, None), frame(DATA, 0, 3, linear()[:9]))
            raw.close()
        deadline = time.monotonic() + 10
        while transport.state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert transport.state.memory.used == 0
        assert not transport.state.busy


def test_tls_without_alpn_is_no_http2(models: Path, tmp_path: Path) -> None:

    certificate, key = write_self_signed(tmp_path)
    with Server(configured(models, tls_cert=certificate, tls_key=key)) as server:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        for protocols, spoken in (([], False), (["http/1.1"], False), (["h2"], True)):
            if protocols:
                context.set_alpn_protocols(protocols)
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
                try:
                    with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
                        wrapped.sendall(hello())
                        answer = wrapped.recv(100)
                except (ssl.SSLError, ConnectionError):
                    answer = b""
            assert bool(answer) is spoken


def test_calls_of_who_does_not_read_take_no_room_from_others(models: Path) -> None:
    wide = message(infer_request("wide", {"x": np.ones((1, 1), np.float32)}).SerializeToString())
    with (
        Server(configured(models, max_backlog=10)) as server,
        closing(Raw(server, receive_bytes=4096)) as raw,
        Stub(server.port) as stub,
    ):
        transport: Any = server._transport
        state = transport.state
        deadline = time.monotonic() + 20
        numbers = iter(range(1, 2000, 2))
        # One by one, for as many as there are at once would be above the limit.
        while sum(len(each.calls) for each in state.connections if each.connection.holding) < 20:
            assert time.monotonic() < deadline
            raw.send(request(next(numbers), wide))
            time.sleep(0.002)
        for _ in range(5):
            assert_answered(stub, GOOD["linear"])
        assert state.waiting == 0
    assert state.waiting == state.batch_waiting == 0
