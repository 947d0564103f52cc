"""gRPC's framing: a flag, a length, a message; compressed or not."""

import zlib
from collections.abc import Callable, Iterator
from struct import Struct

from forwardpass.server.errors import MessageTooLargeError, ServingError
from forwardpass.server.transport.http2.stream import Payload
from forwardpass.server.transport.status import Outcome

PREFIX_BYTES = 5
_PREFIX = Struct(">BI")
pack_prefix = _PREFIX.pack
"""Compressed or not (1 or 0), length."""

_INTERNAL = 13
LARGE_BYTES = 2**16
"""What is not copied once more to be bytes, which are quicker to read than a view."""
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}

TooLarge = Callable[[int, int], ServingError]
"""Makes the error of a message of so many bytes above a limit."""


class BadMessageError(Exception):
    """Bytes that are no message; carries how the call ends."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.outcome = Outcome(_INTERNAL, text)


class MessageReader:
    """Puts the messages of one stream together, as their bytes come."""

    __slots__ = (
        "_compressed",
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
    ) -> None:
        """Prepare; limit is on a message's bytes, compressed and not.

        find_room: returns memory for a large message of so many bytes, if there is some.
        too_large: what is raised above the limit.
        """
        self._limit = limit
        self._encoding = encoding
        self._find_room = find_room
        self._too_large = too_large
        self._prefix = b""
        self._compressed = False
        self._size = 0
        self._room: memoryview | None = None
        self._placed = 0
        """Memory for the message that is under way, and how much of it came."""
        self._message: bytearray | None = None
        """What came of it where there is no room: it takes the memory of what came, not of what
        was announced."""
        self.received = 0
        """Bytes of the messages so far."""

    @property
    def held(self) -> int:
        """Bytes in memory of the message that is under way."""
        return self._placed if self._message is None else len(self._message)

    @property
    def missing(self) -> int:
        """How much is to come of the message that is under way, as far as is known."""
        return self._size - self.held

    @property
    def sink(self) -> memoryview | None:
        """Where what is missing may be put by others, who say so by `place`; None: nowhere."""
        return None if self._room is None else self._room[self._placed :]

    @property
    def partial(self) -> bool:
        """Whether a message has begun and is not whole."""
        return self._size > 0 or bool(self._prefix)

    def place(self, size: int) -> Iterator[Payload]:
        """Take note of bytes that are in the sink; yield the message if it is whole now."""
        self.received += size
        self._placed += size
        if not self.missing:
            yield self._whole()

    def feed(self, *payloads: Payload) -> Iterator[Payload]:
        """Yield the messages that are whole now; payloads may be reused after that.

        Large ones are views of memory of their own. Raises what is for a message above the
        limit before memory is taken, BadMessageError for bytes that are no message.
        """
        for payload in payloads:
            size = len(payload)
            self.received += size
            if size < self.missing:
                # The inside of a message, of which a large one has many parts.
                self._add(payload)
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
        """Return the message that is whole, and be ready for the next one."""
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
            raise BadMessageError("the message is compressed, and grpc-encoding says it is not")
        if size > self._limit:
            raise self._too_large(size, self._limit)
        self._compressed = bool(flag)
        return int(size)

    def _unpacked(self, message: Payload) -> Payload:
        if not self._compressed:
            return message
        return unpack(message, self._encoding, self._limit, self._too_large)


def unpack(
    message: Payload, encoding: bytes, limit: int, too_large: TooLarge = MessageTooLargeError
) -> bytes:
    """Decompress a message, as far as the limit."""
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        unpacked = unpacker.decompress(message, limit + 1)
    except zlib.error as error:
        raise BadMessageError(f"the message is not what {encoding.decode()} makes") from error
    if len(unpacked) > limit:
        raise too_large(len(unpacked), limit)
    if not unpacker.eof or unpacker.unused_data:
        raise BadMessageError(f"the message is not all of what {encoding.decode()} makes")
    return unpacked


def pack(message: bytes) -> bytes:
    """Compress a message with gzip, and frame it."""
    packer = zlib.compressobj(1, wbits=_WINDOW_BITS[b"gzip"])
    packed = packer.compress(message) + packer.flush()
    return pack_prefix(1, len(packed)) + packed
