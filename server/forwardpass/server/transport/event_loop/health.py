"""`grpc.health.v1` on the event loop: Check and Watch of the server and each model, List of all."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from forwardpass.server.errors import ShuttingDownError, Status
from forwardpass.server.health import Health
from forwardpass.server.transport.compression import BadMessageError
from forwardpass.server.transport.event_loop.calls import Wire
from forwardpass.server.transport.event_loop.methods import Method, UnaryExchange
from forwardpass.server.transport.event_loop.requests import Request
from forwardpass.server.transport.health_messages import NAME_BYTES, SERVICE, response, unknown
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.status import Outcome


class HealthMethods:
    """Answers health requests and informs watchers."""

    def __init__(self, state: Health, post: Callable[[Callable[[], None]], None]) -> None:
        """Prepare; post schedules a call on the loop, from any thread."""
        self._serving: dict[str, bool] = {}
        self._watchers: defaultdict[str, set[_Watch]] = defaultdict(set)
        self._post = post
        state.listen(self._on_change)

    def methods(self) -> dict[bytes, Method]:
        """Return the methods by path."""
        methods: dict[bytes, Method] = {
            f"/{SERVICE}/Check".encode(): partial(_Check, self),
            f"/{SERVICE}/Watch".encode(): partial(_Watch, self),
        }
        messages: Any = health_pb2
        # Older versions of grpcio-health-checking do not have these messages.
        if hasattr(messages, "HealthListResponse"):
            methods[f"/{SERVICE}/List".encode()] = partial(_List, self)
        return methods

    def states(self) -> dict[str, HealthCheckResponse]:
        """Return the states of the server and all models."""
        return {name: response(serving) for name, serving in list(self._serving.items())}

    def state(self, name: str) -> bool | None:
        """Return whether a name serves; None if it is unknown."""
        return self._serving.get(name)

    def watch(self, name: str, watcher: "_Watch") -> None:
        """Send a watcher the state now, and at every change."""
        self._watchers[name].add(watcher)
        watcher.report(self.state(name))

    def forget(self, name: str, watcher: "_Watch") -> None:
        """Send a watcher nothing more."""
        self._watchers[name].discard(watcher)
        if not self._watchers[name]:
            del self._watchers[name]

    def stop(self) -> None:
        """End every watch."""
        for watchers in list(self._watchers.values()):
            for watcher in list(watchers):
                watcher.fail(ShuttingDownError())

    def _on_change(self, name: str, serving: bool) -> None:
        self._serving[name] = serving
        self._post(lambda: self._report(name))

    def _report(self, name: str) -> None:
        """Send the current state, so that the last one sent is the latest."""
        for watcher in list(self._watchers.get(name, ())):
            watcher.report(self.state(name))


class _HealthExchange(UnaryExchange):
    def __init__(self, health: HealthMethods, wire: Wire, stream: Stream, request: Request) -> None:
        super().__init__(wire, stream, request, NAME_BYTES)
        self._health = health


class _Check(_HealthExchange):
    def on_request(self, message: Payload) -> None:
        name = _name(message)
        serving = self._health.state(name)
        if serving is None:
            self.fail(Outcome(Status.NOT_FOUND, unknown(name)))
        else:
            self.send(response(serving).SerializeToString())
            self.succeed()


class _List(_HealthExchange):
    def on_request(self, message: Payload) -> None:
        del message
        messages: Any = health_pb2
        reply = messages.HealthListResponse(statuses=self._health.states())
        self.send(reply.SerializeToString())
        self.succeed()


class _Watch(_HealthExchange):
    _name: str | None = None

    @property
    def calls(self) -> int:
        """None: it is open for as long as its caller likes."""
        return 0

    def on_request(self, message: Payload) -> None:
        self._name = _name(message)
        self.let_go(message)
        self._health.watch(self._name, self)

    def on_gone(self) -> None:
        if self._name is not None:
            self._health.forget(self._name, self)

    def report(self, serving: bool | None) -> None:
        self.send(response(serving).SerializeToString())


def _name(message: Payload) -> str:
    try:
        return str(HealthCheckRequest.FromString(bytes(message)).service)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadMessageError("the message is not a HealthCheckRequest") from error
