"""Reflection on the event loop, asked by a client that takes no answers."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from grpc_reflection.v1alpha import reflection_pb2
from support import onnx_files
from support.http2 import DATA, END_STREAM, REQUEST, SETTINGS, WINDOW_UPDATE, block, frame, message
from support.http2 import request as request_frames
from support.raw import Raw
from support.rpc import Stub
from support.served import GOOD, assert_answered

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport

PATH = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
NO_WINDOW = pack(">HI", 4, 0)
QUESTION = message(
    reflection_pb2.ServerReflectionRequest(
        file_containing_symbol="inference.ModelInferRequest"
    ).SerializeToString()
)
MIB = 2**20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")
    with Server(Config(models=tmp_path, port=0, transport=Transport.ASYNCIO)) as server:
        yield server


def begun(stream_id: int) -> bytes:
    return request_frames(stream_id, None, block((dict(REQUEST) | {":path": PATH}).items()))


def test_questions_wait_while_their_answers_are_not_taken(server: Server) -> None:
    transport: Any = server._transport
    asked = 5 * MIB // answer_bytes(server)
    streams = range(1, 9, 2)
    with closing(Raw(server, NO_WINDOW)) as raw, Stub(server.port) as stub:
        for stream_id in streams:
            raw.send(begun(stream_id), frame(DATA, END_STREAM, stream_id, asked * QUESTION))
        most = 0
        end = time.monotonic() + 0.5
        while time.monotonic() < end or most < 4 * MIB:
            assert_answered(stub, GOOD["linear"])
            most = max(
                most, *(each.connection.queued_bytes for each in transport.state.connections)
            )
        assert most < 5 * MIB
        # It may have all its answers once it takes them.
        raw.send(
            frame(SETTINGS, 0, 0, pack(">HI", 4, 2**31 - 1)),
            frame(WINDOW_UPDATE, 0, 0, pack(">I", 2**31 - 1 - 65535)),
        )
        got = 0
        ended: set[int] = set()
        while len(ended) < len(streams):
            each = raw.read_until(lambda each: each.kind == DATA or bool(each.flags & END_STREAM))
            got += sum(len(part.payload) for part in each if part.kind == DATA)
            ended |= {part.stream_id for part in each if part.kind == 1 and part.flags & END_STREAM}
        assert got == len(streams) * asked * answer_bytes(server)
    assert transport.state.memory.used == 0


def answer_bytes(server: Server) -> int:
    """Of one answer, framed."""
    with closing(Raw(server)) as raw:
        raw.send(begun(1), frame(DATA, END_STREAM, 1, QUESTION))
        frames = raw.read_until(lambda each: each.kind == 1 and bool(each.flags & END_STREAM))
        return sum(len(each.payload) for each in frames if each.kind == DATA)
