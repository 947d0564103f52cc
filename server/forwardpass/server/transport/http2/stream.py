"""One stream: what came on it, and what waits to be sent."""

from collections import deque
from typing import Any

from forwardpass.server.transport.http2.errors import ErrorCode
from forwardpass.server.transport.http2.fields import FieldBlock

Payload = bytes | memoryview


class Stream:
    """A request of the peer and its answer.

    What the layer above reads of it is here; to send, it goes through the connection.
    """

    __slots__ = (
        "credit",
        "ended",
        "expected",
        "id",
        "news",
        "owner",
        "pending",
        "placed",
        "received",
        "request",
        "reset",
        "sink",
        "trailers",
        "window",
    )

    def __init__(self, stream_id: int, request: FieldBlock, credit: int, window: int) -> None:
        self.id = stream_id
        self.request = request
        """The fields that opened it."""
        self.trailers: FieldBlock | None = None
        self.received: list[Payload] = []
        """DATA since the layer above emptied it; views are good until the next `receive`."""
        self.sink: memoryview | None = None
        """Where the layer above wants the next DATA, as far as they fit."""
        self.placed = 0
        """Bytes put there since the layer above set this to 0; they come before `received`."""
        self.ended = False
        """Whether the peer has sent all."""
        self.reset: ErrorCode | None = None
        """Set when the stream was cut off, by the peer or for a fault of the peer."""
        self.owner: Any = None
        """What the layer above makes of the stream."""
        self.news = False
        """Whether it is among the streams that the running `receive` will return."""
        self.credit = credit
        """Bytes that the peer may still send."""
        self.window = window
        """Bytes that the peer still takes."""
        self.expected: int | None = None
        """Of content-length: bytes that still have to come."""
        self.pending: deque[Payload | Tail] | None = None
        """What waits for a window or for the socket; None if nothing does."""

    def is_open(self) -> bool:
        """Whether an answer would reach the peer."""
        return self.reset is None

    def __repr__(self) -> str:
        return f"Stream({self.id}, ended={self.ended}, reset={self.reset})"


class Tail:
    """The trailers of an answer, as they wait behind its data."""

    __slots__ = ("block",)

    def __init__(self, block: bytes) -> None:
        self.block = block
