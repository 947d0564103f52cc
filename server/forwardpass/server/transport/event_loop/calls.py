"""Calls in flight: from a stream's bytes to the method that answers, and back."""

from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Protocol

from forwardpass.proto import timing
from forwardpass.server.access.caller import ANYONE, Caller
from forwardpass.server.errors import (
    InternalError,
    MessageTooLargeError,
    NamesTooLargeError,
    ServingError,
    Status,
)
from forwardpass.server.observe.origin import NOWHERE, REQUEST_ID, Origin
from forwardpass.server.rpc.infer import Call, Reply, Times
from forwardpass.server.transport.compression import BadMessageError, TooLarge
from forwardpass.server.transport.event_loop.answers import (
    FORM,
    GZIP_HEAD,
    HEAD,
    ok_with,
    trailers,
)
from forwardpass.server.transport.event_loop.arrivals import Peer, RequestArrivals
from forwardpass.server.transport.event_loop.memory import RequestMemory
from forwardpass.server.transport.event_loop.messages import (
    LARGE_BYTES,
    MessageReader,
    pack,
    pack_prefix,
)
from forwardpass.server.transport.event_loop.patience import Patience
from forwardpass.server.transport.event_loop.requests import Request
from forwardpass.server.transport.http2.connection import Connection
from forwardpass.server.transport.http2.errors import ErrorCode
from forwardpass.server.transport.http2.sending import AnswerForm
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.status import Outcome

_COPIED_BYTES = 2**14
"""Maximum size of a copied answer, in bytes: above it a copy costs more than sending in parts."""


class Exchange:
    """One call on a stream whose messages arrive, or are answered, in parts."""

    def __init__(
        self,
        wire: "Wire",
        stream: Stream,
        request: Request,
        names_bytes: int | None = None,
        too_large: TooLarge = NamesTooLargeError,
    ) -> None:
        """Begin.

        names_bytes: maximum size of a message that has only names; None: as usual. too_large: makes
        the error for a larger one.
        """
        self.wire = wire
        self.stream = stream
        self.request = request
        self.deadline = None if request.timeout_s is None else wire.now + request.timeout_s
        """When the call fails, on the clock of time.monotonic; None: never."""
        self.begun_ns = perf_counter_ns()
        """When the call arrived, on the clock of time.perf_counter_ns."""
        self.awaited = True
        """Whether a message must arrive in limited time."""
        self._begun = wire.now
        self._patience = Patience(wire.now)
        self._reader = _reader(wire, request, names_bytes, too_large)
        self._coming = 0
        """Bytes of the incomplete message that are counted in the server's memory."""
        self._kept = 0
        """Bytes of complete messages that are counted in the server's memory."""
        self.origin = wire.arrivals.origin(request, wire.peer)
        self._headed = False
        self._over = False

    def news(self) -> None:
        """Read the stream's new data."""
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
        """Yield the messages that are complete now."""
        stream, reader = self.stream, self._reader
        placed, stream.placed = stream.placed, 0
        received, stream.received = stream.received, []
        stream.sink = None
        if placed:
            yield from reader.place(placed)
        yield from reader.feed(*received)
        stream.sink = reader.sink

    def _count(self) -> None:
        """Count the incomplete message in the server's memory."""
        coming = self._reader.held
        self.wire.memory.used += coming - self._coming
        self._coming = coming

    def keep(self, message: Payload) -> None:
        """Count a complete message in the server's memory, until the call's end or `hand_over`."""
        size = len(message)
        self._kept += size
        self.wire.memory.used += size

    def hand_over(self, message: Payload) -> int:
        """Give up a kept message; return its bytes, which the receiver has to subtract."""
        size = len(message)
        self._kept -= size
        return size

    def let_go(self, message: Payload) -> None:
        """Subtract a kept message from the server's memory."""
        self.wire.memory.used -= self.hand_over(message)

    @property
    def calls(self) -> int:
        """The number of calls that are not answered: one, but for streams."""
        return 1

    @property
    def over(self) -> bool:
        """Whether the call has ended, answered or not."""
        return self._over

    @property
    def missing(self) -> int:
        """Bytes still to come of the incomplete message."""
        return self._reader.missing

    def grant(self) -> None:
        """Grant the caller the rest of the message that it began, whatever its size."""
        lacking = self.missing - self.stream.credit
        if lacking > 0:
            self.wire.connection.grant(self.stream, lacking)
            self.wire.dirty()

    def grant_ahead(self) -> None:
        """Grant the caller more data, message after message."""
        window = self.wire.connection.stream_window
        lacking = max(window, self.missing) - self.stream.credit
        if lacking > window // 2:
            self.wire.connection.grant(self.stream, lacking)
            self.wire.dirty()

    def tick(self, now: float) -> None:
        """End the call if its deadline, or the time for its message, has passed."""
        if self.deadline is not None and now >= self.deadline:
            self.fail(Outcome(Status.DEADLINE_EXCEEDED, "the deadline passed"))
        elif self.awaited or self._reader.partial:
            came = self._reader.received + self.stream.placed
            # A caller that waits for us is not slow. One with a single message never waits.
            if not self.wire.listening or not (self.awaited or self.stream.credit > 0):
                self._patience.restart(now, came)
            elif self._patience.over(now, came) or (
                self.awaited and now - self._begun > self.wire.max_receive_s
            ):
                self.fail(Outcome(Status.DEADLINE_EXCEEDED, "the request arrives too slowly"))

    def on_message(self, message: Payload) -> None:
        """Handle a message, which may be kept."""
        raise NotImplementedError

    def on_end(self) -> None:
        """Handle the end of the request."""
        raise NotImplementedError

    def on_fault(self, error: ServingError | Outcome) -> None:
        """End the call for invalid data from the caller."""
        self.fail(error)

    def on_gone(self) -> None:
        """Handle the end of the call, answered or not."""

    def send(self, message: bytes) -> None:
        """Send a message."""
        if self._over:
            return
        packed = self.request.packs(message)
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
        """Release everything; safe to call again."""
        if not self._over:
            self._over = True
            # A cycle with its stream would keep the call's message until garbage collection.
            self.stream.sink, self.stream.owner = None, _ENDED
            self.wire.memory.used -= self._coming + self._kept
            self.wire.over(self)
            self.wire.dirty()
            self.on_gone()


