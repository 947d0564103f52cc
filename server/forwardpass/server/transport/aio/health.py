"""`grpc.health.v1` on the event loop: Check and Watch of the server and each model, List of all."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from forwardpass.server.errors import ShuttingDownError
from forwardpass.server.health import Health
from forwardpass.server.transport.aio.calls import Wire
from forwardpass.server.transport.aio.messages import BadMessageError
from forwardpass.server.transport.aio.methods import Method, UnaryExchange
from forwardpass.server.transport.aio.requests import Request
from forwardpass.server.transport.health_messages import NAME_BYTES, SERVICE, response, unknown
from forwardpass.server.transport.http2.stream import Payload, Stream
from forwardpass.server.transport.status import Outcome

_NOT_FOUND = 5


class HealthMethods:
    """Tells the state to whoever asks."""

    def __init__(self, state: Health, post: Callable[[Callable[[], None]], None]) -> None:
        """Prepare; post has the loop call something, from any thread."""
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
        # Older versions of grpcio-health-checking have no such messages.
        if hasattr(messages, "HealthListResponse"):
            methods[f"/{SERVICE}/List".encode()] = partial(_List, self)
        return methods

    def states(self) -> dict[str, HealthCheckResponse]:
        """Return the states of all."""
        return {name: response(serving) for name, serving in list(self._serving.items())}

    def state(self, name: str) -> bool | None:
        """Return whether something serves; None if nothing is known of it."""
        return self._serving.get(name)

    def watch(self, name: str, watcher: "_Watch") -> None:
        """Tell a watcher the state now, and whenever it changes."""
        self._watchers[name].add(watcher)
        watcher.tell(self.state(name))

    def forget(self, name: str, watcher: "_Watch") -> None:
        """Tell a watcher nothing more."""
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
        self._post(lambda: self._tell(name))

    def _tell(self, name: str) -> None:
        """Tell the state as it is now, so that the last one is the truth."""
        for watcher in list(self._watchers.get(name, ())):
            watcher.tell(self.state(name))


class _HealthExchange(UnaryExchange):
    def __init__(self, health: HealthMethods, wire: Wire, stream: Stream, request: Request) -> None:
        super().__init__(wire, stream, request, NAME_BYTES)
        self._health = health


class _Check(_HealthExchange):
    def on_request(self, message: Payload) -> None:
        name = _name(message)
        serving = self._health.state(name)
        if serving is None:
            self.fail(Outcome(_NOT_FOUND, unknown(name)))
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

    def on_request(self, message: Payload) -> None:
        self._name = _name(message)
        self.let_go(message)
        self._health.watch(self._name, self)

    def on_gone(self) -> None:
        if self._name is not None:
            self._health.forget(self._name, self)

    def tell(self, serving: bool | None) -> None:
        self.send(response(serving).SerializeToString())


def _name(message: Payload) -> str:
    try:
        return str(HealthCheckRequest.FromString(bytes(message)).service)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadMessageError("the message is no HealthCheckRequest") from error
