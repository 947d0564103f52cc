"""One connection of HTTP/1.1 on the event loop."""

import asyncio
from collections import deque
from http import HTTPStatus
from time import monotonic, perf_counter_ns
from typing import Any

from forwardpass.server.engine.queue import come_back_s
from forwardpass.server.errors import BacklogFullError
from forwardpass.server.rpc.infer import Times
from forwardpass.server.rpc.rest.infer_replies import dumps
from forwardpass.server.transport.event_loop.arrivals import Peer
from forwardpass.server.transport.event_loop.calls import ReadCall
from forwardpass.server.transport.event_loop.http_calls import HttpCall
from forwardpass.server.transport.event_loop.http_requests import Find, RestMethods
from forwardpass.server.transport.event_loop.patience import Taking
from forwardpass.server.transport.event_loop.state import ServerState
from forwardpass.server.transport.http1.answers import CONTINUE, head
from forwardpass.server.transport.http1.reader import BadRequestError, Head, Reader

_RUNNING = 128
"""Maximum number of calls of one connection that are answered at a time."""
_READ = 64
"""Maximum number of requests that are read of one connection before the others are read."""
_REST_BYTES = 2**17
"""Minimum size of a read after which others are read first, in bytes."""
_IDLE_S = 120.0
"""Maximum time without a request, in seconds; HTTP/1.1 cannot ask whether the client is there."""
_LINGER_S = 2.0
"""Time in which what a client still sends is read after the last answer, in seconds: closing
earlier would have its system drop the answer."""


