"""How long the server waits for a request, and for whose."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
from support.raw import Raw, end_of, linear
from support.served import GOOD

from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.transport.event_loop import patience, streams
from forwardpass.server.transport.event_loop.patience import Patience

pytestmark = pytest.mark.usefixtures("shared_trial")

MIB = 2**20


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_files.save(onnx_files.linear(), tmp_path / "models" / "linear.onnx")
    return tmp_path / "models"


@pytest.fixture
def server(models: Path) -> Iterator[Server]:
    with Server(Config(models=models, port=0, transport=Transport.ASYNCIO)) as server:
        yield server


def end_of_error(raw: Raw, stream_id: int) -> bytes:
    """The fields of an answer that is an error."""
    frames = raw.read_until(
        lambda each: each.stream_id == stream_id and each.kind in (HEADERS, RST_STREAM)
    )
    assert frames[-1].kind == HEADERS
    assert frames[-1].flags & END_STREAM
    return frames[-1].payload


def half_of_a_message(stream_id: int, fields: dict[str, str]) -> list[bytes]:
    """A MiB of a message of two, in frames that any server takes."""
    part = [frame(DATA, 0, stream_id, bytes(2**14)) for _ in range(63)]
    begun = request_frames(stream_id, None, block((dict(REQUEST) | fields).items()))
    return [begun, frame(DATA, 0, stream_id, b"\0" + pack(">I", 2 * MIB)), *part]


def test_what_came_quickly_buys_no_silence(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "BODY_S", 0.5)
    transport: Any = server._transport
    with closing(Raw(server)) as raw:
        raw.send(*half_of_a_message(1, {}))
        fields = end_of_error(raw, 1)
        assert b"grpc-status\x014" in fields
        assert b"too slowly" in fields
        assert transport.state.memory.used == 0
        raw.send(request_frames(3, linear()))
        raw.read_until(end_of(3))


def test_a_kib_a_second_is_not_too_slow() -> None:
    it = Patience(100.0)
    came = [0]
    for tick in range(1, 36_000):
        came.append(came[-1] + 103)
        assert not it.over(100.0 + tick / 10, came[-1])


def test_patience_ends_30_s_after_the_last_30_kib() -> None:
    it = Patience(0.0)
    assert not it.over(1.0, 64 * MIB)
    assert not it.over(30.9, 64 * MIB + 30 * 1024 - 1)
    assert it.over(31.1, 64 * MIB + 30 * 1024 - 1)


@given(st.lists(st.tuples(st.floats(0.01, 5), st.integers(0, 20_000)), max_size=60))
def test_who_is_given_up_sent_less_than_30_kib_in_30_s(steps: list[tuple[float, int]]) -> None:
    it, now, came = Patience(0.0), 0.0, 0
    sent = [(now, came)]
    for seconds, size in steps:
        now, came = now + seconds, came + size
        sent.append((now, came))
        if it.over(now, came):
            assert came - max(total for at, total in sent if at < now - 30) < 30 * 1024
            return


def test_a_stream_that_has_to_wait_for_its_answers_is_not_slow(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BODY_S", 0.3)
    monkeypatch.setattr(streams, "AHEAD_BYTES", 1)
    transport: Any = server._transport
    infer = transport.state.turn._infer
    busy: list[Any] = []
    monkeypatch.setattr(transport.state.turn, "_infer", busy.extend)
    large = GOOD["linear"].request()
    large.id = "x" * 2 * MIB
    body = linear() + message(large.SerializeToString())
    with closing(Raw(server, pack(">HI", 4, 2**31 - 1))) as raw:
        raw.send(frame(WINDOW_UPDATE, 0, 0, pack(">I", 2**31 - 1 - 65535)))
        path = {":path": "/inference.GRPCInferenceService/ModelStreamInfer"}
        raw.send(request_frames(1, None, block((dict(REQUEST) | path).items())))
        # All that the stream's window lets through.
        raw.send(*(frame(DATA, 0, 1, body[at : at + 2**14]) for at in range(0, MIB, 2**14)))
        time.sleep(1.5)
        monkeypatch.undo()
        transport._post(lambda: infer(busy))
        answers = raw.read_until(lambda each: each.kind == WINDOW_UPDATE and each.stream_id == 1)
        assert not any(each.kind == HEADERS and each.flags & END_STREAM for each in answers)
        rest = [body[at : at + 2**14] for at in range(MIB, len(body), 2**14)]
        raw.send(*(frame(DATA, 0, 1, part) for part in rest), frame(DATA, END_STREAM, 1))
        end = raw.read_until(end_of(1))[-1]
        assert b"grpc-status\x010" in end.payload


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata"])
def test_a_call_without_a_token_is_refused_before_its_message_is_read(
    models: Path, tmp_path: Path, method: str
) -> None:
    made = new_token("web", ["*"], [Action.INFER])
    tokens = tmp_path / "tokens.jsonl"
    tokens.write_text(made.line)
    config = Config(models=models, port=0, transport=Transport.ASYNCIO, tokens=tokens)
    path = {":path": f"/inference.GRPCInferenceService/{method}"}
    with Server(config) as server, closing(Raw(server)) as raw:
        transport: Any = server._transport
        raw.send(*half_of_a_message(1, path))
        assert b"grpc-status\x0216" in end_of_error(raw, 1)
        assert transport.state.memory.used == 0
        known = {"authorization": f"Bearer {made.token}"}
        raw.send(request_frames(3, linear(), block((dict(REQUEST) | known).items())))
        raw.read_until(end_of(3))
