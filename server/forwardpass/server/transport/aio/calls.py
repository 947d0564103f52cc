"""Calls in flight: from a stream's bytes to the method that answers, and back."""

from collections.abc import Callable, Iterator
from typing import Protocol

from forwardpass.proto import timing
from forwardpass.server.caller import ANYONE, Caller
from forwardpass.server.errors import (
    InternalError,
    MessageTooLargeError,
    NamesTooLargeError,
    ServingError,
)
from forwardpass.server.inference import Call, Reply
from forwardpass.server.origin import NOWHERE, REQUEST_ID, Origin
from forwardpass.server.transport.aio.answers import (
    FORM,
    GZIP,
    GZIP_HEAD,
    HEAD,
    ok_with,
    trailers,
)
from forwardpass.server.transport.aio.arrivals import Arrivals, Peer
from forwardpass.server.transport.aio.memory import RequestMemory
from forwardpass.server.transport.aio.messages import (
    LARGE_BYTES,
    BadMessageError,
    MessageReader,
    pack,
    pack_prefix,
)
from forwardpass.server.transport.aio.patience import Patience
from forwardpass.server.transport.aio.requests import Request
from forwardpass.server.transport.http2.connection import Connection
from forwardpass.server.transport.http2.errors import ErrorCode
from forwardpass.server.transport.http2.sending import AnswerForm
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.status import Outcome

_DEADLINE_EXCEEDED = 4

_COPIED_BYTES = 2**14
"""Of an answer's message: above it a copy costs more than the frames' turns do."""


