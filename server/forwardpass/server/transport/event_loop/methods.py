"""The unary methods: one message in, one out."""

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from forwardpass.server.access.caller import ANYONE
from forwardpass.server.access.quota import Quota
from forwardpass.server.errors import (
    InternalError,
    ServingError,
    ShuttingDownError,
    Status,
)
from forwardpass.server.rpc.method import NAMES_BYTES, Later, Rpc
from forwardpass.server.transport.compression import BadMessageError
from forwardpass.server.transport.event_loop.calls import Exchange, InferCall, Wire
from forwardpass.server.transport.event_loop.requests import Request
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.status import Outcome

Method = Callable[[Wire, Stream, Request], Exchange]
"""Begins a call before any message is read."""

Work = Callable[[Callable[[], Any], Callable[[Any], None]], None]
"""Runs something slow on a thread and passes the result, or the error, to the event loop."""


class UnaryExchange(Exchange):
    """Waits for the one message and the end of the request."""

    _message: Payload | None = None
    caller = ANYONE
    """The caller, if it was authenticated."""
    quota: Quota | None = None
    """The quota that the call has entered and not left."""
    _refused: ServingError | None = None

    def ask(self, *, audited: bool = False) -> None:
        """Authenticate and admit the caller, before any part of the message is kept."""
        arrivals = self.wire.arrivals
        try:
            identify = arrivals.audited if audited else arrivals.caller
            self.caller = caller = identify(self.request, self.wire.peer)
            self.wire.check_backlog(batch=self.request.batch or caller.batch)
            if caller.quota is not None:
                caller.quota.enter()
                self.quota = caller.quota
        except ServingError as error:
            self._refused = error

    def news(self) -> None:
        """Read the new data, unless the caller is refused."""
        if self._refused is None or self.stream.reset is not None:
            super().news()
        else:
            self.fail(self._refused)

    def on_gone(self) -> None:
        """Leave the quota."""
        if self.quota is not None:
            self.quota.leave()
            self.quota = None

    def on_message(self, message: Payload) -> None:
        """Keep the one message."""
        # gRPC requires UNIMPLEMENTED for any number of messages other than one.
        if self._message is not None:
            raise BadMessageError("expected one message, got several", Status.UNIMPLEMENTED)
        self._message = message
        self.keep(message)

    def on_end(self) -> None:
        """Answer."""
        message, self._message = self._message, None
        if message is None:
            raise BadMessageError("expected one message, got none", Status.UNIMPLEMENTED)
        self.awaited = False
        self.on_request(message)

    def on_request(self, message: Payload) -> None:
        """Answer; the message is counted in the server's memory as kept."""
        raise NotImplementedError


class InferExchange(UnaryExchange):
    """A ModelInfer call whose message is large, arrives in parts or is compressed."""

    def __init__(self, wire: Wire, stream: Stream, request: Request) -> None:
        super().__init__(wire, stream, request)
        self.ask()

    def on_request(self, message: Payload) -> None:
        """Submit the call like those of the common form."""
        if self.wire.closed:
            raise ShuttingDownError
        times = self.begun_ns, perf_counter_ns()
        call = InferCall(
            self.wire,
            self.stream,
            self.request,
            message,
            self.deadline,
            times,
            self.caller,
            self.origin,
        )
        # It leaves the quota with its answer.
        self.quota = None
        call.held = self.hand_over(message)
        self.wire.submit(call)
        self.end()

    def fail(self, error: ServingError | Outcome) -> None:
        """Refuse the call, and report it."""
        if isinstance(error, ServingError) and not self.over:
            self.wire.arrivals.refused(error, self.origin)
        super().fail(error)


class RpcExchange(UnaryExchange):
    """A call of any other unary method of the service."""

    def __init__(
        self, wire: Wire, stream: Stream, request: Request, answer: Rpc, work: Work | None
    ) -> None:
        """Begin; work: None for a method that is faster than a switch of threads."""
        super().__init__(wire, stream, request, NAMES_BYTES, answer.too_large)
        self._rpc = answer
        self._work = work
        if not answer.open:
            self.ask(audited=True)
        self._later: Later | None = None

    def on_request(self, message: Payload) -> None:
        """Call the method."""
        answer, data, caller = self._rpc.answer, bytes(message), self.caller
        work = self._work
        if work is None:
            try:
                self._finish(answer(data, caller))
            except ServingError as error:
                self._finish(error)
            return
        memory, held = self.wire.memory, self.hand_over(message)

        def finish(result: bytes | Later | Exception) -> None:
            # Also for a cancelled call, which held its message until a thread was free.
            memory.used -= held
            if isinstance(result, Later):
                self._wait(result, work)
            else:
                self._finish(result)

        work(lambda: answer(data, caller), finish)

    def on_gone(self) -> None:
        """Leave the quota, and have nothing done for a caller that has gone away."""
        super().on_gone()
        if self._later is not None:
            self._later.done.cancel()

    def _wait(self, later: Later, work: Work) -> None:
        """Answer when the answer is there; no thread waits for it."""
        if self.over:
            later.done.cancel()
            return
        self._later = later
        later.done.add_done_callback(lambda _: work(later.result, self._finish))

    def fail(self, error: ServingError | Outcome) -> None:
        """Fail, and report a call that is shed."""
        if isinstance(error, ServingError) and not self.over:
            self.wire.arrivals.shed(error)
        super().fail(error)

    def _finish(self, result: bytes | Later | Exception) -> None:
        if isinstance(result, bytes):
            self.send(result)
            self.succeed()
            return
        error = result if isinstance(result, ServingError) else InternalError()
        self.wire.arrivals.denied(error, self.caller.name, self.caller.peer)
        self.fail(error)


def rpc_method(answer: Rpc, work: Work | None) -> Method:
    """Make a method of an RPC."""
    return lambda wire, stream, request: RpcExchange(wire, stream, request, answer, work)
