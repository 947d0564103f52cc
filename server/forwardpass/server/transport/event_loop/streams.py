"""ModelStreamInfer: a stream's calls join the same batches as all others."""

from collections import deque
from functools import partial
from time import perf_counter_ns

from forwardpass.server.access.caller import Caller
from forwardpass.server.access.quota import Quota
from forwardpass.server.errors import (
    InternalError,
    ServingError,
    ShuttingDownError,
    TooManyStreamsError,
    UnauthenticatedError,
)
from forwardpass.server.rpc.infer import Call, Reply
from forwardpass.server.rpc.stream import AHEAD_BYTES, WINDOW, stream_message
from forwardpass.server.transport.event_loop.calls import Exchange, Wire
from forwardpass.server.transport.event_loop.messages import LARGE_BYTES
from forwardpass.server.transport.event_loop.methods import Method
from forwardpass.server.transport.event_loop.requests import Request
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.status import Outcome


class OpenStreams:
    """The open streams of a server, up to a maximum number."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[StreamExchange] = set()

    @property
    def count(self) -> int:
        """The number of open streams."""
        return len(self._open)

    def method(self) -> Method:
        """Return the method that begins a stream."""
        return partial(StreamExchange, self)

    def enter(self, exchange: "StreamExchange") -> None:
        """Add a stream; raises TooManyStreamsError."""
        if len(self._open) >= self._most:
            raise TooManyStreamsError(self._most)
        self._open.add(exchange)

    def leave(self, exchange: "StreamExchange") -> None:
        """Remove a stream."""
        self._open.discard(exchange)

    def stop(self) -> None:
        """End every stream (UNAVAILABLE) once the messages read from it are answered."""
        for exchange in list(self._open):
            exchange.on_fault(ShuttingDownError())


class StreamExchange(Exchange):
    """One stream: at most WINDOW of its calls run at once; they are answered in order."""

    def __init__(
        self, open_streams: OpenStreams, wire: Wire, stream: Stream, request: Request
    ) -> None:
        super().__init__(wire, stream, request)
        self.awaited = False
        self._open_streams = open_streams
        self._unread: deque[StreamCall] = deque()
        """Calls that wait until earlier ones are answered."""
        self._under_way: deque[StreamCall] = deque()
        self.ahead = 0
        """Bytes of the messages in `_unread` and `_under_way`."""
        self._ended = False
        self._fault: ServingError | Outcome | None = None
        """Error that ends the stream once everything before it is answered."""
        try:
            # Before the first message, which may never come.
            wire.arrivals.caller(request, wire.peer)
            open_streams.enter(self)
        except (TooManyStreamsError, UnauthenticatedError) as error:
            self._ended, self._fault = True, error

    @property
    def calls(self) -> int:
        """The number of calls that were read and are not answered."""
        return len(self._unread) + len(self._under_way)

    def news(self) -> None:
        """Read the new data; refuse the stream if there are too many."""
        super().news()
        self._go_on()

    def on_message(self, message: Payload) -> None:
        """Queue the call."""
        if not self._ended:
            self._unread.append(StreamCall(self, message))

    def on_end(self) -> None:
        """End once everything is answered."""
        self._ended = True

    def on_fault(self, error: ServingError | Outcome) -> None:
        """Stop reading; end with the error once everything is answered."""
        if not self._ended:
            self._ended, self._fault = True, error
        self._go_on()

    def fail(self, error: ServingError | Outcome) -> None:
        """End the stream with an error, and report it."""
        if isinstance(error, ServingError) and not self.over:
            self.wire.arrivals.refused(error, self.origin)
        super().fail(error)

    def on_gone(self) -> None:
        """Make room for another stream."""
        self._open_streams.leave(self)
        self._drop_unread()
        for call in self._under_way:
            call.drop_reply()
        self._under_way.clear()

    def on_spoilt(self, call: "StreamCall", error: ServingError | Outcome) -> None:
        """End with the error once everything before a call is answered."""
        if call in self._under_way:
            while (last := self._under_way.pop()) is not call:
                last.drop_reply()
            self._drop_unread()
            self._ended, self._fault = True, error
            self._go_on()

    def on_answer(self) -> None:
        """Send the answers that are next in order."""
        self._send_answers()
        self._go_on()

    def grant(self) -> None:
        """Grant the caller more data, up to the limit of unanswered messages."""
        if not self._ended and len(self._unread) < WINDOW and self.ahead < AHEAD_BYTES:
            self.grant_ahead()

    def _drop_unread(self) -> None:
        while self._unread:
            self._unread.popleft().let_go()

    def _send_answers(self) -> None:
        while self._under_way and self._under_way[0].reply is not None:
            call = self._under_way.popleft()
            reply = call.reply
            call.drop_reply()
            self.send(reply or b"")

    def _go_on(self) -> None:
        if self.over:
            return
        while self._unread and len(self._under_way) < WINDOW:
            try:
                # For each message: a token may be revoked while its stream is open.
                caller = self.wire.arrivals.caller(self.request, self.wire.peer)
            except UnauthenticatedError as error:
                self._drop_unread()
                self._ended, self._fault = True, error
                break
            call = self._unread.popleft()
            self._under_way.append(call)
            try:
                call.admit(caller)
            except ServingError as error:
                self.wire.arrivals.refused(error, self.origin)
                call.keep(error)
                self._send_answers()
            else:
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

    __slots__ = ("_dropped", "_exchange", "_held", "_quota", "reply")

    def __init__(self, exchange: StreamExchange, message: Payload) -> None:
        now_ns = perf_counter_ns()
        super().__init__(
            message,
            exchange.deadline,
            exchange.stream.is_open,
            origin=exchange.origin,
            times=(now_ns, now_ns),
        )
        self._exchange = exchange
        self._quota: Quota | None = None
        self.reply: bytes | None = None
        """The answer as a message of the stream, once there is one."""
        self._dropped = False
        self._held = 0
        """Bytes counted in the server's memory; small messages are limited by the stream itself."""
        self._count()

    def _count(self) -> None:
        size = len(self.message)
        self._exchange.ahead += size
        self._held = size if size >= LARGE_BYTES else 0
        self._exchange.wire.memory.used += self._held

    def unpacked(self, message: bytes) -> None:
        """Take the message that came compressed."""
        self.let_go()
        self.message = message
        self._count()

    def spoilt(self, error: ServingError | Outcome) -> None:
        """End the stream, since the message that came compressed is none."""
        self.let_go()
        self._leave()
        self._exchange.on_spoilt(self, error)

    def admit(self, caller: Caller) -> None:
        """Begin as a call of this caller; raises what `Quota.enter` raises."""
        self.caller = caller
        self.batch = self._exchange.request.batch or caller.batch
        if caller.quota is not None:
            caller.quota.enter()
            self._quota = caller.quota

    def respond(self) -> None:
        """Send the answer, unless an earlier one is pending."""
        self._leave()
        self.keep(self.answer or InternalError())
        self._exchange.on_answer()

    def _leave(self) -> None:
        if self._quota is not None:
            self._quota.leave()

    def keep(self, answer: Reply | ServingError) -> None:
        """Keep the answer until it is sent, and nothing else."""
        reply = None if self._dropped else stream_message(self, answer)
        self.let_go()
        if reply is not None:
            self.reply, self._held = reply, len(reply)
            self._exchange.wire.memory.used += self._held

    def drop_reply(self) -> None:
        """Release the answer, which is sent now or never, also one that is still to come."""
        self._dropped = True
        if self.reply is not None:
            self._exchange.wire.memory.used -= self._held
            self.reply, self._held = None, 0

    def let_go(self) -> None:
        """Release the message, which may be large, while the answer may wait for others."""
        exchange = self._exchange
        exchange.ahead -= len(self.message)
        exchange.wire.memory.used -= self._held
        self._held = 0
        self.message = b""
