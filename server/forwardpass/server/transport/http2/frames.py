"""Frames as bytes: their layout, types and flags (RFC 9113, sections 4 and 6)."""

from enum import IntEnum, IntFlag
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
DEFAULT_FRAME_BYTES = 2**14
"""Maximum size of a frame's payload, in bytes, unless SETTINGS say otherwise."""
DEFAULT_WINDOW = 2**16 - 1
MAX_WINDOW = 2**31 - 1
MAX_STREAM_ID = 2**31 - 1


class FrameType(IntEnum):
    """The known frame types; others are ignored."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


class Flag(IntFlag):
    """Frame flags; ACK and END_STREAM share a bit, on different frame types."""

    ACK = 0x1
    END_STREAM = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class SettingId(IntEnum):
    """Ids of settings; unknown ones are ignored."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


_HEADER = Struct(">IBI")
"""A frame header; length and type share the first word."""
_SETTING = Struct(">HI")
_U32 = Struct(">I")

read_header = _HEADER.unpack_from
"""Buffer, position -> length << 8 | type, flags, stream id with the reserved bit."""
pack_header = _HEADER.pack
pack_start = Struct(">IB").pack
"""Packs a frame header without its stream id: length << 8 | type, flags."""
pack_u32 = _U32.pack
iter_settings = _SETTING.iter_unpack


def frame(kind: FrameType, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Write a frame."""
    return pack_header(len(payload) << 8 | kind, flags, stream_id) + payload


def read_u32(data: bytes, position: int = 0) -> int:
    """Read 32 bits, the reserved highest one dropped."""
    value: int = _U32.unpack_from(data, position)[0]
    return value & 0x7FFFFFFF


def settings(values: dict[SettingId, int]) -> bytes:
    """Write a SETTINGS frame."""
    payload = b"".join(_SETTING.pack(setting, value) for setting, value in values.items())
    return frame(FrameType.SETTINGS, 0, 0, payload)


SETTINGS_ACK = frame(FrameType.SETTINGS, Flag.ACK, 0)


def ping(opaque: bytes, *, ack: bool = False) -> bytes:
    """Write a PING frame of 8 opaque bytes."""
    return frame(FrameType.PING, Flag.ACK if ack else 0, 0, opaque)


def window_update(stream_id: int, increment: int) -> bytes:
    """Write a WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, pack_u32(increment))


def rst_stream(stream_id: int, code: int) -> bytes:
    """Write a RST_STREAM frame."""
    return frame(FrameType.RST_STREAM, 0, stream_id, pack_u32(code))


def goaway(last_stream_id: int, code: int, text: str = "") -> bytes:
    """Write a GOAWAY frame; text helps to debug the peer."""
    payload = pack_u32(last_stream_id) + pack_u32(code) + text.encode()
    return frame(FrameType.GOAWAY, 0, 0, payload)
