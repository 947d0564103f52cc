"""gRPC's framing: a flag, a length and a message, compressed or not."""

import zlib
from collections.abc import Callable, Iterator
from struct import Struct

from forwardpass.server.errors import MessageTooLargeError
from forwardpass.server.transport.compression import (
    GZIP_BITS,
    BadMessageError,
    TooLarge,
    unpack,
    unpack_small,
)
from forwardpass.server.transport.http2.stream import Payload

PREFIX_BYTES = 5
_PREFIX = Struct(">BI")
pack_prefix = _PREFIX.pack
"""Packs a prefix: 1 if compressed else 0, and the length."""
read_prefix = _PREFIX.unpack_from
"""Reads the same from the start of a buffer."""

LARGE_BYTES = 2**16
"""Minimum size of a message that is not copied to bytes, which parse faster than a view."""


class MessageReader:
    """Assembles the messages of one stream from their bytes."""

    __slots__ = (
        "_compressed",
        "_defer",
        "_encoding",
        "_find_room",
        "_limit",
        "_message",
        "_placed",
        "_prefix",
        "_room",
        "_size",
        "_too_large",
        "received",
    )

    def __init__(
        self,
        limit: int,
        encoding: bytes,
        find_room: Callable[[int], memoryview | None] | None = None,
        too_large: TooLarge = MessageTooLargeError,
        *,
        defer: bool = False,
    ) -> None:
        """Prepare; limit: maximum size of a message in bytes, compressed and decompressed.

        find_room: returns memory for a large message of a size, or None.
        too_large: makes the error for a message above the limit.
        defer: whether a message that is large when it is unpacked is yielded as Packed.
        """
        self._limit = limit
        self._encoding = encoding
        self._find_room = find_room
        self._too_large = too_large
        self._defer = defer
        self._prefix = b""
        self._compressed = False
        self._size = 0
        self._room: memoryview | None = None
        self._placed = 0
        """Bytes of the incomplete message that are in `_room`."""
        self._message: bytearray | None = None
        """The incomplete message if it has no room: takes memory for what arrived, not for what was
        announced."""
        self.received = 0
        """Bytes of all messages so far."""

    @property
    def held(self) -> int:
        """Bytes of the incomplete message in memory."""
        return self._placed if self._message is None else len(self._message)

    @property
    def missing(self) -> int:
        """Known number of bytes still to come of the incomplete message."""
        return self._size - self.held

    @property
    def sink(self) -> memoryview | None:
        """Memory for the missing bytes; report bytes put there with `place`. None if none."""
        return None if self._room is None else self._room[self._placed :]

    @property
    def partial(self) -> bool:
        """Whether a message is incomplete."""
        return self._size > 0 or bool(self._prefix)

    def place(self, size: int) -> Iterator[Payload]:
        """Account for bytes that are in the sink; yield the message if it is complete now."""
        self.received += size
        self._placed += size
        if not self.missing:
            yield self._whole()

    def feed(self, *payloads: Payload) -> Iterator[Payload]:
        """Yield the messages that are complete now; payloads may be reused after that.

        Large ones are views of memory of their own. Raises the error of `too_large` before
        memory is taken, BadMessageError for bytes that are not a message.
        """
        for payload in payloads:
            size = len(payload)
            self.received += size
            room, end = self._room, self._placed + size
            if room is not None and end < self._size:
                # The common case of a large message, which has many parts.
                room[self._placed : end] = payload
                self._placed = end
            else:
                yield from self._take(payload)

    def _take(self, payload: Payload) -> Iterator[Payload]:
        position = 0
        end = len(payload)
        while position < end:
            if not self._size:
                position = self._read_prefix(payload, position)
                if len(self._prefix) < PREFIX_BYTES:
                    return
                size = self._begin()
                if end - position >= size:
                    # All of it is here: one copy.
                    message = bytes(payload[position : position + size])
                    position += size
                    yield self._unpacked(message)
                    continue
                self._size = size
                self._room = self._find(size)
                self._message = bytearray() if self._room is None else None
            came = payload[position : position + self.missing]
            self._add(came)
            position += len(came)
            if not self.missing:
                yield self._whole()

    def _find(self, size: int) -> memoryview | None:
        find = self._find_room
        return None if find is None or size < LARGE_BYTES else find(size)

    def _add(self, came: Payload) -> None:
        if self._message is not None:
            self._message += came
        elif self._room is not None:
            end = self._placed + len(came)
            self._room[self._placed : end] = came
            self._placed = end

    def _whole(self) -> Payload:
        """Return the complete message, and prepare for the next one."""
        message: Payload
        if self._message is not None:
            small = self._size < LARGE_BYTES
            message = bytes(self._message) if small else memoryview(self._message).toreadonly()
        elif self._room is not None:
            message = self._room.toreadonly()
        self._message = self._room = None
        self._placed = self._size = 0
        return self._unpacked(message)

    def _read_prefix(self, payload: Payload, position: int) -> int:
        part = payload[position : position + PREFIX_BYTES - len(self._prefix)]
        self._prefix += part
        return position + len(part)

    def _begin(self) -> int:
        flag, size = _PREFIX.unpack(self._prefix)
        self._prefix = b""
        if flag > 1:
            raise BadMessageError(f"the message's flag is {flag}; expected 0 or 1")
        if flag and self._encoding == b"identity":
            raise BadMessageError("the message is compressed, but grpc-encoding is identity")
        if size > self._limit:
            raise self._too_large(size, self._limit)
        self._compressed = bool(flag)
        return int(size)

    def _unpacked(self, message: Payload) -> Payload:
        if not self._compressed:
            return message
        encoding, limit, too_large = self._encoding, self._limit, self._too_large
        if self._defer:
            return unpack_small(message, encoding, limit, too_large, LARGE_BYTES)
        return unpack(message, encoding, limit, too_large)


def pack(message: bytes) -> bytes:
    """Compress a message with gzip, and frame it."""
    packer = zlib.compressobj(1, wbits=GZIP_BITS)
    packed = packer.compress(message) + packer.flush()
    return pack_prefix(1, len(packed)) + packed
