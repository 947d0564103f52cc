"""One stream: received data and pending output."""

from collections import deque
from typing import Any

from forwardpass.server.transport.http2.errors import ErrorCode
from forwardpass.server.transport.http2.fields import FieldBlock

Payload = bytes | memoryview


class Stream:
    """A request of the peer and its answer.

    The layer above reads from it directly, and sends through the connection.
    """

    __slots__ = (
        "credit",
        "ended",
        "expected",
        "id",
        "news",
        "opened",
        "owner",
        "pending",
        "placed",
        "received",
        "request",
        "reset",
        "sent_bytes",
        "sink",
        "trailers",
        "window",
    )

    def __init__(
        self, stream_id: int, request: FieldBlock, credit: int, window: int, opened: float
    ) -> None:
        self.id = stream_id
        self.request = request
        """The fields that opened the stream."""
        self.trailers: FieldBlock | None = None
        self.received: list[Payload] = []
        """DATA since the layer above last emptied it; views are valid until the next `receive`."""
        self.sink: memoryview | None = None
        """Memory for the next DATA, as far as they fit; None once it is full. The layer above sets
        it, and `placed` to 0."""
        self.placed = 0
        """Bytes put into the sink, from its start; they precede `received`."""
        self.ended = False
        """Whether the peer has sent everything."""
        self.reset: ErrorCode | None = None
        """Error code if the stream was reset, by the peer or for a fault of the peer."""
        self.owner: Any = None
        """The object of the layer above that handles the stream."""
        self.news = False
        """Whether the running `receive` will return the stream."""
        self.credit = credit
        """Bytes that the peer may still send on the stream."""
        self.window = window
        """Bytes that the peer still accepts on the stream."""
        self.opened = opened
        """Time at which the stream was opened, by the connection's clock."""
        self.expected: int | None = None
        """Bytes still to come by content-length; None without one."""
        self.pending: deque[Payload | Tail] | None = None
        """Output that waits for a window or for the socket; None if there is none."""
        self.sent_bytes = 0
        """Bytes of data that were sent after they had waited."""

    def is_open(self) -> bool:
        """Whether an answer would reach the peer."""
        return self.reset is None

    def __repr__(self) -> str:
        return f"Stream({self.id}, ended={self.ended}, reset={self.reset})"


class Tail:
    """The trailers of an answer, queued after its data."""

    __slots__ = ("block",)

    def __init__(self, block: bytes) -> None:
        self.block = block
