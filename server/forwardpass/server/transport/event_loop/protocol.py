"""One connection on the event loop: reads calls from the socket, writes their answers."""

import asyncio
from functools import partial
from time import monotonic, perf_counter_ns
from typing import Any

from forwardpass.server.engine.queue import come_back_s, expects_interactive
from forwardpass.server.errors import (
    BacklogFullError,
    InternalError,
    ServingError,
    ShuttingDownError,
)
from forwardpass.server.observe.origin import REQUEST_ID, Origin
from forwardpass.server.transport.compression import BadMessageError, Packed
from forwardpass.server.transport.event_loop.answers import trailers
from forwardpass.server.transport.event_loop.arrivals import Peer
from forwardpass.server.transport.event_loop.calls import Exchange, InferCall, ReadCall
from forwardpass.server.transport.event_loop.messages import (
    LARGE_BYTES,
    PREFIX_BYTES,
    read_prefix,
)
from forwardpass.server.transport.event_loop.methods import InferExchange
from forwardpass.server.transport.event_loop.patience import Taking
from forwardpass.server.transport.event_loop.requests import Request
from forwardpass.server.transport.event_loop.state import ServerState
from forwardpass.server.transport.http2.connection import Connection
from forwardpass.server.transport.http2.errors import ErrorCode
from forwardpass.server.transport.http2.stream import Stream

_COPIED_BYTES = 2**15
"""Maximum size of a read that is copied, in bytes: a small copy parses faster than a view."""
_WRITTEN_APART_BYTES = 2**16
"""Minimum size of a buffer that is written on its own, in bytes; smaller ones are joined."""
_MAX_QUEUED_BYTES = 2**22
"""Maximum size of answers that a peer has not read, in bytes; above it its next calls wait."""
_REPLY_BYTES = 2**14
"""Expected size of an answer, in bytes, unless recent ones were larger."""
_REST_BYTES = 2**17
"""Minimum size of a read after which others are read first, in bytes."""
_BATCH_READ_BYTES = 2**16
"""Maximum size of a read of batch calls while interactive ones are expected, in bytes."""
_BATCH_REST_BYTES = 2**14
"""The same of a connection that sends calls of the class batch, unless interactive ones are
expected: then it rests after each read."""
_SHARE = 128
"""Maximum number of calls of one connection in a turn."""


