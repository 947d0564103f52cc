"""The unary methods: one message in, one out."""

from collections.abc import Callable

from forwardpass.server.caller import ANYONE
from forwardpass.server.errors import (
    InternalError,
    ServingError,
    ShuttingDownError,
    UnauthenticatedError,
)
from forwardpass.server.rpc import Rpc
from forwardpass.server.transport.aio.calls import Exchange, InferCall, Wire
from forwardpass.server.transport.aio.messages import BadMessageError
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
    caller = ANYONE
    """Who calls, where that was asked."""
    _stranger: UnauthenticatedError | None = None

    def ask(self) -> None:
        """Ask who calls, before anything is kept of a message that may never be whole."""
        try:
            self.caller = self.wire.arrivals.caller(self.request, self.wire.peer)
        except UnauthenticatedError as error:
            self._stranger = error

    def news(self) -> None:
        """Read what came, unless nobody knows who sends it."""
        if self._stranger is None or self.stream.reset is not None:
            super().news()
        else:
            self.fail(self._stranger)

    def on_message(self, message: Payload) -> None:
        """Keep the one message."""
        if self._message is not None:
            raise BadMessageError("expected one message, got several")
        self._message = message
        self.keep(message)

    def on_end(self) -> None:
        """Answer."""
        message, self._message = self._message, None
        if message is None:
            raise BadMessageError("expected one message, got none")
        self.awaited = False
        self.on_request(message)

    def on_request(self, message: Payload) -> None:
        """Answer; the message is counted in the server's memory as one that is kept."""
        raise NotImplementedError


class InferExchange(UnaryExchange):
    """A ModelInfer call whose message is large, comes in parts or is compressed."""

    def __init__(self, wire: Wire, stream: Stream, request: Request) -> None:
        super().__init__(wire, stream, request)
        self.ask()

    def on_request(self, message: Payload) -> None:
        """Hand the call over to where those of the common form go."""
        if self.wire.closed:
            raise ShuttingDownError
        call = InferCall(
            self.wire, self.stream, self.request, message, self.deadline, self.caller, self.origin
        )
        call.held = self.hand_over(message)
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
        super().__init__(wire, stream, request, answer.names_bytes)
        self._rpc = answer
        self._work = work
        if not answer.open:
            self.ask()

    def on_request(self, message: Payload) -> None:
        """Call the method."""
        answer, data, caller = self._rpc.answer, bytes(message), self.caller
        if self._work is None:
            self._finish(answer(data, caller))
            return
        memory, held = self.wire.memory, self.hand_over(message)

        def finish(result: bytes | Exception) -> None:
            # Also of a call that was cancelled: it waited for a thread all the same.
            memory.used -= held
            self._finish(result)

        self._work(lambda: answer(data, caller), finish)

    def _finish(self, result: bytes | Exception) -> None:
        if isinstance(result, bytes):
            self.send(result)
            self.succeed()
        else:
            self.fail(result if isinstance(result, ServingError) else InternalError())


def rpc_method(answer: Rpc, work: Work | None) -> Method:
    """Make a method of an RPC."""
    return lambda wire, stream, request: RpcExchange(wire, stream, request, answer, work)