def _reader(
    wire: "Wire", request: Request, names_bytes: int | None, too_large: TooLarge
) -> MessageReader:
    limit, encoding, room = wire.max_message_bytes, request.encoding, wire.memory.room
    if names_bytes is not None and names_bytes < limit:
        return MessageReader(names_bytes, encoding, room, too_large)
    # The calls of these may wait for a thread.
    return MessageReader(limit, encoding, room, MessageTooLargeError, defer=True)


class _Ended:
    """The owner of streams whose calls are over."""

    def news(self) -> None:
        """Drop the data."""


_ENDED = _Ended()


class Wire(Protocol):
    """A connection as its calls see it."""

    connection: Connection
    arrivals: RequestArrivals
    peer: Peer
    memory: RequestMemory
    reply_bytes: int
    """Expected size of an answer, in bytes."""
    max_receive_s: float
    """Maximum time for the one message of a call to arrive, in seconds."""
    now: float
    """When the last bytes arrived, on the clock of time.monotonic."""

    @property
    def max_message_bytes(self) -> int:
        """Maximum size of a request, in bytes."""

    @property
    def closed(self) -> bool:
        """Whether the server accepts no more calls."""

    @property
    def listening(self) -> bool:
        """Whether the client may send: False while it does not read its answers."""

    @property
    def piled_up(self) -> bool:
        """Whether no more answers may be made until the client has read some."""

    def submit(self, call: "ReadCall") -> None:
        """Queue a call for the next turn."""

    def check_backlog(self, *, batch: bool) -> None:
        """Raise BacklogFullError if no call of a class may begin."""

    def dirty(self) -> None:
        """Schedule pending output to be written at the end of the turn."""

    def over(self, exchange: Exchange) -> None:
        """Forget a call."""


