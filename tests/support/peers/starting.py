"""RFC 9113, sections 3 to 4: how a connection begins, frames and field sections as such."""

import time

from hyperframe.frame import SettingsFrame

from forwardpass.server.transport.http2.limits import ConnectionLimits
from support.peers.case import Case, Code, answers, either, goaway, goes_on, reset
from support.peers.frames import (
    ACK,
    CALL,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    PING,
    PREFACE,
    PRIORITY,
    SETTINGS,
    UNKNOWN,
    WINDOW_UPDATE,
    call,
    continued,
    data,
    frame,
    grpc_message,
    headers,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)
from support.peers.peer import Peer

LARGEST = ConnectionLimits().max_frame_bytes


def drips(text: bytes) -> tuple[bytes, ...]:
    return tuple(text[at : at + 1] for at in range(len(text)))


def pause(_: Peer) -> None:
    """Let what was sent arrive apart from what comes next."""
    time.sleep(0.02)


def settings_come_first(peer: Peer) -> None:
    first = peer.next()
    assert isinstance(first, SettingsFrame)
    assert "ACK" not in first.flags
    goes_on(peer)


def closes(peer: Peer) -> None:
    """The connection ends; what is no HTTP/2 needs no GOAWAY."""
    peer.end()
    assert peer.goaway is None or peer.goaway.error_code == Code.PROTOCOL_ERROR


PREFACES = [
    Case("3.4", "the server's first frame is SETTINGS", (), settings_come_first),
    Case("3.4", "no preface but HTTP/1", (b"GET / HTTP/1.1\r\n\r\n",), closes, greet=False),
    Case("3.4", "no preface but noise", (bytes(range(100, 150)),), closes, greet=False),
    Case(
        "3.4",
        "a preface whose last byte is wrong",
        (PREFACE[:-1] + b"!" + settings(),),
        closes,
        greet=False,
    ),
    Case(
        "3.4",
        "PING instead of the first SETTINGS",
        (PREFACE + ping(),),
        goaway(Code.PROTOCOL_ERROR),
        greet=False,
    ),
    Case(
        "3.4",
        "a call instead of the first SETTINGS",
        (PREFACE + call(),),
        goaway(Code.PROTOCOL_ERROR),
        greet=False,
    ),
    Case(
        "3.4",
        "an ACK instead of the first SETTINGS",
        (PREFACE + frame(SETTINGS, ACK, 0),),
        goaway(Code.PROTOCOL_ERROR),
        greet=False,
    ),
    Case(
        "3.4",
        "the first SETTINGS on a stream",
        (PREFACE + frame(SETTINGS, 0, 1),),
        goaway(Code.PROTOCOL_ERROR),
        greet=False,
    ),
    Case(
        "3.4",
        "calls right behind the preface, before the server's SETTINGS are read",
        (PREFACE + settings() + call(1) + call(3),),
        answers(1, 3),
        greet=False,
    ),
    Case(
        "3.4",
        "everything byte by byte",
        drips(PREFACE + settings() + call(1)),
        answers(1),
        greet=False,
    ),
    Case("3.4", "the preface a second time", (PREFACE,), goaway(Code.FRAME_SIZE_ERROR)),
]

