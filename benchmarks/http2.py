"""Frames of HTTP/2, written by hand: load and servers that cost less than any library."""

import struct
from collections.abc import Iterator

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
TABLE_SIZE, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 1, 3, 4, 5
HEAD_BYTES = 9
FIRST_WINDOW = 65_535
WIDEST_WINDOW = 2**31 - 1
REFILL_BYTES = 2**30
"""After so much payload, at the latest, the peer gets its window back."""

WIDE = struct.pack(">HI", INITIAL_WINDOW, WIDEST_WINDOW)
"""SETTINGS that leave streams as wide as they get."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    head = struct.pack(">I", len(payload))[1:]
    return b"%b%c%c%b%b" % (head, kind, flags, stream.to_bytes(4, "big"), payload)


def window_update(increment: int) -> bytes:
    """Return what widens the window of a connection."""
    return frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", increment))


def spans(frames: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each of whole frames begins and ends."""
    at = 0
    while at < len(frames):
        end = at + HEAD_BYTES + int.from_bytes(frames[at : at + 3], "big")
        yield at, end
        at = end


def around_numbers(frames: bytes) -> tuple[bytes, ...]:
    """Return whole frames of one stream, parted where its number stands, which joins them again."""
    parts, cut = [], 0
    for at, _ in spans(frames):
        parts.append(frames[cut : at + 5])
        cut = at + HEAD_BYTES
    return (*parts, frames[cut:])