class ClientConnection(asyncio.BufferedProtocol):
    """The asyncio protocol of one client's connection."""

    __slots__ = (
        "_aged",
        "_cancelled",
        "_counted",
        "_deaf",
        "_dirty",
        "_lost",
        "_reading",
        "_resting",
        "_sends_batch",
        "_small_bytes",
        "_state",
        "_taking",
        "_taking_streams",
        "_target",
        "_transport",
        "_written",
        "arrivals",
        "batch_calls",
        "calls",
        "connection",
        "exchanges",
        "expires",
        "max_message_bytes",
        "max_receive_s",
        "memory",
        "now",
        "peer",
        "reply_bytes",
        "unread_since",
        "waiting",
    )

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._transport: Any = None
        self.connection = Connection(state.limits)
        self.exchanges: set[Exchange] = set()
        """Calls that have more to receive, or to send, than one message."""
        self.calls: list[ReadCall] = []
        """Interactive calls that were read and are not in a turn yet."""
        self.batch_calls: list[ReadCall] = []
        """The same for calls of the class batch."""
        self._reading = False
        """Whether the calls that are added now are counted at the end of the read."""
        self._counted = True
        """Whether the calls are counted in the server's backlog: not while the client does not read
        its answers, or it would take the room of others."""
        self.waiting = False
        """Whether the next turn will take calls."""
        self.now = monotonic()
        """When the last bytes arrived."""
        self.expires = state.connection_end(self.now)
        """When the connection is asked to end, and later forced to; None: never."""
        self.reply_bytes = _REPLY_BYTES
        """Expected size of an answer, in bytes."""
        self._target: memoryview | None = None
        """The buffer of the running read; None: the shared one."""
        self._cancelled = False
        """Whether waiting calls may have been cancelled."""
        self._aged = False
        self._lost = False
        self.max_message_bytes = state.max_message_bytes
        self.max_receive_s = state.max_receive_s
        self._small_bytes = min(state.max_message_bytes, LARGE_BYTES - 1)
        """Maximum size of a message that is not counted in the server's memory, in bytes."""
        self.memory = state.memory
        self.arrivals = state.arrivals
        self._written = 0
        """Bytes written to the socket, or to its buffer here."""
        self.unread_since: float | None = None
        self._taking = Taking(self.now, 0, 0)
        """How fast the client takes what is in the socket's buffer here."""
        self._taking_streams: dict[Stream, Taking] = {}
        """How fast it takes the answers that wait for that."""
        self._dirty = False
        self._resting = False
        """Whether reading is paused until others have been read."""
        self._sends_batch = False
        """Whether the latest call that was not of the common form is of the class batch."""
        self._deaf = False
        """Whether reading is paused because the client does not read its answers."""

    @property
    def listening(self) -> bool:
        """Whether the client may send: False while it does not read its answers."""
        return not (self._deaf or self.connection.holding)

    @property
    def piled_up(self) -> bool:
        """Whether no more answers may be made until the client has read some."""
        return self.connection.queued_bytes > _MAX_QUEUED_BYTES

    @property
    def closed(self) -> bool:
        """Whether the server accepts no more calls."""
        return self._state.closed

    # Called by asyncio

    def connection_made(self, transport: Any) -> None:
        """Begin, or turn the client away."""
        self._transport = transport
        self.peer = Peer(transport)
        if not self._state.admit(self):
            self.abort()
            return
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None and ssl_object.selected_alpn_protocol() != "h2":
            # RFC 9113, 3.3: over TLS, HTTP/2 is agreed on by ALPN and in no other way.
            self._state.handshake_failed(str(self.peer), "the client does not offer h2 by ALPN")
            self.abort()
            return
        transport.set_write_buffer_limits(high=2**20, low=2**18)
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the sink of a large message, or else the buffer that all connections share.

        Sharing works because data that was read is handled at once.
        """
        del sizehint
        state = self._state
        if self.connection.cut is None and not self._sends_batch:
            # Nearly always, and each call of a function costs.
            self._target = None
            return state.buffer
        target = self._target = self.connection.room()
        if self._sends_batch and expects_interactive():
            if target is None:
                return state.buffer[:_BATCH_READ_BYTES]
            target = self._target = target[:_BATCH_READ_BYTES]
        return state.buffer if target is None else target

    def buffer_updated(self, nbytes: int) -> None:
        """Read frames, and collect the calls that are whole."""
        connection = self.connection
        if self._target is not None:
            self._target = None
            news = connection.receive_placed(nbytes)
        else:
            data = self._state.buffer[:nbytes]
            news = connection.receive(bytes(data) if nbytes <= _COPIED_BYTES else data)
        self.now = connection.heard
        self._reading = True
        before, batch_before = len(self.calls), len(self.batch_calls)
        for stream in news:
            self._read(stream)
        self._reading = False
        calls, batch_calls = self.calls, self.batch_calls
        if calls or batch_calls:
            state = self._state
            if self._counted:
                state.waiting += len(calls) - before
                if batch_calls:
                    state.batch_waiting += len(batch_calls) - batch_before
                if state.waiting > state.max_backlog or state.batch_waiting > state.max_backlog:
                    self._shed()
            if not self.waiting:
                self.waiting = True
                state.turn.wait(self)
        # Not only without a new call, whose answer may take long.
        if connection.output or connection.queued_bytes or connection.ending or connection.holding:
            self.dirty()
        if (
            (nbytes >= _REST_BYTES or self._sends_batch)
            and (nbytes >= _BATCH_REST_BYTES or expects_interactive())
            and not (self._resting or self._lost)
        ):
            self._resting = True
            self._transport.pause_reading()
            self._state.resting.add(self, nbytes, batch=self._sends_batch)

    def read_on(self) -> None:
        """Read again after a rest."""
        self._resting = False
        if not (self._deaf or self._lost):
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """Close: a client that sends no more needs no answers either."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Cancel what is in flight."""
        del error
        self._lost = True
        for stream in list(self.connection.streams.values()):
            self.connection.reset(stream, ErrorCode.CANCEL)
            if stream.owner is not None:
                stream.owner.news()
        self._drop_cancelled()
        self._state.dismiss(self)

    def pause_writing(self) -> None:
        """Keep back answers, and the client's next calls, until it reads."""
        self.connection.pause()
        self._deaf = True
        if not self._lost:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self.connection.resume()
        self._deaf = False
        if not self._lost:
            if not self._resting:
                self._transport.resume_reading()
            self.dirty()

    # Called by the rest of the server

    def dirty(self) -> None:
        """Schedule pending output to be written at the end of the turn."""
        if not self._dirty:
            self._dirty = True
            self._state.turn.flush_later(self)

    def submit(self, call: ReadCall) -> None:
        """Queue a call for the next turn, once its message is unpacked."""
        message = call.message
        if isinstance(message, Packed):
            self._state.read(message.unpacked, partial(self._unpacked, call))
        else:
            self._submit(call)

    def _unpacked(self, call: ReadCall, message: bytes | Exception) -> None:
        if isinstance(message, bytes):
            call.unpacked(message)
            if self.memory.full:
                call.spoilt(self.memory.refusal())
            elif call.active is None or call.active():
                self._submit(call)
            else:
                call.respond()
        elif isinstance(message, BadMessageError):
            call.spoilt(message.outcome)
        else:
            call.spoilt(message if isinstance(message, ServingError) else InternalError())

    def _submit(self, call: ReadCall) -> None:
        self._sends_batch = call.batch
        (self.batch_calls if call.batch else self.calls).append(call)
        if not self._reading:
            self._count(call.batch, 1)
        # Until an answer is known: a large request suggests a large answer.
        self.reply_bytes = max(self.reply_bytes, len(call.message))
        if not self.waiting:
            self.waiting = True
            self._state.turn.wait(self)

    def check_backlog(self, *, batch: bool) -> None:
        """Raise BacklogFullError if no call of a class may begin."""
        state = self._state
        if (state.batch_waiting if batch else state.waiting) >= state.max_backlog:
            raise BacklogFullError(state.max_backlog, self._come_back_s())

    def over(self, exchange: Exchange) -> None:
        """Forget a call."""
        self.exchanges.discard(exchange)
        if not self.exchanges:
            self._state.busy.discard(self)

    def flush(self) -> None:
        """Write pending output; close the connection if it is over."""
        self._dirty = False
        if self._lost:
            return
        connection = self.connection
        transport = self._transport
        while parts := connection.to_send():
            if len(parts) == 1:
                self._written += len(parts[0])
                transport.write(parts[0])
            else:
                size = sum(map(len, parts))
                self._written += size
                if size > _WRITTEN_APART_BYTES:
                    transport.writelines(parts)
                else:
                    transport.write(b"".join(parts))
            if not connection.queued_bytes:
                break
        if connection.ending and connection.over and not connection.has_output:
            self._lost = True
            transport.close()
        elif connection.holding and self._room() > 0:
            connection.release()
            self._state.turn.wait(self)
            self.dirty()

    def take_calls(self) -> list[ReadCall]:
        """Return the calls for this turn; the others keep waiting.

        If the client does not read its answers, all calls keep waiting.
        """
        if self._cancelled:
            self._cancelled = False
            self._drop_cancelled()
        connection = self.connection
        if (
            # Whether all may begin, where it takes little to know; `_room` knows it for others.
            self._counted
            and self.reply_bytes == _REPLY_BYTES
            and not self.batch_calls
            # The answers of twice as many, of the expected size, are _MAX_QUEUED_BYTES.
            and len(connection.streams) <= _SHARE
            and len(self.calls) <= _SHARE
            and not connection.queued_bytes
        ):
            calls, self.calls = self.calls, []
            self._state.waiting -= len(calls)
            self.waiting = False
            return calls
        share = min(_SHARE, self._room())
        if share <= 0:
            self.connection.holding = True
            self._set_counted(False)
            return []
        self._set_counted(True)
        self.reply_bytes = max(_REPLY_BYTES, self.reply_bytes // 2)
        state = self._state
        calls = self.calls
        if len(calls) <= share:
            self.calls = []
        else:
            calls, self.calls = calls[:share], calls[share:]
        state.waiting -= len(calls)
        if self.batch_calls:
            room = min(share - len(calls), state.turn.batch_room)
            batch, self.batch_calls = self.batch_calls[:room], self.batch_calls[room:]
            state.batch_waiting -= len(batch)
            state.turn.batch_room -= len(batch)
            calls += batch
        if self.calls or self.batch_calls:
            state.turn.wait(self)
        else:
            self.waiting = False
        return calls

    def _count(self, batch: bool, calls: int) -> None:
        """Add calls to those that wait for a turn, or subtract them."""
        if not self._counted:
            return
        if batch:
            self._state.batch_waiting += calls
        else:
            self._state.waiting += calls

    def _set_counted(self, counted: bool) -> None:
        """Count the calls in the server's backlog, or no longer."""
        if counted is not self._counted:
            sign = 1 if counted else -1
            self._state.waiting += sign * len(self.calls)
            self._state.batch_waiting += sign * len(self.batch_calls)
            self._counted = counted

    def _drop_cancelled(self) -> None:
        """Forget cancelled calls, and release what they hold."""
        read = self.calls, self.batch_calls
        # An answer on a stream may add calls meanwhile.
        self.calls, self.batch_calls = [], []
        for call in (*read[0], *read[1]):
            if call.active is None or call.active():
                (self.batch_calls if call.batch else self.calls).append(call)
            else:
                self._count(call.batch, -1)
                call.respond()

    def _shed(self) -> None:
        """Refuse the newest calls of the connection, as many as are above the server's limit."""
        state = self._state
        error = BacklogFullError(state.max_backlog, self._come_back_s())
        for calls, above in (
            (self.calls, state.waiting - state.max_backlog),
            (self.batch_calls, state.batch_waiting - state.max_backlog),
        ):
            while above > 0 and calls:
                call = calls[-1]
                # Those of streams are limited by the stream.
                if not isinstance(call, InferCall):
                    break
                calls.pop()
                self._count(call.batch, -1)
                above -= 1
                self.arrivals.refused(error, call.origin)
                call.answer = error
                call.respond()

    def _come_back_s(self) -> float:
        since = self.waiting_since
        return come_back_s(0 if since is None else perf_counter_ns() - since)

    def _room(self) -> int:
        """Return how many more calls may begin, given that their answers may have to wait."""
        connection = self.connection
        # Calls of ModelStreamInfer share the stream of an exchange.
        unbegun = len(self.calls) + len(self.batch_calls) + len(self.exchanges)
        under_way = max(0, len(connection.streams) - unbegun)
        room = (_MAX_QUEUED_BYTES - connection.queued_bytes) // self.reply_bytes - under_way
        return room if under_way or connection.queued_bytes else max(1, room)

    def tick(self, now: float) -> None:
        """Check all time limits."""
        if self.expires is not None and now >= self.expires:
            if self._aged:
                self.abort()
                return
            self._aged = True
            self.expires = now + self._state.grace_s
            self.connection.leave()
        if self._takes_too_little(now):
            self.abort()
            return
        for stream in self.connection.tick():
            if stream.owner is not None:
                stream.owner.news()
        self.now = now
        for exchange in list(self.exchanges):
            exchange.tick(now)
        connection = self.connection
        if connection.has_output or connection.over or connection.holding:
            self.dirty()

    def _takes_too_little(self, now: float) -> bool:
        """Whether the client takes too little of its answers; resets streams of which it does."""
        connection = self.connection
        buffered = self._transport.get_write_buffer_size()
        taken = self._written - buffered
        if not buffered:
            self._taking.restart(now, taken, 0)
        if not (buffered or connection.queued_bytes):
            self.unread_since = None
            self._taking_streams.clear()
            return False
        if self.unread_since is None:
            self.unread_since = now
            self._taking.restart(now, taken, buffered)
        period_s = self._state.max_unread_s
        before, self._taking_streams = self._taking_streams, {}
        for stream, size in connection.waiting().items():
            taking = before.get(stream) or Taking(now, stream.sent_bytes, size)
            if taking.over(now, stream.sent_bytes, size, period_s):
                connection.reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
                if stream.owner is not None:
                    stream.owner.news()
                self.dirty()
            else:
                self._taking_streams[stream] = taking
        return self._taking.over(now, taken, buffered, period_s)

    @property
    def unread(self) -> int:
        """Bytes of answers that the caller has not taken."""
        buffered: int = self._transport.get_write_buffer_size()
        return self.connection.queued_bytes + buffered

    @property
    def in_flight(self) -> int:
        """The number of calls that are not answered; for any thread."""
        calls = len(self.connection.streams)
        for exchange in list(self.exchanges):
            calls += exchange.calls - 1
        return calls

    @property
    def waiting_since(self) -> int | None:
        """When the first call arrived that is not in a turn yet; for any thread."""
        # Slices, which are empty if another thread took the calls just now.
        first = self.calls[:1] + self.batch_calls[:1]
        return min(call.times[0] for call in first) if first else None

    @property
    def unanswered(self) -> bool:
        """Whether a call is in flight, or an answer is not written yet."""
        # A closing connection still writes; a lost one is dismissed.
        if self._transport.get_write_buffer_size():
            return True
        return not self._lost and bool(self.connection.streams)

    def leave(self) -> None:
        """Announce that the connection ends."""
        self.connection.leave()
        self.dirty()

    def close(self) -> None:
        """Close once written data is sent."""
        self.flush()
        self._lost = True
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._lost = True
        self._transport.abort()

    def _read(self, stream: Stream) -> None:
        owner = stream.owner
        if stream.reset is not None:
            # Calls of the stream may be waiting.
            self._cancelled = True
            if owner is not None:
                owner.news()
            return
        if owner is not None:
            owner.news()
            return
        request = stream.request.meaning
        if request is None:
            request = stream.request.meaning = Request(stream.request, self._state.methods)
        if request.method is InferExchange and stream.ended and len(stream.received) == 1:
            payload = stream.received[0]
            # The common form: one small message, complete and not compressed.
            size = len(payload) - PREFIX_BYTES
            state = self._state
            if (
                0 <= size <= self._small_bytes
                and read_prefix(payload) == (0, size)
                and not state.closed
            ):
                timeout_s = request.timeout_s
                deadline = None if timeout_s is None else self.now + timeout_s
                message = bytes(payload[PREFIX_BYTES:])
                arrivals = self.arrivals
                turn = state.turn
                times = turn.times or turn.begin()
                if arrivals.silent and not request.has_id:
                    call = InferCall(self, stream, request, message, deadline, times)
                else:
                    origin = arrivals.origin(request, self.peer)
                    try:
                        caller = arrivals.caller(request, self.peer)
                        if caller.quota is not None:
                            caller.quota.enter()
                    except ServingError as error:
                        self._refuse(stream, error, origin)
                        return
                    call = InferCall(
                        self, stream, request, message, deadline, times, caller, origin
                    )
                (self.batch_calls if call.batch else self.calls).append(call)
                return
        self._open(stream, request)

    def _refuse(self, stream: Stream, error: ServingError, origin: Origin) -> None:
        """Answer a ModelInfer call with an error, unread."""
        self.arrivals.refused(error, origin)
        metadata = {REQUEST_ID: origin.request_id} if origin.request_id else None
        self.connection.send_trailers(stream, trailers(error, metadata, alone=True))
        self.dirty()

    def _open(self, stream: Stream, request: Request) -> None:
        """Begin a call that is not of the common form."""
        if request.method is InferExchange and self._state.closed:
            self._refuse(stream, ShuttingDownError(), self.arrivals.origin(request, self.peer))
            return
        if request.method is None or self._state.closed:
            refusal = request.refusal or trailers(ShuttingDownError(), alone=True)
            self.connection.send_trailers(stream, refusal)
            self.dirty()
            return
        self._sends_batch = request.batch
        exchange = request.method(self, stream, request)
        stream.owner = exchange
        self.exchanges.add(exchange)
        self._state.busy.add(self)
        exchange.news()
