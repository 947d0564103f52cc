"""Frames and field blocks as bytes, written from the RFCs: nothing here checks what is allowed."""

import struct
from collections.abc import Iterable, Mapping

import hpack

from support.served import GOOD

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
UNKNOWN = 0xB7
"""A type that no RFC defines."""

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6

Field = tuple[str | bytes, str | bytes]

FIELDS: dict[str, str] = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/inference.GRPCInferenceService/ModelInfer",
    ":authority": "peer",
    "content-type": "application/grpc",
    "te": "trailers",
}
"""The fields of a good call."""


def grpc_message(message: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(message)) + message


BODY = grpc_message(GOOD["linear"].request().SerializeToString())
"""The body of a good call, which the model `linear` answers."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"", size: int = -1) -> bytes:
    """A frame; size is the length that it states, if that is not the payload's."""
    stated = len(payload) if size < 0 else size
    return struct.pack(">I", stated)[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


def literal(fields: Iterable[Field], *, first: int = 0x00) -> bytes:
    """A block of fields with literal names and values, which leaves the tables alone.

    first is 0x40 for fields that go into the dynamic table, 0x10 for those never indexed.
    """
    return b"".join(bytes([first]) + text(name) + text(value) for name, value in fields)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return bytes(hpack.hpack.encode_integer(len(data), 7)) + data


def fields(
    extra: Iterable[Field] = (), *, without: Iterable[str] = (), **changed: str
) -> list[Field]:
    """The fields of a good call with others after them; changed: values of pseudo fields."""
    kept = FIELDS | {f":{name}": value for name, value in changed.items()}
    return [(name, value) for name, value in kept.items() if name not in without] + list(extra)


CALL = literal(FIELDS.items())


def headers(stream_id: int = 1, block: bytes = CALL, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream_id, block)


def data(stream_id: int = 1, payload: bytes = BODY, flags: int = END_STREAM) -> bytes:
    return frame(DATA, flags, stream_id, payload)


def call(stream_id: int = 1, block: bytes = CALL, body: bytes = BODY) -> bytes:
    return headers(stream_id, block) + data(stream_id, body)


def padded(payload: bytes, padding: int, stated: int = -1) -> bytes:
    """A payload for a frame with PADDED; stated is the length that it states for its padding."""
    return bytes([padding if stated < 0 else stated]) + payload + bytes(padding)


def priority(depends_on: int = 0, weight: int = 15) -> bytes:
    return struct.pack(">IB", depends_on, weight)


def settings(values: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> bytes:
    pairs = values.items() if isinstance(values, Mapping) else values
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def ping(opaque: bytes = b"12345678", flags: int = 0) -> bytes:
    return frame(PING, flags, 0, opaque)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", increment))


def rst_stream(stream_id: int = 1, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream_id, struct.pack(">I", code))


def goaway(last_stream_id: int = 0, code: int = 0, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream_id, code) + debug)


def continued(stream_id: int, *parts: bytes, flags: int = 0) -> bytes:
    """A field section in HEADERS and a CONTINUATION for each further part."""
    last = len(parts) - 1
    return b"".join(
        frame(
            CONTINUATION if number else HEADERS,
            (0 if number else flags) | (END_HEADERS if number == last else 0),
            stream_id,
            part,
        )
        for number, part in enumerate(parts)
    )