class Exchange:
    """One call on a stream whose messages do not come, or are not answered, all at once."""

    def __init__(
        self, wire: "Wire", stream: Stream, request: Request, names_bytes: int | None = None
    ) -> None:
        """names_bytes: most of a message, where it has names alone; None: as of any."""
        self.wire = wire
        self.stream = stream
        self.request = request
        self.deadline = None if request.timeout_s is None else wire.now + request.timeout_s
        """On the clock of time.monotonic."""
        self.awaited = True
        """Whether a message has to come: it may not take for ever."""
        self._patience = Patience(wire.now)
        self._reader = _reader(wire, request, names_bytes)
        self._coming = 0
        """What of the message under way is counted in the server's memory."""
        self._kept = 0
        """What of messages that are whole is."""
        self.origin = wire.arrivals.origin(request, wire.peer)
        self._headed = False
        self._over = False

    def news(self) -> None:
        """Read what came on the stream."""
        stream = self.stream
        if stream.reset is not None:
            self.end()
            return
        if self._over:
            return
        idle = not (self.awaited or self._reader.partial)
        memory = self.wire.memory
        try:
            for message in self._messages():
                self._patience.restart(self.wire.now, self._reader.received)
                self._count()
                self.on_message(message)
                if self._over:
                    return
                if memory.full and len(message) >= LARGE_BYTES:
                    self.fail(memory.refusal())
                    return
            if idle and self._reader.partial:
                self._patience.restart(self.wire.now, self._reader.received)
            self._count()
            if stream.ended:
                if self._reader.partial:
                    raise BadMessageError("the request ended inside a message")
                self.on_end()
            elif memory.full and self._coming + self._kept:
                self.fail(memory.refusal())
            else:
                self.grant()
        except ServingError as error:
            self.on_fault(error)
        except BadMessageError as error:
            self.on_fault(error.outcome)

    def _messages(self) -> Iterator[Payload]:
        """Yield the messages that are whole now."""
        stream, reader = self.stream, self._reader
        placed, stream.placed = stream.placed, 0
        received, stream.received = stream.received, []
        stream.sink = None
        if placed:
            yield from reader.place(placed)
        yield from reader.feed(*received)
        stream.sink = reader.sink

    def _count(self) -> None:
        """Count what came of the message under way in the server's memory."""
        coming = self._reader.held
        self.wire.memory.used += coming - self._coming
        self._coming = coming

    def keep(self, message: Payload) -> None:
        """Count a whole message in the server's memory, until the call's end or `hand_over`."""
        size = len(message)
        self._kept += size
        self.wire.memory.used += size

    def hand_over(self, message: Payload) -> int:
        """Leave a message that was kept to someone who counts its bytes off; return how many."""
        size = len(message)
        self._kept -= size
        return size

    def let_go(self, message: Payload) -> None:
        """Count a message off that was kept."""
        self.wire.memory.used -= self.hand_over(message)

    @property
    def over(self) -> bool:
        """Whether the call has ended, answered or not."""
        return self._over

    @property
    def missing(self) -> int:
        """Bytes that are to come of the message that is under way."""
        return self._reader.missing

    def grant(self) -> None:
        """Let the caller send the rest of the message that it began, whatever its size."""
        lacking = self.missing - self.stream.credit
        if lacking > 0:
            self.wire.connection.grant(self.stream, lacking)
            self.wire.dirty()

    def grant_ahead(self) -> None:
        """Let the caller send on, message after message."""
        window = self.wire.connection.stream_window
        lacking = max(window, self.missing) - self.stream.credit
        if lacking > window // 2:
            self.wire.connection.grant(self.stream, lacking)
            self.wire.dirty()

    def tick(self, now: float) -> None:
        """End the call if its time, or that of its message, is over."""
        if self.deadline is not None and now >= self.deadline:
            self.fail(Outcome(_DEADLINE_EXCEEDED, "the deadline passed"))
        elif self.awaited or self._reader.partial:
            came = self._reader.received + self.stream.placed
            # A caller that has to wait for us is not slow. One of a single message never has to.
            if not self.wire.listening or not (self.awaited or self.stream.credit > 0):
                self._patience.restart(now, came)
            elif self._patience.over(now, came):
                self.fail(Outcome(_DEADLINE_EXCEEDED, "the request comes too slowly"))

    def on_message(self, message: Payload) -> None:
        """Take a message; it is the receiver's to keep."""
        raise NotImplementedError

    def on_end(self) -> None:
        """Take note that the caller sends no more."""
        raise NotImplementedError

    def on_fault(self, error: ServingError | Outcome) -> None:
        """End the call for a fault of what the caller sent."""
        self.fail(error)

    def on_gone(self) -> None:
        """Take note that the call is over, answered or not."""

    def send(self, message: bytes) -> None:
        """Send a message."""
        if self._over:
            return
        packed = self.request.encoding == GZIP and self.request.accepts_gzip
        _send(self.wire.connection, self.stream, message, head=not self._headed, packed=packed)
        self._headed = True
        self.wire.dirty()

    def succeed(self) -> None:
        """End the call with OK."""
        if not self._over:
            if not self._headed:
                self.wire.connection.send_headers(self.stream, HEAD)
            self.wire.connection.send_trailers(self.stream, ok_with(_returned(self.origin)))
            self.end()

    def fail(self, error: ServingError | Outcome) -> None:
        """End the call with an error."""
        if not self._over:
            block = trailers(error, _returned(self.origin), alone=not self._headed)
            self.wire.connection.send_trailers(self.stream, block)
            self.end()

    def cut(self, code: ErrorCode) -> None:
        """End the call without an answer."""
        if not self._over:
            self.wire.connection.reset(self.stream, code)
            self.end()

    def end(self) -> None:
        """Let go of everything; safe to call again."""
        if not self._over:
            self._over = True
            # In a cycle with its stream the call's message would wait for the garbage collector.
            self.stream.sink, self.stream.owner = None, _ENDED
            self.wire.memory.used -= self._coming + self._kept
            self.wire.over(self)
            self.wire.dirty()
            self.on_gone()


def _reader(wire: "Wire", request: Request, names_bytes: int | None) -> MessageReader:
    limit, encoding, room = wire.max_message_bytes, request.encoding, wire.memory.room
    if names_bytes is not None and names_bytes < limit:
        return MessageReader(names_bytes, encoding, room, NamesTooLargeError)
    return MessageReader(limit, encoding, room, MessageTooLargeError)