class HttpConnection(asyncio.BufferedProtocol):
    """The asyncio protocol of one client's connection; answers in the order of the requests."""

    def __init__(self, state: ServerState, methods: RestMethods) -> None:
        self._state = state
        self._methods = methods
        self.requests = methods.requests
        self.replies = methods.replies
        self.find: Find = methods.find
        self._reader = Reader(self, methods.known)
        self._transport: Any = None
        self._queue: deque[HttpCall] = deque()
        """Requests whose answers are not written, in order; of the last one more may come."""
        self._whole: deque[HttpCall] = deque()
        """Those of them that have come and not begun."""
        self._current: HttpCall | None = None
        """The request that arrives."""
        self.calls: list[ReadCall] = []
        """Interactive calls that are not in a turn yet."""
        self.batch_calls: list[ReadCall] = []
        """The same for calls of the class batch."""
        self._waiting = False
        """Whether the next turn will take calls."""
        self.arrivals = state.arrivals
        self.memory = state.memory
        self.read = state.read
        self.max_receive_s = state.max_receive_s
        self.now = monotonic()
        self._idle_since = self.now
        self._head_since = self.now
        self._expires = state.connection_end(self.now)
        self._old = False
        """Whether the connection is above its maximum age."""
        self._lost = False
        self._leaving = False
        """Whether the connection ends with the answers to what has come."""
        self._lingers_until: float | None = None
        """When it is closed, whatever still comes; None: it goes on."""
        self._ended = False
        """Whether the client sends nothing more."""
        self._deaf = False
        """Whether the client does not read its answers."""
        self._resting = False
        self._unparsed = b""
        """What has been read and is no request yet, since there were enough before."""
        self._paused = False
        self._dirty = False
        self._written = 0
        """Bytes written to the socket, or to its buffer here."""
        self._taking = Taking(self.now, 0, 0)
        """How fast the client takes what is in the socket's buffer here."""
        self.unread_since: float | None = None
        self._failure: BadRequestError | None = None

    # Called by asyncio

    def connection_made(self, transport: Any) -> None:
        """Begin, or turn the client away."""
        self._transport = transport
        self.peer = Peer(transport)
        if not self._state.admit(self):
            self.abort()
            return
        transport.set_write_buffer_limits(high=2**20, low=2**18)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer that all connections share: what was read is handled at once."""
        del sizehint
        return self._state.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Read requests."""
        self.now = monotonic()
        if self._lingers_until is not None:
            return
        self._unparsed = bytes(self._state.buffer[:nbytes])
        self._parse()
        if nbytes >= _REST_BYTES or self._unparsed:
            self._rest(nbytes)

    def _parse(self) -> None:
        was_in_head = self._reader.in_head
        data, self._unparsed = self._unparsed, b""
        room = self._state.limits.max_streams - len(self._queue)
        try:
            self._unparsed = self._reader.feed(data, max(0, min(_READ, room)))
        except BadRequestError as error:
            self._reader.close()
            self._failure = error
            call, self._current = self._current, None
            if call is not None and call.output is None:
                # What was to be its body is no body.
                self._queue.pop()
                call.gone()
            elif call is not None:
                call.closes = True
            self.dirty()
        if self._reader.in_head and not was_in_head:
            self._head_since = self.now
        self._start()
        self._look_at_reading()

    def _rest(self, nbytes: int) -> None:
        if not (self._resting or self._lost):
            self._resting = True
            self._look_at_reading()
            self._state.resting.add(self, nbytes, batch=False)

    def read_on(self) -> None:
        """Read again after a rest."""
        self._resting = False
        if self._unparsed and len(self._queue) < self._state.limits.max_streams:
            self._parse()
            if self._unparsed:
                self._rest(0)
        self._look_at_reading()

    def eof_received(self) -> bool:
        """Answer what has come, and close; True: not at once."""
        self._ended = True
        if self._lingers_until is not None:
            return False
        if self._queue and self._current is None and not self._reader.in_head:
            self._leaving = True
            self._reader.close()
            # Over TLS there is no half of a connection.
            return self._transport.get_extra_info("ssl_object") is None
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Release what is in flight."""
        del error
        self._lost = True
        self._reader.close()
        queue, self._queue = self._queue, deque()
        for call in self._whole:
            call.drop()
        self._whole.clear()
        for call in queue:
            call.gone()
        calls = self.calls + self.batch_calls
        self._state.waiting -= len(self.calls)
        self._state.batch_waiting -= len(self.batch_calls)
        self.calls, self.batch_calls = [], []
        for waiting in calls:
            waiting.respond()
        self._current = None
        self._state.dismiss(self)

    def pause_writing(self) -> None:
        """Keep back answers, and the client's next requests, until it reads."""
        self._deaf = True
        self._state.busy.add(self)
        self._look_at_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._deaf = False
        if not self._lost:
            self._state.busy.discard(self)
            self._look_at_reading()
            self.dirty()

    # Called by the reader

    def on_head(self, head: Head) -> None:
        """Begin a request."""
        if self._leaving:
            self._reader.close()
            return
        self._current = call = HttpCall(self, head, self._methods.read(head))
        self._queue.append(call)
        if call.expects and call.output is None:
            self.dirty()

    def on_body(self, data: bytes) -> None:
        """Take a part of its body."""
        call = self._current
        if call is not None:
            call.take(data)
            if call.output is not None and call.closes:
                self._end_reading()
                self.dirty()

    def on_end(self) -> None:
        """Take it as a whole."""
        call = self._current
        if call is not None:
            self._current = None
            self._come(call)

    def on_whole(self, head: Head, body: bytes) -> None:
        """Take a request that came as a whole."""
        if self._leaving:
            self._reader.close()
            return
        call = HttpCall(self, head, self._methods.read(head))
        self._queue.append(call)
        self._come(call, body)

    def _come(self, call: HttpCall, body: bytes | None = None) -> None:
        call.end(body)
        if call.output is None:
            self._whole.append(call)
        else:
            self.dirty()
        if call.closes:
            self._end_reading()

    def _end_reading(self) -> None:
        """Take no more requests: the connection ends after the last answer."""
        self._leaving = True
        self._reader.close()

    # Called by calls

    @property
    def ends(self) -> bool:
        """Whether the connection ends after the next answer: a new one may be to another server."""
        return self._old or self._state.health.draining

    @property
    def closed(self) -> bool:
        """Whether the server accepts no more calls."""
        return self._state.closed

    def times(self) -> Times:
        """Return when what is read now arrived."""
        turn = self._state.turn
        return turn.times or turn.begin()

    def is_open(self) -> bool:
        """Whether the client is still there."""
        return not self._lost

    def check_backlog(self, *, batch: bool) -> None:
        """Raise BacklogFullError if no call of a class may begin."""
        state = self._state
        if (state.batch_waiting if batch else state.waiting) >= state.max_backlog:
            since = self.waiting_since
            waited_ns = 0 if since is None else perf_counter_ns() - since
            raise BacklogFullError(state.max_backlog, come_back_s(waited_ns))

    def submit(self, call: HttpCall) -> None:
        """Queue a call for the next turn."""
        if call.batch:
            self.batch_calls.append(call)
            self._state.batch_waiting += 1
        else:
            self.calls.append(call)
            self._state.waiting += 1
        if not self._waiting:
            self._waiting = True
            self._state.turn.wait(self)

    def dirty(self) -> None:
        """Schedule pending output to be written at the end of the turn."""
        if not self._dirty and not self._lost:
            self._dirty = True
            self._state.turn.flush_later(self)

    # Called by the rest of the server

    def take_calls(self) -> list[ReadCall]:
        """Return the calls for this turn."""
        state = self._state
        calls, self.calls = self.calls, []
        state.waiting -= len(calls)
        if self.batch_calls:
            room = state.turn.batch_room
            batch, self.batch_calls = self.batch_calls[:room], self.batch_calls[room:]
            state.batch_waiting -= len(batch)
            state.turn.batch_room -= len(batch)
            calls += batch
        if self.batch_calls:
            state.turn.wait(self)
        else:
            self._waiting = False
        return calls

    def flush(self) -> None:
        """Write the answers that are next; close the connection after the last."""
        self._dirty = False
        if self._lost:
            return
        queue = self._queue
        parts: list[bytes] = []
        closes = False
        while queue and queue[0].output is not None and not self._deaf:
            call = queue[0]
            parts += call.output or ()
            if not (call.whole or call.closes):
                # It is refused before the end of its body, which is dropped.
                call.output = []
                break
            queue.popleft()
            if call is self._current:
                self._current = None
            if call.closes:
                closes = True
                break
        else:
            if queue and queue[0].expects and not queue[0].whole and not self._deaf:
                queue[0].expects = False
                parts.append(CONTINUE)
        if self._failure is not None and not queue and not closes:
            parts += _written(self._failure)
            closes = True
        if parts:
            self._idle_since = self.now
            size = sum(map(len, parts))
            self._written += size
            if len(parts) <= 2 or size <= _REST_BYTES:
                self._transport.write(b"".join(parts))
            else:
                self._transport.writelines(parts)
        if closes or (self._leaving and not queue and self._failure is None):
            self._close_softly()
            return
        if self._whole:
            self._start()
        if self._unparsed and len(self._queue) < self._state.limits.max_streams:
            self._rest(0)
        if self._paused:
            self._look_at_reading()

    def tick(self, now: float) -> None:
        """Check all time limits."""
        if self._lingers_until is not None:
            if self._reads_slowly(now):
                self.abort()
            elif self._transport.get_write_buffer_size():
                # The last answer is still read.
                self._lingers_until = now + _LINGER_S
            elif now >= self._lingers_until:
                self.abort()
            return
        if self._expires is not None and now >= self._expires:
            if self._old:
                # Idle meanwhile, mostly: who sends now connects anew.
                self.close()
                return
            # The next answer says so: closing now would lose a request on its way.
            self._old = True
            self._expires = now + self._state.grace_s
        if self._reads_slowly(now):
            self.abort()
            return
        if self._current is not None:
            self._current.tick(now, listening=not (self._paused or self._resting))
            if self._current.closes and self._current.output is not None:
                self._end_reading()
                self.dirty()
        elif self._reader.in_head:
            if now - self._head_since > self._state.limits.handshake_s and not self._failure:
                self._reader.close()
                self._failure = BadRequestError(
                    f"the head is not complete after {self._state.limits.handshake_s:g} s",
                    HTTPStatus.REQUEST_TIMEOUT,
                )
                self.dirty()
        elif not self._queue and now - max(self._idle_since, self.now) > _IDLE_S:
            self.close()

    def _reads_slowly(self, now: float) -> bool:
        buffered = int(self._transport.get_write_buffer_size())
        taken = self._written - buffered
        if not buffered:
            self.unread_since = None
            self._taking.restart(now, taken, 0)
            return False
        if self.unread_since is None:
            self.unread_since = now
            self._taking.restart(now, taken, buffered)
        return self._taking.over(now, taken, buffered, self._state.max_unread_s)

    @property
    def unread(self) -> int:
        """Bytes of answers that the client has not taken."""
        if self._lost or self._transport is None:
            return 0
        waiting = sum(sum(map(len, call.output)) for call in self._queue if call.output)
        return waiting + int(self._transport.get_write_buffer_size())

    @property
    def in_flight(self) -> int:
        """The number of calls that are not answered; for any thread."""
        return len(self._queue)

    @property
    def waiting_since(self) -> int | None:
        """When the first call arrived that is not in a turn yet; for any thread."""
        first = self.calls[:1] + self.batch_calls[:1]
        return min(call.times[0] for call in first) if first else None

    @property
    def unanswered(self) -> bool:
        """Whether a call is in flight, or an answer is not written yet."""
        if self._lost:
            return False
        return bool(self._queue) or bool(self._transport.get_write_buffer_size())

    def leave(self) -> None:
        """End the connection with the answers to what has come."""
        if self._current is None and not self._reader.in_head:
            self._end_reading()
            for call in self._queue:
                if call is self._queue[-1] and call.output is None:
                    call.closes = True
        else:
            self._leaving = True
            if self._current is not None:
                self._current.closes = True
        self.dirty()

    def close(self) -> None:
        """Close once written data is sent."""
        self._lost = True
        self._reader.close()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._lost = True
        self._reader.close()
        self._transport.abort()

    def _close_softly(self) -> None:
        """Close so that the client gets the last answer, also if it still sends."""
        if self._lingers_until is not None:
            return
        self._lingers_until = monotonic() + _LINGER_S
        self._reader.close()
        self._look_at_reading()
        if self._transport.can_write_eof() and not self._ended:
            self._transport.write_eof()
        else:
            self._transport.close()

    def _start(self) -> None:
        """Begin as many calls as may."""
        while self._whole and not self._lost:
            call = self._whole[0]
            if call.output is not None:
                self._whole.popleft()
                continue
            if not self._may_start(call):
                return
            self._whole.popleft()
            call.start()

    def _may_start(self, call: HttpCall) -> bool:
        before = self._queue.index(call)
        if not before:
            return True
        # A change of the server begins and ends alone; what is slow is long, or takes the lock.
        first = self._queue[0]
        if call.changes or call.slow or (first.changes and first.output is None):
            return False
        return before < _RUNNING and not self._deaf

    def _look_at_reading(self) -> None:
        """Read, unless there is a reason not to."""
        if self._lost:
            return
        stop = self._resting or (
            self._lingers_until is None
            and (
                self._deaf
                or bool(self._unparsed)
                or len(self._queue) >= self._state.limits.max_streams
            )
        )
        if stop is not self._paused:
            self._paused = stop
            if stop:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()


def _written(failure: BadRequestError) -> list[bytes]:
    body = dumps({"error": str(failure)}).encode()
    return [head(failure.status, len(body), close=True), body]
