"""Calls over HTTP: from a request's body to the RPC that answers, and back."""

import logging
import math
import zlib
from collections.abc import Callable, Sequence
from http import HTTPStatus
from time import perf_counter_ns
from typing import Any, Protocol

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto import timing
from forwardpass.server.access.caller import ANYONE, Action, Caller
from forwardpass.server.access.quota import Quota
from forwardpass.server.errors import (
    CallCancelledError,
    InternalError,
    InvalidRequestError,
    MessageTooLargeError,
    ServingError,
    ShuttingDownError,
    UnauthenticatedError,
)
from forwardpass.server.observe.origin import NOWHERE, REQUEST_ID, Origin
from forwardpass.server.rpc.infer import Reply, Times
from forwardpass.server.rpc.method import Later
from forwardpass.server.rpc.rest.infer_replies import Body, InferReplies, dumps
from forwardpass.server.rpc.rest.infer_requests import HEADER_SIZE, InferRequests, Wanted
from forwardpass.server.rpc.rest.predictions import Predicted, read_predict
from forwardpass.server.rpc.rest.routes import Route, RouteError, Shown
from forwardpass.server.rpc.rest.statuses import http_status
from forwardpass.server.transport.compression import (
    WINDOW_BITS,
    BadMessageError,
    Packed,
    unpack,
    unpack_small,
)
from forwardpass.server.transport.event_loop.arrivals import Peer, RequestArrivals
from forwardpass.server.transport.event_loop.http_requests import Find, HttpRequest
from forwardpass.server.transport.event_loop.memory import RequestMemory
from forwardpass.server.transport.event_loop.messages import LARGE_BYTES
from forwardpass.server.transport.event_loop.methods import Work
from forwardpass.server.transport.event_loop.patience import Patience
from forwardpass.server.transport.http1.answers import JSON, head
from forwardpass.server.transport.http1.reader import Head
from forwardpass.server.transport.status import Outcome, outcome

logger = logging.getLogger(__name__)

_BINARY = b"application/octet-stream"
_LONG_BYTES = 2**15
"""Minimum size of an answer that is written as JSON in a thread, in bytes."""
_FEATURES_BYTES = 2**13
"""Minimum size of named features that are read in a thread, in bytes; each is looked up by name."""
_PACKED_BYTES = range(2**9, 2**18 + 1)
"""Sizes of answers that are compressed, in bytes: smaller ones gain nothing, and larger ones would
hold the loop."""
_SPARED_BYTES = 2**16
"""Maximum size of the body of a refused request that is read, so that the connection goes on."""


class HttpWire(Protocol):
    """A connection as its calls see it."""

    arrivals: RequestArrivals
    peer: Peer
    memory: RequestMemory
    requests: InferRequests
    replies: InferReplies
    find: Find
    read: Work
    max_receive_s: float
    """Maximum time for a request to arrive, in seconds."""
    now: float
    """When the last bytes arrived, on the clock of time.monotonic."""

    @property
    def ends(self) -> bool:
        """Whether the connection ends after the next answer."""

    @property
    def closed(self) -> bool:
        """Whether the server accepts no more calls."""

    def times(self) -> Times:
        """Return when what is read now arrived."""

    def is_open(self) -> bool:
        """Whether the client is still there."""

    def check_backlog(self, *, batch: bool) -> None:
        """Raise BacklogFullError if no call of a class may begin."""

    def submit(self, call: "HttpCall") -> None:
        """Queue a call for the next turn."""

    def dirty(self) -> None:
        """Schedule pending output to be written at the end of the turn."""