class _Ended:
    """Owns the streams of calls that are over."""

    def news(self) -> None:
        """Drop what comes."""


_ENDED = _Ended()


class Wire(Protocol):
    """What a call knows of the connection that it is on."""

    connection: Connection
    arrivals: Arrivals
    peer: Peer
    memory: RequestMemory
    reply_bytes: int
    """What an answer is expected to have."""
    now: float
    """When the last bytes came, on the clock of time.monotonic."""

    @property
    def max_message_bytes(self) -> int:
        """Of a request."""

    @property
    def closed(self) -> bool:
        """Whether the server takes no more calls."""

    @property
    def listening(self) -> bool:
        """Whether the client may send: not while it does not take its answers."""

    @property
    def piled_up(self) -> bool:
        """Whether no more answers may be made, until the client has taken some."""

    def submit(self, call: "ReadCall") -> None:
        """Have a call answered in the next turn."""

    def dirty(self) -> None:
        """Have what is to be sent written at the end of the turn."""

    def over(self, exchange: Exchange) -> None:
        """Forget a call."""


class ReadCall(Protocol):
    """A ModelInfer call that was read, alone or as one of a stream."""

    message: Payload
    active: Callable[[], bool] | None
    answer: Reply | ServingError | None

    def respond(self) -> None:
        """Send the answer."""


class InferCall(Call):
    """A ModelInfer call."""

    __slots__ = ("held", "request", "stream", "wire")

    def __init__(
        self,
        wire: Wire,
        stream: Stream,
        request: Request,
        message: Payload,
        deadline: float | None,
        caller: Caller = ANYONE,
        origin: Origin = NOWHERE,
    ) -> None:
        super().__init__(message, deadline, stream.is_open, caller, origin)
        self.held = 0
        """Bytes counted in the server's memory until the call is answered."""
        self.wire = wire
        self.stream = stream
        self.request = request

    def respond(self) -> None:
        """Send the answer, in one piece where it is short."""
        stream, answer = self.stream, self.answer
        if self.held:
            self.wire.memory.used -= self.held
        if stream.reset is not None:
            return
        wire = self.wire
        connection = wire.connection
        wire.dirty()
        if not isinstance(answer, Reply):
            error = InternalError() if answer is None else answer
            block = trailers(error, _returned(self.origin), alone=True)
            connection.send_trailers(stream, block)
            return
        message = answer.message
        packed = self.request.encoding == GZIP and self.request.accepts_gzip
        if len(message) <= _COPIED_BYTES and not packed and answer.timing is None:
            connection.answer(stream, self._form(), pack_prefix(0, len(message)) + message)
            return
        wire.reply_bytes = max(wire.reply_bytes, len(message))
        _send(connection, stream, message, head=True, packed=packed)
        metadata = _returned(self.origin)
        if answer.timing is not None:
            metadata[timing.TRAILER] = timing.dump_parts(answer.timing)
        connection.send_trailers(stream, ok_with(metadata))

    def _form(self) -> AnswerForm:
        """Return what goes around an answer in one piece."""
        request, origin = self.request, self.origin
        if not origin.request_id:
            return FORM
        form = request.form
        if form is None or origin is not request.origin:
            form = request.form = AnswerForm(HEAD, ok_with(_returned(origin)))
        return form


def _returned(origin: Origin) -> dict[str, str]:
    """Return the metadata that go back with every answer."""
    return {REQUEST_ID: origin.request_id} if origin.request_id else {}


def _send(
    connection: Connection, stream: Stream, message: bytes, *, head: bool, packed: bool
) -> None:
    """Send a message, and before the first one the fields."""
    if head:
        connection.send_headers(stream, GZIP_HEAD if packed else HEAD)
    if packed:
        connection.send_data(stream, pack(message))
    elif len(message) <= _COPIED_BYTES:
        connection.send_data(stream, pack_prefix(0, len(message)) + message)
    else:
        connection.send_data(stream, pack_prefix(0, len(message)))
        connection.send_data(stream, message)