class ReadCall(Protocol):
    """A ModelInfer call that was read, unary or one of a stream."""

    message: Payload
    active: Callable[[], bool] | None
    times: Times
    batch: bool
    answer: Reply | ServingError | None

    @property
    def answer_share(self) -> int:
        """Memory that the answer takes as it is sent, in bytes for each of the reply."""

    def respond(self) -> None:
        """Send the answer."""

    def unpacked(self, message: bytes) -> None:
        """Take the message that came compressed."""

    def spoilt(self, error: ServingError | Outcome) -> None:
        """End, since the message that came compressed is none."""


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
        times: Times,
        caller: Caller = ANYONE,
        origin: Origin = NOWHERE,
    ) -> None:
        """Prepare; the caller's quota has been entered, and is left with the answer."""
        # Not by the constructor of Call: that is one more function for every call.
        self.message = message
        self.deadline = deadline
        self.active = stream.is_open
        self.caller = caller
        self.origin = origin
        self.times = times
        self.batch = request.batch or caller.batch
        self.answer = None
        self.held = 0
        """Bytes counted in the server's memory until the call is answered."""
        self.wire = wire
        self.stream = stream
        self.request = request

    def respond(self) -> None:
        """Send the answer, in one piece if it is short."""
        stream, answer, request = self.stream, self.answer, self.request
        if self.held:
            self._let_go()
        if self.caller.quota is not None:
            self._leave()
        if stream.reset is not None:
            return
        wire = self.wire
        connection = wire.connection
        wire.dirty()
        if not isinstance(answer, Reply):
            self._fail(InternalError() if answer is None else answer)
            return
        message = answer.message
        size = len(message)
        if size <= _COPIED_BYTES and not request.compresses and answer.timing is None:
            form = FORM if self.origin is NOWHERE else self._form()
            connection.answer(stream, form, pack_prefix(0, size) + message)
            return
        packed = request.packs(message)
        wire.reply_bytes = max(wire.reply_bytes, size)
        _send(connection, stream, message, head=True, packed=packed)
        metadata = _returned(self.origin)
        if answer.timing is not None:
            metadata[timing.TRAILER] = timing.dump_parts(answer.timing)
        connection.send_trailers(stream, ok_with(metadata))

    def unpacked(self, message: bytes) -> None:
        """Take the message that came compressed."""
        self._let_go()
        self.message, self.held = message, len(message)
        self.wire.memory.used += self.held

    def spoilt(self, error: ServingError | Outcome) -> None:
        """End, since the message that came compressed is none."""
        self._let_go()
        self._leave()
        if isinstance(error, ServingError):
            self.wire.arrivals.refused(error, self.origin)
        if self.stream.reset is None:
            self._fail(error)
            self.wire.dirty()

    def _let_go(self) -> None:
        self.wire.memory.used -= self.held
        self.held = 0

    def _leave(self) -> None:
        if self.caller.quota is not None:
            self.caller.quota.leave()

    def _fail(self, error: ServingError | Outcome) -> None:
        block = trailers(error, _returned(self.origin), alone=True)
        self.wire.connection.send_trailers(self.stream, block)

    def _form(self) -> AnswerForm:
        """Return the field blocks around an answer in one piece."""
        request, origin = self.request, self.origin
        if not origin.request_id:
            return FORM
        form = request.form
        if form is None or origin is not request.origin:
            form = request.form = AnswerForm(HEAD, ok_with(_returned(origin)))
        return form


def _returned(origin: Origin) -> dict[str, str]:
    """Return the metadata that is returned with every answer."""
    return {REQUEST_ID: origin.request_id} if origin.request_id else {}


def _send(
    connection: Connection, stream: Stream, message: bytes, *, head: bool, packed: bool
) -> None:
    """Send a message, after the fields if it is the first."""
    if head:
        connection.send_headers(stream, GZIP_HEAD if packed else HEAD)
    if packed:
        connection.send_data(stream, pack(message))
    elif len(message) <= _COPIED_BYTES:
        connection.send_data(stream, pack_prefix(0, len(message)) + message)
    else:
        connection.send_data(stream, pack_prefix(0, len(message)))
        connection.send_data(stream, message)
