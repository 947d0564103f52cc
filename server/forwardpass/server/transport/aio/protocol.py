"""One connection on the event loop: bytes from the socket in, calls out, answers back."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from forwardpass.server.errors import ServingError, ShuttingDownError, UnauthenticatedError
from forwardpass.server.origin import REQUEST_ID, Origin
from forwardpass.server.transport.aio.answers import trailers
from forwardpass.server.transport.aio.arrivals import Peer
from forwardpass.server.transport.aio.calls import Exchange, InferCall, ReadCall
from forwardpass.server.transport.aio.messages import LARGE_BYTES
from forwardpass.server.transport.aio.methods import InferExchange
from forwardpass.server.transport.aio.requests import Request
from forwardpass.server.transport.http2.connection import Connection
from forwardpass.server.transport.http2.errors import ErrorCode
from forwardpass.server.transport.http2.stream import Stream

if TYPE_CHECKING:
    from forwardpass.server.transport.aio.server import AsyncioServer

_COPIED_BYTES = 2**15
"""Of a read: what is less is parsed faster as bytes of its own than as a view."""
_WRITTEN_APART_BYTES = 2**16
"""Of a write: what is more is not joined."""
_MAX_QUEUED_BYTES = 2**22
"""Of answers that a peer does not take: above it its next calls wait."""
_STUCK_S = 60.0
"""A client that takes nothing of its answers for so long is gone."""
_REPLY_BYTES = 2**14
"""What an answer is expected to have, unless some had more just now."""
_SHARE = 128
"""Most calls of one connection in a turn."""


class ClientConnection(asyncio.BufferedProtocol):
    """What asyncio calls when something comes from, or may go to, one client."""

    __slots__ = (
        "_aged",
        "_cancelled",
        "_deaf",
        "_dirty",
        "_lost",
        "_server",
        "_small_bytes",
        "_stuck",
        "_stuck_since",
        "_target",
        "_transport",
        "arrivals",
        "calls",
        "connection",
        "exchanges",
        "expires",
        "max_message_bytes",
        "memory",
        "now",
        "peer",
        "reply_bytes",
        "waiting",
    )

    def __init__(self, server: "AsyncioServer") -> None:
        self._server = server
        self._transport: Any = None
        self.connection = Connection(server.limits)
        self.exchanges: set[Exchange] = set()
        """Calls that have more to come, or to send, than one message."""
        self.calls: list[ReadCall] = []
        """Read and not handed over yet."""
        self.waiting = False
        """Whether the next turn will ask for them."""
        self.now = monotonic()
        """When the last bytes came."""
        self.expires = server.connection_end(self.now)
        """When the connection is asked to end, and later made to; None: never."""
        self.reply_bytes = _REPLY_BYTES
        """What an answer is expected to have."""
        self._target: memoryview | None = None
        """What is read into, where that is not the memory which all share."""
        self._cancelled = False
        """Whether calls that wait may have been cancelled."""
        self._aged = False
        self._lost = False
        self.max_message_bytes = server.max_message_bytes
        self._small_bytes = min(server.max_message_bytes, LARGE_BYTES - 1)
        """Most of a message that is not counted in the server's memory."""
        self.memory = server.memory
        self.arrivals = server.arrivals
        self._stuck: tuple[int, int] = (0, 0)
        self._stuck_since = self.now
        """What waits to be written, and since when nothing of it was."""
        self._dirty = False
        self._deaf = False
        """Whether nothing is read: the client does not take its answers."""

    @property
    def listening(self) -> bool:
        """Whether the client may send: not while it does not take its answers."""
        return not (self._deaf or self.connection.holding)

    @property
    def piled_up(self) -> bool:
        """Whether no more answers may be made, until the client has taken some."""
        return self.connection.queued_bytes > _MAX_QUEUED_BYTES

    @property
    def closed(self) -> bool:
        """Whether the server takes no more calls."""
        return self._server.closed

    # What asyncio calls

    def connection_made(self, transport: Any) -> None:
        """Begin, or turn the client away."""
        self._transport = transport
        self.peer = Peer(transport)
        if not self._server.admit(self):
            self.abort()
            return
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None and ssl_object.selected_alpn_protocol() != "h2":
            # RFC 9113, 3.3: over TLS, HTTP/2 is agreed on by ALPN and in no other way.
            self.abort()
            return
        transport.set_write_buffer_limits(high=2**20, low=2**18)
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Have the bytes of a large message read to where they belong.

        For all else the connections share their memory: what is read is dealt with at once.
        """
        del sizehint
        self._target = self.connection.room()
        return self._server.buffer if self._target is None else self._target

    def buffer_updated(self, nbytes: int) -> None:
        """Read frames, and collect the calls that are whole."""
        connection = self.connection
        self.now = monotonic()
        if self._target is not None:
            self._target = None
            news = connection.receive_placed(nbytes)
        else:
            data = self._server.buffer[:nbytes]
            news = connection.receive(bytes(data) if nbytes <= _COPIED_BYTES else data)
        for stream in news:
            self._read(stream)
        if self.calls and not self.waiting:
            self.waiting = True
            self._server.turn.wait(self)
        # Not only where no call came: its answer may take long.
        if connection.has_output or connection.over or connection.holding:
            self.dirty()

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
        self._server.dismiss(self)

    def pause_writing(self) -> None:
        """Let answers wait, and the client's next calls with them, until it reads."""
        self.connection.pause()
        self._deaf = True
        if not self._lost:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self.connection.resume()
        self._deaf = False
        if not self._lost:
            self._transport.resume_reading()
            self.dirty()

    # What the server's other parts call

    def dirty(self) -> None:
        """Have what is to be sent written at the end of the turn."""
        if not self._dirty:
            self._dirty = True
            self._server.turn.flush_later(self)

    def submit(self, call: ReadCall) -> None:
        """Have a call answered in the next turn."""
        self.calls.append(call)
        # Until answers tell: of a large request a large one is to be expected.
        self.reply_bytes = max(self.reply_bytes, len(call.message))
        if not self.waiting:
            self.waiting = True
            self._server.turn.wait(self)

    def over(self, exchange: Exchange) -> None:
        """Forget a call."""
        self.exchanges.discard(exchange)
        if not self.exchanges:
            self._server.busy.discard(self)

    def flush(self) -> None:
        """Write what is to be sent; close what is over."""
        self._dirty = False
        if self._lost:
            return
        connection = self.connection
        transport = self._transport
        while parts := connection.to_send():
            if len(parts) > 1 and sum(map(len, parts)) > _WRITTEN_APART_BYTES:
                transport.writelines(parts)
            else:
                transport.write(b"".join(parts))
        if connection.over and not connection.has_output:
            self._lost = True
            transport.close()
        elif connection.holding and self._room() > 0:
            connection.release()
            self._server.turn.wait(self)
            self.dirty()

    def take_calls(self) -> list[ReadCall]:
        """Return the calls for this turn; the others go on waiting.

        So do all of a client that does not take its answers.
        """
        if self._cancelled:
            self._cancelled = False
            self._drop_cancelled()
        share = min(_SHARE, self._room())
        if share <= 0:
            self.connection.holding = True
            return []
        self.reply_bytes = max(_REPLY_BYTES, self.reply_bytes // 2)
        calls = self.calls
        if len(calls) <= share:
            self.calls = []
            self.waiting = False
            return calls
        self.calls = calls[share:]
        self._server.turn.wait(self)
        return calls[:share]

    def _drop_cancelled(self) -> None:
        """Forget calls that no one waits for, and what they hold."""
        calls, self.calls = self.calls, []
        for call in calls:
            if call.active is None or call.active():
                self.calls.append(call)
            else:
                call.respond()

    def _room(self) -> int:
        """Return how many more calls may be under way: their answers may have to wait here."""
        connection = self.connection
        # Calls of ModelStreamInfer share the stream of an exchange.
        under_way = max(0, len(connection.streams) - len(self.calls) - len(self.exchanges))
        room = (_MAX_QUEUED_BYTES - connection.queued_bytes) // self.reply_bytes - under_way
        return room if under_way or connection.queued_bytes else max(1, room)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self.expires is not None and now >= self.expires:
            if self._aged:
                self.abort()
                return
            self._aged = True
            self.expires = now + self._server.grace_s
            self.connection.leave()
        stuck = (self.connection.queued_bytes, self._transport.get_write_buffer_size())
        if stuck != self._stuck or stuck == (0, 0):
            self._stuck, self._stuck_since = stuck, now
        elif now - self._stuck_since > _STUCK_S:
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

    @property
    def unanswered(self) -> bool:
        """Whether a call is in flight, or an answer not on its way yet."""
        # A connection that is closing still writes; one that is lost is dismissed.
        if self._transport.get_write_buffer_size():
            return True
        return not self._lost and bool(self.connection.streams)

    def leave(self) -> None:
        """Announce that the connection ends."""
        self.connection.leave()
        self.dirty()

    def close(self) -> None:
        """End once what was written is sent."""
        self.flush()
        self._lost = True
        self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._lost = True
        self._transport.abort()

    def _read(self, stream: Stream) -> None:
        owner = stream.owner
        if stream.reset is not None:
            # Its calls may have been read and wait.
            self._cancelled = True
            if owner is not None:
                owner.news()
            return
        if owner is not None:
            owner.news()
            return
        request = stream.request.meaning
        if request is None:
            request = stream.request.meaning = Request(stream.request, self._server.methods)
        if request.method is InferExchange and stream.ended and len(stream.received) == 1:
            payload = stream.received[0]
            # The common form: one whole small message that is not compressed.
            size = len(payload) - 5
            if (
                payload[0] == 0
                and int.from_bytes(payload[1:5], "big") == size <= self._small_bytes
                and not self._server.closed
            ):
                timeout_s = request.timeout_s
                deadline = None if timeout_s is None else self.now + timeout_s
                message = bytes(payload[5:])
                arrivals = self.arrivals
                if arrivals.silent and not request.tells:
                    call = InferCall(self, stream, request, message, deadline)
                else:
                    origin = arrivals.origin(request, self.peer)
                    try:
                        caller = arrivals.caller(request, self.peer)
                    except UnauthenticatedError as error:
                        self._refuse(stream, error, origin)
                        return
                    call = InferCall(self, stream, request, message, deadline, caller, origin)
                self.calls.append(call)
                return
        self._open(stream, request)

    def _refuse(self, stream: Stream, error: ServingError, origin: Origin) -> None:
        """Answer a ModelInfer call with an error before it is looked at."""
        self.arrivals.refused(error, origin)
        metadata = {REQUEST_ID: origin.request_id} if origin.request_id else None
        self.connection.send_trailers(stream, trailers(error, metadata, alone=True))
        self.dirty()

    def _open(self, stream: Stream, request: Request) -> None:
        """Begin a call that is not of the common form."""
        if request.method is InferExchange and self._server.closed:
            self._refuse(stream, ShuttingDownError(), self.arrivals.origin(request, self.peer))
            return
        if request.method is None or self._server.closed:
            refusal = request.refusal or trailers(ShuttingDownError(), alone=True)
            self.connection.send_trailers(stream, refusal)
            self.dirty()
            return
        exchange = request.method(self, stream, request)
        stream.owner = exchange
        self.exchanges.add(exchange)
        self._server.busy.add(self)
        exchange.news()
