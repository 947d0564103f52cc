"""Server reflection on the event loop."""

from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from forwardpass.server.rpc.method import NAMES_BYTES
from forwardpass.server.transport.compression import BadMessageError
from forwardpass.server.transport.event_loop.calls import Exchange, Wire
from forwardpass.server.transport.event_loop.methods import Method
from forwardpass.server.transport.event_loop.requests import Request
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.reflection import SERVICES, reflection_servicer

_NO_CONTEXT: Any = None
"""The context of calls to the servicer, which does not use it."""


def reflection_methods(services: tuple[str, ...]) -> dict[bytes, Method]:
    """Return the method by its paths; services: the server's other services."""

    @cache
    def servicer() -> Any:
        # Made at the first request: most servers never get one.
        return reflection_servicer(services)

    def begin(wire: Wire, stream: Stream, request: Request) -> Exchange:
        return _Reflection(servicer, wire, stream, request)

    return {f"/{name}/ServerReflectionInfo".encode(): begin for name in SERVICES}


class _Reflection(Exchange):
    """A stream of questions, each answered at once while the caller reads the answers."""

    def __init__(
        self, servicer: Callable[[], Any], wire: Wire, stream: Stream, request: Request
    ) -> None:
        super().__init__(wire, stream, request, NAMES_BYTES)
        self.awaited = False
        self._unread: deque[Payload] = deque()
        """Questions that wait until earlier answers are read."""
        self._ended = False
        self._servicer = servicer

    def on_message(self, message: Payload) -> None:
        self.keep(message)
        self._unread.append(message)
        self._go_on()

    def on_end(self) -> None:
        self._ended = True
        self._go_on()

    def on_gone(self) -> None:
        self._unread.clear()

    def tick(self, now: float) -> None:
        super().tick(now)
        if self._unread:
            self._go_on()

    def grant(self) -> None:
        if not self._unread:
            self.grant_ahead()

    def _go_on(self) -> None:
        """Answer the waiting questions; an answer is many times as long as its question."""
        while self._unread:
            if self.wire.piled_up:
                # As with the client's calls: no more data is granted.
                self.wire.connection.holding = True
                return
            message = self._unread.popleft()
            self.let_go(message)
            try:
                question = ServerReflectionRequest.FromString(bytes(message))
            except (DecodeError, UnicodeDecodeError):
                error = BadMessageError("the message is not a ServerReflectionRequest")
                self.fail(error.outcome)
                return
            for answer in self._servicer().ServerReflectionInfo(iter([question]), _NO_CONTEXT):
                self.send(answer.SerializeToString())
        if self._ended:
            self.succeed()
        else:
            self.grant()
