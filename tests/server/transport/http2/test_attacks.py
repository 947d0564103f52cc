"""What takes a server's memory, or its connections, for little: it is bounded, and it ends."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.peers.bystander import nobody_notices
from support.peers.case import Code, goes_on
from support.peers.frames import (
    BODY,
    CALL,
    FIELDS,
    INITIAL_WINDOW_SIZE,
    PREFACE,
    call,
    data,
    fields,
    grpc_message,
    headers,
    literal,
    rst_stream,
    settings,
    window_update,
)
from support.peers.peer import Peer
from support.proc import cpu_s, resident_mib
from support.process import ServerProcess, server_process
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.transports import as_default
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport

LARGE = grpc_message(
    infer_request("linear", {"x": np.zeros((50_000, 3), np.float32)}).SerializeToString()
)
"""600 kB, answered with 400 kB."""


def large_call(stream_id: int) -> bytes:
    parts = [LARGE[at : at + 2**14] for at in range(0, len(LARGE), 2**14)]
    return headers(stream_id) + b"".join(data(stream_id, part, part is parts[-1]) for part in parts)


def rush_to_the_end(peer: Peer, parts: Iterator[bytes]) -> None:
    """Send until the server takes no more: it stops to read, or hangs up."""
    peer.socket.settimeout(2.0)
    for part in parts:
        try:
            peer.socket.sendall(part)
        except (TimeoutError, ConnectionError):
            return
    raise AssertionError("the server took everything")


NO_WINDOW = PREFACE + settings({INITIAL_WINDOW_SIZE: 0})
ALL_WINDOW = PREFACE + settings({INITIAL_WINDOW_SIZE: 2**31 - 1}) + window_update(0, 2**31 - 2**16)
STREAM_PATH = FIELDS[":path"].replace("ModelInfer", "ModelStreamInfer")


@pytest.mark.parametrize("greeting", [NO_WINDOW, ALL_WINDOW], ids=["no window", "all the window"])
def test_answers_that_no_one_reads_are_bounded(process: ServerProcess, greeting: bytes) -> None:
    """400 calls, 160 MB of answers."""
    with nobody_notices(process), Peer(process.port, greet=False) as peer:
        peer.send(greeting)
        rush_to_the_end(peer, (large_call(stream_id) for stream_id in range(1, 801, 2)))


def test_a_stream_whose_answers_no_one_reads_is_bounded(process: ServerProcess) -> None:
    """240 MB of calls on one stream: what is above a window ends it, or its connection."""
    with nobody_notices(process), Peer(process.port, greet=False) as peer:
        peer.send(NO_WINDOW + headers(1, literal(fields(path=STREAM_PATH))))
        parts = [LARGE[at : at + 2**14] for at in range(0, len(LARGE), 2**14)]
        for part in parts * 400:
            peer.send(data(1, part, 0))
        while peer.answers[1].reset is None and peer.next() is not None:
            pass
        if peer.answers[1].reset is None:
            # The connection's window was full first.
            assert peer.goaway is not None
            assert peer.goaway.error_code == Code.FLOW_CONTROL_ERROR
        else:
            assert peer.answers[1].reset == Code.FLOW_CONTROL_ERROR
            goes_on(peer)


def test_messages_that_are_announced_and_never_come_take_no_memory(process: ServerProcess) -> None:
    """1,000 calls that say that they have 60 MiB each."""
    announced = b"\0" + (60 * 2**20).to_bytes(4, "big") + bytes(100)
    with nobody_notices(process), Peer(process.port) as peer:
        peer.send(b"".join(headers(n) + data(n, announced, 0) for n in range(1, 2001, 2)))
        peer.send(headers(2001) + data(2001))
        peer.answer(2001).assert_good()


def test_many_large_calls_of_one_honest_client_are_all_answered(process: ServerProcess) -> None:
    """What holds an attacker up must not hold up for ever who only has much to ask."""
    request = infer_request("linear", {"x": np.zeros((100_000, 3), np.float32)})
    with Stub(process.port) as stub:
        method = stub.method("ModelInfer", pb.ModelInferResponse)
        calls = [method.future(request, timeout=60) for _ in range(32)]
        for waited in calls:
            assert len(waited.result().raw_output_contents[0]) == 100_000 * 8


def test_a_client_that_has_stopped_to_read_is_hung_up_on(
    linear: Path,
) -> None:
    """Bytes that no one takes do not keep a connection for ever, nor does one that ends."""
    config = Config(
        models=linear, port=0, transport=Transport.ASYNCIO, max_connections=1, max_unread_s=0.5
    )
    with Server(config) as server, Peer(server.port, greet=False) as peer:
        peer.send(ALL_WINDOW)
        # Within the windows, and more answers than sockets hold.
        for stream_id in range(1, 41, 2):
            peer.send(large_call(stream_id))
            time.sleep(0.05)
        # There is no room for another as long as this one is there.
        with Stub(server.port) as stub:
            stub.infer(GOOD["linear"].request(), wait_for_ready=True, timeout=60)


def test_large_calls_that_are_cancelled_give_their_memory_back(linear: Path) -> None:
    """Answers without a window have the next calls wait: these are reset, or lost at the end."""
    with Server(Config(models=linear, port=0, transport=Transport.ASYNCIO)) as server:
        transport: Any = server._transport
        for _ in range(3):
            with Peer(server.port, greet=False) as peer:
                peer.send(NO_WINDOW)
                for number in range(1, 33, 2):
                    # No faster than the server lets.
                    time.sleep(0.03)
                    peer.send(large_call(number))
                peer.send(b"".join(rst_stream(number) for number in range(25, 33, 2)))
                peer.send(headers(99) + data(99, LARGE[: 2**14], 0))
                time.sleep(0.1)
        deadline = time.monotonic() + 20
        while transport.state.memory.used and time.monotonic() < deadline:
            time.sleep(0.05)
        assert transport.state.memory.used == 0


def test_who_closes_at_once_leaves_nothing_behind(process: ServerProcess) -> None:
    with nobody_notices(process):
        for number in range(500):
            with Peer(process.port) as peer:
                peer.send(call(1)[: number % 200])


@pytest.mark.slow
def test_a_client_that_is_silent_is_hung_up_on(process: ServerProcess) -> None:
    """The preface has ten seconds to come, and a field section has."""
    with Peer(process.port, greet=False) as silent:
        with Peer(process.port, greet=False) as half, Peer(process.port) as stuck:
            half.send(PREFACE[:10])
            stuck.send(headers(1, CALL[:9], 0))
            for peer in (silent, half, stuck):
                peer.end()
    assert stuck.goaway is not None


@pytest.mark.slow
def test_a_message_that_comes_by_the_byte_has_half_a_minute(process: ServerProcess) -> None:
    with Peer(process.port) as peer:
        peer.socket.settimeout(1.0)
        peer.send(headers(1))
        for at in range(len(BODY)):
            peer.send(data(1, BODY[at : at + 1], 0))
            with suppress(TimeoutError):
                peer.next()
            if peer.answers[1].sections:
                break
        assert peer.answers[1].grpc_status == 4
        peer.socket.settimeout(30.0)
        peer.send(call(3))
        peer.answer(3).assert_good()


IDLE = 9_900
MOST_IDLE_KB = 40


@pytest.mark.slow
def test_idle_connections_take_little_memory(
    linear: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has made a call."""
    with as_default(Transport.ASYNCIO), server_process(linear) as process, ExitStack() as open_ones:
        with Stub(process.port) as stub:
            assert_answered(stub, GOOD["linear"])
            before = resident_mib(process.process.pid)
            for _ in range(IDLE):
                peer = open_ones.enter_context(Peer(process.port))
                peer.send(call(1))
                peer.answer(1).assert_good()
            each_kb = (resident_mib(process.process.pid) - before) * 1024 / IDLE
            cpu = cpu_s(process.process.pid)
            time.sleep(2)
            idle_cpu = (cpu_s(process.process.pid) - cpu) / 2
            assert_answered(stub, GOOD["linear"])
    with capsys.disabled():
        print(f"\n{IDLE:,} idle connections: {each_kb:.1f} kB each, {idle_cpu:.0%} of a core")
    assert each_kb < MOST_IDLE_KB
