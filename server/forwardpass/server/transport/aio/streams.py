"""ModelStreamInfer: calls of a stream go into the same batches as all others."""

from collections import deque
from functools import partial

from forwardpass.server.errors import (
    InternalError,
    ServingError,
    ShuttingDownError,
    TooManyStreamsError,
    UnauthenticatedError,
)
from forwardpass.server.inference import Call
from forwardpass.server.streaming import WINDOW, stream_message
from forwardpass.server.transport.aio.calls import Exchange, Wire
from forwardpass.server.transport.aio.messages import LARGE_BYTES
from forwardpass.server.transport.aio.methods import Method
from forwardpass.server.transport.aio.requests import Request
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.status import Outcome

_AHEAD_BYTES = 2**24
"""Of a stream's messages that are not answered: above it the caller is not asked for more."""


class OpenStreams:
    """The open streams of a server, of which there may be so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[StreamExchange] = set()

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def method(self) -> Method:
        """Return what begins a stream."""
        return partial(StreamExchange, self)

    def enter(self, exchange: "StreamExchange") -> None:
        """Take a stream in; raises TooManyStreamsError."""
        if len(self._open) >= self._most:
            raise TooManyStreamsError(self._most)
        self._open.add(exchange)

    def leave(self, exchange: "StreamExchange") -> None:
        """Let a stream go."""
        self._open.discard(exchange)

    def stop(self) -> None:
        """Let every stream end, UNAVAILABLE, once what was read of it is answered."""
        for exchange in list(self._open):
            exchange.on_fault(ShuttingDownError())


class StreamExchange(Exchange):
    """One stream: at most WINDOW of its calls are under way, and answered in their order."""

    def __init__(
        self, open_streams: OpenStreams, wire: Wire, stream: Stream, request: Request
    ) -> None:
        super().__init__(wire, stream, request)
        self.awaited = False
        self._open_streams = open_streams
        self._unread: deque[StreamCall] = deque()
        """Calls that wait for earlier ones to be answered."""
        self._under_way: deque[StreamCall] = deque()
        self.ahead = 0
        """Bytes of the messages of both."""
        self._ended = False
        self._fault: ServingError | Outcome | None = None
        """What the stream ends with once everything before it is answered."""
        try:
            # Asked before the first message, which may never come.
            wire.arrivals.caller(request, wire.peer)
            open_streams.enter(self)
        except (TooManyStreamsError, UnauthenticatedError) as error:
            self._ended, self._fault = True, error

    def news(self) -> None:
        """Read what came; refuse the stream if it is one too many."""
        super().news()
        self._go_on()

    def on_message(self, message: Payload) -> None:
        """Line the call up."""
        if not self._ended:
            self._unread.append(StreamCall(self, message))

    def on_end(self) -> None:
        """End once everything is answered."""
        self._ended = True

    def on_fault(self, error: ServingError | Outcome) -> None:
        """Read nothing more; end with the error once everything is answered."""
        if not self._ended:
            self._ended, self._fault = True, error
        self._go_on()

    def fail(self, error: ServingError | Outcome) -> None:
        """End the stream with an error, and take note of it."""
        if isinstance(error, ServingError) and not self.over:
            self.wire.arrivals.refused(error, self.origin)
        super().fail(error)

    def on_gone(self) -> None:
        """Make room for another stream."""
        self._open_streams.leave(self)
        self._drop_unread()
        self._under_way.clear()

    def on_answer(self) -> None:
        """Send the answers whose turn it is."""
        while self._under_way and self._under_way[0].reply is not None:
            self.send(self._under_way.popleft().reply or b"")
        self._go_on()

    def grant(self) -> None:
        """Let the caller send on, but for what has no room in the line."""
        if not self._ended and len(self._unread) < WINDOW and self.ahead < _AHEAD_BYTES:
            self.grant_ahead()

    def _drop_unread(self) -> None:
        while self._unread:
            self._unread.popleft().let_go()

    def _go_on(self) -> None:
        if self.over:
            return
        while self._unread and len(self._under_way) < WINDOW:
            try:
                # Each time: a token may be revoked while its stream is open.
                caller = self.wire.arrivals.caller(self.request, self.wire.peer)
            except UnauthenticatedError as error:
                self._drop_unread()
                self._ended, self._fault = True, error
                break
            call = self._unread.popleft()
            call.caller = caller
            self._under_way.append(call)
            self.wire.submit(call)
        if not self._ended:
            self.grant()
        elif not self._under_way and not self._unread:
            if self._fault is None:
                self.succeed()
            else:
                self.fail(self._fault)


class StreamCall(Call):
    """One call of a stream."""

    __slots__ = ("_exchange", "_held", "reply")

    def __init__(self, exchange: StreamExchange, message: Payload) -> None:
        super().__init__(
            message, exchange.deadline, exchange.stream.is_open, origin=exchange.origin
        )
        self._exchange = exchange
        self.reply: bytes | None = None
        """What the stream's message says of the answer, once there is one."""
        size = len(message)
        exchange.ahead += size
        self._held = size if size >= LARGE_BYTES else 0
        """Bytes counted in the server's memory: of small messages a stream has only so many."""
        exchange.wire.memory.used += self._held

    def respond(self) -> None:
        """Send the answer, if none is owed before it."""
        exchange = self._exchange
        if not exchange.over:
            self.reply = stream_message(self, self.answer or InternalError())
        self.let_go()
        exchange.on_answer()

    def let_go(self) -> None:
        """Let go of the message, which may be large; the answer may have to wait for others."""
        exchange = self._exchange
        exchange.ahead -= len(self.message)
        exchange.wire.memory.used -= self._held
        self._held = 0
        self.message = b""