FRAMES = [
    Case("4.1", "a frame of an unknown type on stream 0", (frame(UNKNOWN, 0, 0, b"x"),), goes_on),
    Case(
        "4.1",
        "a frame of an unknown type inside a request",
        (headers() + frame(UNKNOWN, 0xFF, 1, b"x") + data(),),
        answers(1),
    ),
    Case("4.1", "a frame of an unknown type on an idle stream", (frame(UNKNOWN, 0, 9),), goes_on),
    Case(
        "4.1",
        "flags that no one defined",
        (
            headers(flags=END_HEADERS | 0xD2)
            + data(flags=END_STREAM | 0xF6)
            + frame(PING, 0xFE, 0, bytes(8))
            + frame(WINDOW_UPDATE, 0xFF, 0, b"\0\0\0\1"),
        ),
        answers(1),
    ),
    Case(
        "4.1",
        "the reserved bit before the stream's id",
        (headers(2**31 + 1) + data(2**31 + 1),),
        answers(1),
    ),
    Case(
        "4.2",
        "DATA of the largest size",
        (headers() + data(1, grpc_message(bytes(LARGEST))[:LARGEST], 0) + rst_stream(),),
        goes_on,
    ),
    Case(
        "4.2",
        "DATA above the largest size",
        (headers() + data(1, bytes(LARGEST + 1)),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "4.2",
        "HEADERS above the largest size",
        (headers(1, CALL + bytes(LARGEST)),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "4.2",
        "SETTINGS above the largest size",
        (frame(SETTINGS, 0, 0, bytes(6 * (LARGEST // 6 + 1))),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "4.2",
        "an unknown frame above the largest size",
        (frame(UNKNOWN, 0, 0, bytes(LARGEST + 1)),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "4.2",
        "a frame that says it has 16 MiB ends the connection before they come",
        (frame(DATA, 0, 1, b"", size=2**24 - 1),),
        goaway(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "4.2",
        "an unknown frame of the largest size",
        (frame(UNKNOWN, 0, 0, bytes(LARGEST)),),
        goes_on,
    ),
    Case(
        "4.2",
        "a message in DATA of the largest size that every peer takes and one byte",
        (
            headers()
            + data(1, grpc_message(bytes(2**14))[: 2**14], 0)
            + data(1, grpc_message(bytes(2**14))[2**14 :], 0)
            + rst_stream(),
        ),
        goes_on,
    ),
    Case(
        "4.2",
        "HEADERS larger than a field section may be",
        (headers(1, CALL + bytes(ConnectionLimits().max_block_bytes)),),
        goaway(Code.ENHANCE_YOUR_CALM),
    ),
    Case(
        "4.2",
        "frames cut anywhere by the network",
        (call()[:4], pause, call()[4:40], pause, call()[40:-5], pause, call()[-5:]),
        answers(1),
    ),
]

INSIDE = {
    "DATA": data(1, b""),
    "HEADERS": headers(3),
    "HEADERS of the same stream": headers(1),
    "PRIORITY": frame(PRIORITY, 0, 1, priority()),
    "RST_STREAM": rst_stream(1),
    "SETTINGS": settings(),
    "PING": ping(),
    "GOAWAY": frame(GOAWAY, 0, 0, bytes(8)),
    "WINDOW_UPDATE": window_update(0, 1),
    "an unknown frame": frame(UNKNOWN, 0, 1),
    "CONTINUATION of another stream": frame(CONTINUATION, END_HEADERS, 3, CALL[20:]),
    "CONTINUATION of stream 0": frame(CONTINUATION, END_HEADERS, 0, CALL[20:]),
}

FIELD_SECTIONS = [
    Case(
        "4.3",
        f"{what} inside a field section",
        (headers(1, CALL[:20], 0) + inside,),
        goaway(Code.PROTOCOL_ERROR),
    )
    for what, inside in INSIDE.items()
] + [
    Case(
        "4.3",
        "a field section in three frames, cut inside of fields",
        (continued(1, CALL[:3], CALL[3:50], CALL[50:]) + data(),),
        answers(1),
    ),
    Case(
        "4.3",
        "a field section with empty frames at its ends",
        (continued(1, b"", CALL, b"") + data(),),
        answers(1),
    ),
    Case(
        "4.3",
        "a field section that does not decode",
        (headers(1, b"\x80"),),
        goaway(Code.COMPRESSION_ERROR),
    ),
    Case(
        "4.3",
        "trailers that do not decode",
        (
            headers()
            + data(flags=0)
            + headers(1, b"\xff\xff\xff\xff\x7f", END_HEADERS | END_STREAM),
        ),
        goaway(Code.COMPRESSION_ERROR),
    ),
    Case(
        "4.3",
        "a field section of nothing is no request",
        (headers(1, b""),),
        reset(Code.PROTOCOL_ERROR),
    ),
    Case(
        "4.3",
        "END_STREAM on HEADERS holds for the whole field section",
        (continued(1, CALL[:9], CALL[9:], flags=END_STREAM) + data(1),),
        either(reset(Code.STREAM_CLOSED), goaway(Code.STREAM_CLOSED), goes_on),
    ),
    Case(
        "4.3",
        "SETTINGS between a request's field section and its data",
        (headers() + settings({ENABLE_PUSH: 0}) + data(),),
        answers(1),
    ),
]

CASES = [*PREFACES, *FRAMES, *FIELD_SECTIONS]