class HttpCall:
    """One request and its answer: a `ReadCall` if it is a ModelInfer."""

    __slots__ = (
        "_begun",
        "_body",
        "_come",
        "_counted",
        "_later",
        "_patience",
        "_quota",
        "_size",
        "_wanted",
        "active",
        "answer",
        "answer_share",
        "batch",
        "caller",
        "closes",
        "deadline",
        "expects",
        "message",
        "origin",
        "output",
        "request",
        "times",
        "whole",
        "wire",
    )

    def __init__(self, wire: HttpWire, head: Head, request: HttpRequest) -> None:
        """Begin; the body comes later."""
        self.wire = wire
        self.request = request
        self.message: bytes | memoryview = b""
        self.deadline: float | None = None
        self.active: Callable[[], bool] | None = wire.is_open
        self.caller: Caller = ANYONE
        self.origin: Origin = NOWHERE
        self.times: Times = wire.times()
        self.batch = request.batch
        self.answer: Reply | ServingError | None = None
        self.answer_share = 1
        self.output: Sequence[bytes] | None = None
        """The answer as it is sent; None until there is one."""
        self.closes = wire.ends or not request.keep_alive
        """Whether the connection ends after the answer."""
        self.whole = False
        """Whether all of the request has come."""
        self.expects = head.expects
        """Whether the client waits for 100 Continue."""
        self._body: bytearray | memoryview | bytes = b""
        self._come = 0
        """Bytes of the body that have come."""
        self._size = head.length
        """Size of the body; 0: not known, or none."""
        self._counted = 0
        """Bytes counted in the server's memory."""
        self._later: Later | None = None
        self._quota: Quota | None = None
        """The quota that the call has entered and not left."""
        self._begun = wire.now
        self._patience: Patience | None = None
        if request.refusal is not None:
            self._refuse(request.refusal)
            return
        try:
            self._admit()
        except ServingError as error:
            self.fail(error)

    @property
    def changes(self) -> bool:
        """Whether it changes the server."""
        route = self.request.route
        return route is not None and route.changes

    @property
    def slow(self) -> bool:
        """Whether a thread answers it, which takes Python's lock from the loop."""
        return self.request.work is not None

    # While it arrives

    def _admit(self) -> None:
        """Authenticate and admit the caller, before any part of the body is kept."""
        request, wire = self.request, self.wire
        arrivals = wire.arrivals
        if wire.closed:
            self.closes = True
            raise ShuttingDownError
        if self._size > request.limit:
            raise self._too_large(self._size)
        rpc = request.rpc
        if rpc is None:
            if not arrivals.silent or request.has_id:
                sent = _Sent(request)
                self.origin = arrivals.origin(sent, wire.peer)
                self.caller = arrivals.caller(sent, wire.peer)
                self.batch = request.batch or self.caller.batch
        elif not rpc.open:
            sent = _Sent(request)
            self.origin = arrivals.origin(sent, wire.peer)
            self.caller = arrivals.audited(sent, wire.peer)
            self.batch = request.batch or self.caller.batch
        elif request.has_id:
            self.origin = arrivals.origin(_Sent(request), wire.peer)
        if rpc is None or not rpc.open:
            wire.check_backlog(batch=self.batch)
            quota = self.caller.quota
            if quota is not None:
                quota.enter()
                self._quota = quota

    def take(self, data: bytes) -> None:
        """Take a part of the body."""
        self._come += len(data)
        if self.output is not None:
            # It is refused: the rest is dropped, and a long one ends the connection.
            self.closes = self.closes or self._come > _SPARED_BYTES
            return
        if self._come > self.request.limit:
            self.fail(self._too_large(self._come))
            return
        memory = self.wire.memory
        if self._patience is None:
            self._patience = Patience(self.wire.now)
            self._body = self._find_room()
        body = self._body
        if isinstance(body, memoryview):
            body[self._come - len(data) : self._come] = data
        elif isinstance(body, bytearray):
            body += data
        memory.used += len(data)
        self._counted += len(data)
        if memory.full and self._come >= LARGE_BYTES:
            self.fail(memory.refusal())

    def _find_room(self) -> bytearray | memoryview:
        room = self.wire.memory.room(self._size) if self._size >= LARGE_BYTES else None
        return bytearray() if room is None else room

    def end(self, body: bytes | None = None) -> None:
        """Note that all of the request has come; body: All of it, if it came at once."""
        self.whole = True
        if body is not None:
            self._body = body
        elif isinstance(self._body, bytearray):
            small = len(self._body) < LARGE_BYTES
            self._body = bytes(self._body) if small else memoryview(self._body).toreadonly()
        elif isinstance(self._body, memoryview):
            self._body = self._body.toreadonly()

    def tick(self, now: float, *, listening: bool) -> None:
        """End it if it arrives too slowly; of one that is refused nothing is to come for ever."""
        if self.whole or (self.closes and self.output is not None):
            return
        if self._patience is None:
            self._patience = Patience(self._begun)
            if self.output is None:
                self._body = self._find_room()
        if not listening:
            self._patience.restart(now, self._come)
        elif self._patience.over(now, self._come) or (now - self._begun > self.wire.max_receive_s):
            self.closes = True
            if self.output is None:
                self._end(HTTPStatus.REQUEST_TIMEOUT, "the request arrives too slowly")

    # Once it is whole

    def start(self) -> None:
        """Answer."""
        if self.output is not None:
            return
        body, self._body = self._body, b""
        if isinstance(body, bytearray):
            body = bytes(body)
        if self.wire.closed:
            self.closes = True
            self.fail(ShuttingDownError())
        elif self.request.rpc is None:
            self._infer(body)
        else:
            self._call(body)

    def _infer(self, body: bytes | memoryview) -> None:
        try:
            packed = self._unpacked(body)
            route = self.request.route
            features = route is not None and route.predicts
            small = _FEATURES_BYTES if features else LARGE_BYTES
            if len(packed) < small and not isinstance(packed, Packed):
                read: Any = self._message(packed)
            else:
                self.wire.read(lambda: self._message(packed), self._submit)
                return
        # Any, as from a thread: it would end the connection, and what else it has in flight.
        except Exception as error:
            read = error
        self._submit(read)

    def _message(
        self, body: bytes | memoryview | Packed
    ) -> tuple[bytes | memoryview, Wanted | Predicted]:
        """Read the body; for any thread."""
        if isinstance(body, Packed):
            body = body.unpacked()
        request, route = self.request, self.request.route
        if route is None:
            raise InternalError
        read: tuple[bytes | memoryview, Wanted | Predicted]
        if route.predicts:
            read = self._predict(route, body)
        else:
            read = self.wire.requests.read(route.model, route.version, body, request.json_size)
        if len(read[0]) > request.limit:
            raise MessageTooLargeError(len(read[0]), request.limit)
        return read

    def _predict(
        self, route: Route, body: bytes | memoryview
    ) -> tuple[bytes | memoryview, Wanted | Predicted]:
        model = self.wire.find(route.model, route.version, self.caller, Action.INFER)
        if model is None:
            # Why, ModelInfer says.
            request = pb.ModelInferRequest(model_name=route.model, model_version=route.version)
            return request.SerializeToString(), Wanted()
        return read_predict(model, body, self.wire.requests, route.parameters)

    def _submit(self, read: Any) -> None:
        """Queue the call, or end it for what was wrong with the body."""
        if isinstance(read, Exception):
            self.fail(_seen(read))
            return
        self.message, self._wanted = read
        self.answer_share = self._wanted.answer_share
        memory = self.wire.memory
        large = len(self.message) if len(self.message) >= LARGE_BYTES else 0
        memory.used += large - self._counted
        self._counted = large
        if large and memory.full:
            self.fail(memory.refusal())
            return
        if not self.wire.is_open():
            self._release()
            return
        if self._patience is not None:
            # It came in parts. Equal times of those that came together cost least.
            self.times = self.times[0], perf_counter_ns()
        self.wire.submit(self)

    def respond(self) -> None:
        """Send the answer of a ModelInfer."""
        answer = self.answer
        self._release()
        if not isinstance(answer, Reply):
            self._fail(InternalError() if answer is None else answer)
            return
        message, wanted = answer.message, self._wanted
        if len(message) <= _LONG_BYTES or self.answer_share == 1:
            try:
                body: Any = self._write(message, wanted)
            # Any: it would end the turn, and all other calls in it.
            except Exception as error:
                body = error
            self._written(body)
        else:
            # What was promised counts as written from now on, which it is not before the end.
            memory, size = self.wire.memory, len(message) * self.answer_share
            memory.promised += size

            def end(body: Any) -> None:
                self._written(body)
                memory.keep(size)

            self.wire.read(lambda: self._write(message, wanted), end)

    def _write(self, message: bytes, wanted: Wanted | Predicted) -> Body:
        if isinstance(wanted, Predicted):
            return wanted.write(message)
        route = self.request.route
        return self.wire.replies.write("" if route is None else route.model, message, wanted)

    def _written(self, body: Any) -> None:
        if isinstance(body, Exception):
            self._fail(_seen(body))
            return
        fields: list[tuple[bytes, bytes]] = []
        if isinstance(self.answer, Reply) and self.answer.timing is not None:
            fields.append((timing.TRAILER.encode(), timing.dump_parts(self.answer.timing).encode()))
        # It may wait long to be sent, and no longer needs what it was made of.
        self.answer = None
        self._send(HTTPStatus.OK, body, fields)

    def unpacked(self, message: bytes) -> None:
        """Take the message that came compressed: none does, they are unpacked before."""

    def spoilt(self, error: ServingError | Outcome) -> None:
        """End, since the message that came compressed is none."""

    def _call(self, body: bytes | memoryview) -> None:
        request, caller = self.request, self.caller
        rpc, route, work = request.rpc, request.route, request.work
        if rpc is None or route is None:
            raise InternalError

        def shown() -> Any:
            if not (self.wire.is_open() or self.changes):
                # It went away while this waited for a thread.
                raise CallCancelledError(route.model)
            unpacked = self._unpacked(bytes(body))
            if isinstance(unpacked, Packed):
                unpacked = unpacked.unpacked()
            data = route.request(route, bytes(unpacked)).SerializeToString()
            return self._shown(route, rpc.answer(data, caller))

        if work is not None:
            # What many models have to say takes long to write, and a long body to unpack.
            work(shown, self._answered)
            return
        try:
            self._finish(shown())
        except Exception as error:
            self._finish(error)

    def _shown(self, route: Route, result: bytes | Later) -> Any:
        """Write an answer; for any thread. What comes later is left as it is."""
        if isinstance(result, Later):
            return result
        shown = route.show(route, result)
        if type(shown.json) is bytes:
            return shown
        return shown._replace(json=dumps(shown.json).encode())

    def _answered(self, result: Any) -> None:
        if not isinstance(result, Later):
            self._finish(result)
            return
        work = self.request.work
        if not self.wire.is_open() or work is None:
            result.done.cancel()
            self._release()
            return
        self._later = result
        route = self.request.route
        if route is None:
            raise InternalError
        result.done.add_done_callback(
            lambda _: work(lambda: self._shown(route, result.result()), self._finish)
        )

    def _finish(self, result: Any) -> None:
        if isinstance(result, Exception):
            error = _seen(result)
            self.wire.arrivals.denied(error, self.caller.name, self.caller.peer)
            self.fail(error)
            return
        self._release()
        shown: Shown = result
        status, fields = shown.status, list(shown.fields)
        if shown.etag:
            fields.append((b"ETag", shown.etag))
            if self.request.has(shown.etag):
                status = HTTPStatus.NOT_MODIFIED
        self._send(status, Body([shown.json]), fields, shown.content_type)

    def gone(self) -> None:
        """Release everything: the client has gone away."""
        if self._later is not None:
            self._later.done.cancel()
        if self.output is None and not self.whole:
            self._release()

    def drop(self) -> None:
        """Release everything of a call that has come as a whole and will not be started."""
        self._release()

    # Answers

    def fail(self, error: ServingError) -> None:
        """End with an error that its RPC has not seen, and report it."""
        if self.output is not None:
            return
        if self.request.is_infer:
            self.wire.arrivals.refused(error, self.origin)
        else:
            self.wire.arrivals.shed(error)
        self._release()
        self._fail(error)

    def _fail(self, error: ServingError) -> None:
        end = outcome(error)
        fields: list[tuple[bytes, bytes]] = []
        if isinstance(error, UnauthenticatedError):
            fields.append((b"WWW-Authenticate", b"Bearer"))
        if error.retry_s is not None:
            fields.append((b"Retry-After", b"%d" % max(1, math.ceil(error.retry_s))))
        self._end(http_status(error), end.text, fields)

    def _refuse(self, error: RouteError) -> None:
        allow = ", ".join(error.allow).encode()
        self._end(error.status, str(error), [(b"Allow", allow)] if allow else [])

    def _end(self, status: int, text: str, fields: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._release()
        # Without its body it could not be told from the next request.
        if not self.whole and (self.expects or self._size > _SPARED_BYTES):
            self.closes = True
        self._body = b""
        self._send(status, Body([dumps({"error": text}).encode("utf-8", "replace")]), fields)

    def _send(
        self,
        status: int,
        body: Body,
        fields: Sequence[tuple[bytes, bytes]] = (),
        content_type: bytes = JSON,
    ) -> None:
        if self.output is not None or not self.wire.is_open():
            return
        parts, json_size = body
        size = sum(map(len, parts))
        written = list(fields)
        if self.origin.request_id:
            written.append((REQUEST_ID.encode(), self.origin.request_id.encode("latin-1")))
        if json_size is not None:
            written.append((HEADER_SIZE.encode(), b"%d" % json_size))
        accepts = self.request.accepts
        if accepts and size in _PACKED_BYTES:
            packer = zlib.compressobj(1, wbits=WINDOW_BITS[accepts])
            parts = [packer.compress(b"".join(parts)) + packer.flush()]
            size = len(parts[0])
            written += [(b"Content-Encoding", accepts), (b"Vary", b"Accept-Encoding")]
        if json_size is not None:
            content_type = _BINARY
        start = head(status, size, content_type, written, close=self.closes)
        # What the client has already is not sent, as where it asks for the head.
        bare = self.request.only_head or status == HTTPStatus.NOT_MODIFIED
        self.output = [start] if bare else [start, *parts]
        self.wire.dirty()

    def _unpacked(self, body: bytes | memoryview) -> bytes | memoryview | Packed:
        request = self.request
        if request.encoding == b"identity":
            return body
        too_large = request.too_large or MessageTooLargeError
        if request.is_infer:
            return unpack_small(body, request.encoding, request.limit, too_large, LARGE_BYTES)
        return unpack(body, request.encoding, request.limit, too_large)

    def _too_large(self, size: int) -> ServingError:
        make = self.request.too_large or MessageTooLargeError
        error = make(size, self.request.limit)
        return error if isinstance(error, ServingError) else InternalError()

    def _release(self) -> None:
        """Leave the server's memory and the caller's quota; safe to call again."""
        self.wire.memory.used -= self._counted
        self._counted = 0
        if self._quota is not None:
            self._quota.leave()
            self._quota = None


class _Sent:
    """A request as arrivals see it: its fields may be those of another connection, too."""

    __slots__ = ("fields", "has_id", "origin")

    def __init__(self, request: HttpRequest) -> None:
        self.fields = request.fields
        self.has_id = request.has_id
        self.origin: Origin | None = None


def _seen(error: Exception) -> ServingError:
    """Return the error that the caller receives."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, BadMessageError):
        return InvalidRequestError("body", error.outcome.text)
    logger.error("unexpected error in a call over HTTP", exc_info=error)
    return InternalError()
