"""Compressed messages: a few bytes that become many, over both transports."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from struct import pack
from typing import Any

import hpack
import numpy as np
import pytest
from support import onnx_files
from support.http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    REQUEST,
    WINDOW_UPDATE,
    block,
    frame,
    request,
)
from support.raw import Raw
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.wire import infer_request

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport

MIB = 2**20
RESOURCE_EXHAUSTED, INTERNAL = 8, 13
PATHS = {
    name: f"/inference.GRPCInferenceService/{name}"
    for name in ("ModelInfer", "ModelStreamInfer", "ModelReady")
} | {
    "Check": "/grpc.health.v1.Health/Check",
    "List": "/grpc.health.v1.Health/List",
    "reflection": "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[Server]:
    """A server that takes messages of up to 1 MiB."""
    models = tmp_path_factory.mktemp("models")
    onnx_files.save(onnx_files.linear(), models / "linear.onnx")
    onnx_files.save(onnx_files.identity("FP32", ["n", 16]), models / "echo.onnx")
    with Server(Config(models=models, port=0, max_message_bytes=MIB)) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[Stub]:
    with Stub(server.port) as stub:
        yield stub


def large(rows: int) -> bytes:
    x = np.zeros((rows, 16), np.float32)
    return bytes(infer_request("echo", {"x": x}, id="large").SerializeToString())


def sent(server: Server, path: str, *packed: bytes, encoding: str = "gzip") -> tuple[int, int]:
    """Send compressed messages as they are; return how many are answered, and the status code."""
    fields = dict[str, str](REQUEST) | {":path": path, "grpc-encoding": encoding}
    with closing(Raw(server, pack(">HI", 4, 2**24))) as raw:
        raw.send(
            frame(WINDOW_UPDATE, 0, 0, pack(">I", 2**24)), request(1, None, block(fields.items()))
        )
        framed = b"".join(b"\1" + pack(">I", len(each)) + each for each in packed)
        for start in range(0, len(framed), 2**14):
            raw.send(frame(DATA, 0, 1, framed[start : start + 2**14]))
        raw.send(frame(DATA, END_STREAM, 1))
        frames = raw.read_until(lambda each: each.kind == HEADERS and each.flags & END_STREAM > 0)
    decoder = hpack.Decoder()
    headers = [decoder.decode(each.payload) for each in frames if each.kind == HEADERS]
    body = b"".join(each.payload for each in frames if each.kind == DATA)
    answers = 0
    while body:
        body = body[5 + int.from_bytes(body[1:5], "big") :]
        answers += 1
    last: Any = dict(headers[-1])
    return answers, int(last["grpc-status"])


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize("rows", [1, 1000, 15_000])
def test_a_compressed_message_is_answered(server: Server, encoding: str, rows: int) -> None:
    packed = PACKERS[encoding](large(rows))

    assert sent(server, PATHS["ModelInfer"], packed, encoding=encoding) == (1, 0)
    assert sent(server, PATHS["ModelStreamInfer"], packed, packed, encoding=encoding) == (2, 0)


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize("name", PATHS)
def test_what_unpacks_to_more_than_the_limit_is_refused(
    server: Server, stub: Stub, name: str, encoding: str
) -> None:
    packed = PACKERS[encoding](bytes(4 * MIB))

    assert sent(server, PATHS[name], packed, encoding=encoding) == (0, RESOURCE_EXHAUSTED)
    assert_answered(stub, GOOD["linear"])


@pytest.mark.parametrize("name", ["ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("rows", [1000, 15_000])
def test_a_message_that_breaks_off_when_it_is_unpacked_is_refused(
    server: Server, stub: Stub, name: str, rows: int
) -> None:
    packed = gzip.compress(large(rows))[:-9]

    assert sent(server, PATHS[name], packed) == (0, INTERNAL)
    assert_answered(stub, GOOD["linear"])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (gzip.compress(bytes(4 * MIB)), RESOURCE_EXHAUSTED),
        (gzip.compress(large(9000))[:-9], INTERNAL),
    ],
    ids=["too large", "broken off"],
)
def test_a_stream_answers_what_came_before_a_message_that_cannot_be_unpacked(
    server: Server, stub: Stub, bad: bytes, code: int
) -> None:
    good = gzip.compress(large(9000))

    assert sent(server, PATHS["ModelStreamInfer"], good, good, bad, good) == (2, code)
    assert_answered(stub, GOOD["linear"])


def test_a_message_may_begin_as_a_compressed_one_does(stub: Stub) -> None:
    # Field 15, which the protocol does not have: as zlib's header.
    reply = stub.infer(b"\x78\x01" + GOOD["linear"].request().SerializeToString())

    assert reply.model_name == "linear"


@pytest.mark.parametrize(("rows", "flag"), [(1, 1), (15_000, 0)])
def test_a_large_answer_is_not_compressed_on_the_event_loop(
    tmp_path: Path, rows: int, flag: int
) -> None:
    onnx_files.save(onnx_files.identity("FP32", ["n", 16]), tmp_path / "echo.onnx")
    fields = dict[str, str](REQUEST) | {"grpc-encoding": "gzip", "grpc-accept-encoding": "gzip"}
    with (
        Server(Config(models=tmp_path, port=0, transport=Transport.ASYNCIO)) as server,
        closing(Raw(server, pack(">HI", 4, 2**24))) as raw,
    ):
        raw.send(
            frame(WINDOW_UPDATE, 0, 0, pack(">I", 2**24)),
            request(1, None, block(fields.items())),
        )
        packed = gzip.compress(large(rows))
        raw.send(frame(DATA, END_STREAM, 1, b"\1" + pack(">I", len(packed)) + packed))
        frames = raw.read_until(lambda each: each.kind == HEADERS and each.flags & END_STREAM > 0)

    assert next(each.payload[0] for each in frames if each.kind == DATA) == flag
