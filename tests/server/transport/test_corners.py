"""What few clients send and each transport has to answer alike: its fields, its messages."""

from typing import Any

import grpc
import hpack
import numpy as np
import pytest
from support.http2 import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    REQUEST,
    RST_STREAM,
    Frame,
    block,
    frame,
    request,
)
from support.raw import Raw, linear
from support.served import GOOD

from forwardpass.client import Client, TooLargeError
from forwardpass.server.app import Server
from forwardpass.server.config import Transport

Code = grpc.StatusCode


def ended(each: Frame) -> bool:
    return each.stream_id == 1 and (bool(each.flags & END_STREAM) or each.kind == RST_STREAM)


def code_of(server: Server, *frames: bytes) -> grpc.StatusCode:
    """Send a call on stream 1 and return what it ends with."""
    raw = Raw(server)
    try:
        raw.send(*frames)
        answer = raw.read_until(ended)
    finally:
        raw.close()
    decoder = hpack.Decoder()
    fields: dict[str, str] = {}
    for each in answer:
        if each.kind == HEADERS:
            decoded: Any = decoder.decode(each.payload)  # text, unless raw=True
            fields |= dict(decoded)
    return next(code for code in Code if code.value[0] == int(fields["grpc-status"]))


def call(**fields: str) -> bytes:
    """A good call with further fields."""
    more = tuple((name.replace("_", "-"), value) for name, value in fields.items())
    return request(1, linear(), block(REQUEST + more))


@pytest.mark.parametrize("value", [" a", "a ", "\ta\t", " ", ""])
def test_blanks_around_a_value_mean_nothing(server: Server, value: str) -> None:
    assert code_of(server, call(x_token=value)) is Code.OK


@pytest.mark.parametrize("value", ["0S", " 0S ", "0n", "00000000H", "0 m"])
def test_a_deadline_that_passed_before_the_call_came_ends_it(
    server: Server, transport: Transport, value: str
) -> None:
    codes = {code_of(server, call(grpc_timeout=value))}
    if transport is Transport.GRPCIO:
        # Its core counts whole milliseconds, rounded up: an answer within one is in time.
        for _ in range(50):
            if Code.DEADLINE_EXCEEDED in codes:
                break
            codes.add(code_of(server, call(grpc_timeout=value)))
        codes.discard(Code.OK)
    assert codes == {Code.DEADLINE_EXCEEDED}


@pytest.mark.parametrize("value", ["", "S", "5", "1s", "-1S", "+5S", "1.5S", "S5", "5x", "\u0665S"])
def test_what_is_no_timeout_is_refused(server: Server, value: str) -> None:
    assert code_of(server, call(grpc_timeout=value)) is Code.INTERNAL


@pytest.mark.parametrize("value", ["99999999H", "123456789S", "9" * 5000 + "n", "20 S"])
def test_a_timeout_may_be_long(server: Server, value: str) -> None:
    assert code_of(server, call(grpc_timeout=value)) is Code.OK


@pytest.mark.parametrize("data", [None, b""], ids=["no frame", "an empty frame"])
def test_a_call_without_a_message_is_unimplemented(server: Server, data: bytes | None) -> None:
    head = block(REQUEST)
    frames = (
        frame(HEADERS, END_HEADERS | END_STREAM, 1, head)
        if data is None
        else request(1, data, head)
    )
    assert code_of(server, frames) is Code.UNIMPLEMENTED


def test_a_call_of_two_messages_is_unimplemented(server: Server, transport: Transport) -> None:
    # grpcio answers the first one before its server could know of the second.
    expected = Code.OK if transport is Transport.GRPCIO else Code.UNIMPLEMENTED
    assert code_of(server, request(1, linear() * 2)) is expected


METADATA_BYTES = (7_000, 9_000, 12_000, 15_000)


@pytest.mark.parametrize("size", METADATA_BYTES)
def test_metadata_below_the_limit_are_never_refused(server: Server, size: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer"
        )
        message = GOOD["linear"].request().SerializeToString()
        # gRPC would refuse by chance: the more often, the nearer to the limit.
        for _ in range(20):
            infer(message, metadata=(("x-long", "a" * size),), timeout=20)


def test_metadata_above_the_limit_are_no_full_queue(server: Server) -> None:
    target = f"127.0.0.1:{server.port}"
    with Client(target, token="a" * 20_000, plaintext_token=True) as client:
        with pytest.raises(TooLargeError, match="metadata"):
            client.predict("linear", np.zeros((1, 3), np.float32))
