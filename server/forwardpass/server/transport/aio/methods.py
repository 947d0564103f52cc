"""The unary methods: one message in, one out."""

from collections.abc import Callable

from forwardpass.server.caller import ANYONE
from forwardpass.server.errors import InternalError, ServingError, ShuttingDownError
from forwardpass.server.rpc import Rpc
from forwardpass.server.transport.aio.calls import Exchange, InferCall, Wire
from forwardpass.server.transport.aio.messages import LARGE_BYTES, BadMessageError
from forwardpass.server.transport.aio.requests import Request
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.status import Outcome

Method = Callable[[Wire, Stream, Request], Exchange]
"""Begins a call, of whose messages none is read yet."""

Work = Callable[[Callable[[], bytes], Callable[[bytes | Exception], None]], None]
"""Does something that takes time, on a thread, and hands the result to the event loop."""


class UnaryExchange(Exchange):
    """Waits for the message and the request's end."""

    _message: Payload | None = None

    def on_message(self, message: Payload) -> None:
        """Keep the one message."""
        if self._message is not None:
            raise BadMessageError("expected one message, got several")
        self._message = message

    def on_end(self) -> None:
        """Answer."""
        if self._message is None:
            raise BadMessageError("expected one message, got none")
        self.awaited = False
        self.on_request(self._message)

    def on_request(self, message: Payload) -> None:
        """Answer."""
        raise NotImplementedError


class InferExchange(UnaryExchange):
    """A ModelInfer call whose message comes in parts, or compressed."""

    def on_request(self, message: Payload) -> None:
        """Hand the call over to where those of the common form go."""
        if self.wire.closed:
            raise ShuttingDownError
        wire = self.wire
        caller = wire.arrivals.caller(self.request, wire.peer)
        call = InferCall(
            wire, self.stream, self.request, message, self.deadline, caller, self.origin
        )
        if len(message) >= LARGE_BYTES:
            memory = self.wire.memory
            call.held = len(message)
            memory.used += call.held
            if memory.full:
                memory.used -= call.held
                self.fail(memory.refusal())
                return
        self.wire.submit(call)
        self.end()

    def fail(self, error: ServingError | Outcome) -> None:
        """Refuse the call, and take note of it."""
        if isinstance(error, ServingError) and not self.over:
            self.wire.arrivals.refused(error, self.origin)
        super().fail(error)


class RpcExchange(UnaryExchange):
    """A call of any other unary method of the service."""

    def __init__(
        self, wire: Wire, stream: Stream, request: Request, answer: Rpc, work: Work | None
    ) -> None:
        """work: None for what takes less time than a thread's turn."""
        super().__init__(wire, stream, request)
        self._rpc = answer
        self._work = work

    def on_request(self, message: Payload) -> None:
        """Call the method."""
        data, wire = bytes(message), self.wire
        caller = ANYONE if self._rpc.open else wire.arrivals.caller(self.request, wire.peer)
        if self._work is None:
            self._finish(self._rpc.answer(data, caller))
        else:
            self._work(lambda: self._rpc.answer(data, caller), self._finish)

    def _finish(self, result: bytes | Exception) -> None:
        if isinstance(result, bytes):
            self.send(result)
            self.succeed()
        else:
            self.fail(result if isinstance(result, ServingError) else InternalError())


def rpc_method(answer: Rpc, work: Work | None) -> Method:
    """Make a method of an RPC."""
    return lambda wire, stream, request: RpcExchange(wire, stream, request, answer, work)
