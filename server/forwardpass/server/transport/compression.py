"""Compressed messages: unpacked up to a limit, on both transports."""

import zlib
from collections.abc import Callable

from forwardpass.server.errors import MessageTooLargeError, Status
from forwardpass.server.transport.status import Outcome

GZIP_BITS = 31
WINDOW_BITS = {b"gzip": GZIP_BITS, b"deflate": 15}

TooLarge = Callable[[int, int], Exception]
"""Returns the error for a message: its size in bytes, the limit."""


class BadMessageError(Exception):
    """Bytes that are not a message; carries the call's outcome."""

    def __init__(self, text: str, code: Status = Status.INTERNAL) -> None:
        super().__init__(text)
        self.outcome = Outcome(code, text)


class Packed(bytes):
    """A compressed message that takes long to unpack: a few bytes may be many."""

    encoding: bytes
    limit: int
    too_large: TooLarge

    def unpacked(self) -> bytes:
        """Return the message; raises as `unpack` does."""
        return unpack(self, self.encoding, self.limit, self.too_large)


def unpack(
    message: bytes | memoryview,
    encoding: bytes,
    limit: int,
    too_large: TooLarge = MessageTooLargeError,
) -> bytes:
    """Decompress a message, up to the limit.

    Raises BadMessageError, and the error of `too_large`.
    """
    unpacker = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        unpacked = unpacker.decompress(message, limit + 1)
    except zlib.error as error:
        raise BadMessageError(f"the message is not valid {encoding.decode()}") from error
    if len(unpacked) > limit:
        raise too_large(len(unpacked), limit)
    if not unpacker.eof or unpacker.unused_data:
        raise BadMessageError(f"the message is not exactly one {encoding.decode()} stream")
    return unpacked


def unpack_small(
    message: bytes | memoryview, encoding: bytes, limit: int, too_large: TooLarge, small: int
) -> bytes:
    """Decompress a message of at most `small` bytes; return a larger one as Packed."""
    if small >= limit:
        return unpack(message, encoding, limit, too_large)
    try:
        return unpack(message, encoding, small, _NotSmallError)
    except _NotSmallError:
        packed = Packed(message)
        packed.encoding, packed.limit, packed.too_large = encoding, limit, too_large
        return packed


class _NotSmallError(Exception):
    """A message is larger than what is unpacked at once."""
