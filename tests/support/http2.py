"""Frames and field blocks as a client writes them, right or wrong; the server's frames, read."""

from collections.abc import Iterable
from dataclasses import dataclass
from struct import pack, unpack

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 0x20

PATH = "/inference.GRPCInferenceService/ModelInfer"
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return pack(">I", len(payload))[1:] + bytes([kind, flags]) + pack(">I", stream_id) + payload


def hello(settings: bytes = b"") -> bytes:
    """The preface and SETTINGS of a client."""
    return PREFACE + frame(SETTINGS, 0, 0, settings)


def block(fields: Iterable[tuple[str, str]] = REQUEST, *, indexed: bool = False) -> bytes:
    """A field block of literals; indexed: they go into the dynamic table."""
    if indexed:
        return hpack.Encoder().encode(list(fields), huffman=False)
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + _value(value) for name, value in fields
    )


def _value(value: str) -> bytes:
    data = value.encode()
    return bytes(hpack.hpack.encode_integer(len(data), 7)) + data


def request(stream_id: int, data: bytes | None = b"", fields: bytes | None = None) -> bytes:
    """A whole request; data None: without an end."""
    section = block() if fields is None else fields
    head = frame(HEADERS, END_HEADERS, stream_id, section)
    return head if data is None else head + frame(DATA, END_STREAM, stream_id, data)


def message(data: bytes) -> bytes:
    """A gRPC message, framed."""
    return b"\0" + pack(">I", len(data)) + data


@dataclass(frozen=True)
class Frame:
    """A frame of the server."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def error(self) -> int:
        """The code of a RST_STREAM or a GOAWAY."""
        start = 4 if self.kind == GOAWAY else 0
        return int(unpack(">I", self.payload[start : start + 4])[0])

    @property
    def number(self) -> int:
        """The first 32 bits of the payload."""
        return int(unpack(">I", self.payload[:4])[0])


def read_frames(data: bytes) -> list[Frame]:
    """Return the whole frames with which data begins."""
    frames = []
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        if len(data) < 9 + size:
            break
        frames.append(Frame(data[3], data[4], unpack(">I", data[5:9])[0], data[9 : 9 + size]))
        data = data[9 + size :]
    return frames
