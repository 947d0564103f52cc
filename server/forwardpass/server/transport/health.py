"""`grpc.health.v1` over grpcio: Check and Watch of the server and of each model, List of all.

grpcio-health-checking brings the messages; its servicer is not used, since it sends while it
holds a lock that a leaving watcher takes too, and then the server hangs (grpc/grpc#43403).
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from forwardpass.server.errors import NamesTooLargeError
from forwardpass.server.health import Health
from forwardpass.server.transport.abort import abort
from forwardpass.server.transport.health_messages import NAME_BYTES, SERVICE, response, unknown

logger = logging.getLogger(__name__)

Send = Callable[[HealthCheckResponse | None], None]
"""Sends a state to one watcher; None ends the stream."""


class HealthTransport:
    """Tells the state to whoever asks, from one thread for all watchers."""

    def __init__(self, state: Health) -> None:
        self._serving: dict[str, bool] = {}
        self._lock = Lock()
        # Guarded by the lock, which is never held while something is sent.
        self._watchers: defaultdict[str, set[Send]] = defaultdict(set)
        self._changed: SimpleQueue[tuple[str, Send | None] | None] = SimpleQueue()
        self._teller = Thread(target=self._tell, name="health", daemon=True)
        self._teller.start()
        state.listen(self._on_change)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what a grpcio server needs to answer the methods."""

        def watch(message: bytes, context: grpc.ServicerContext, send: Send) -> None:
            self._watch(message, context, send)

        # grpcio: the stream holds no thread; it is answered through the callback.
        watch.experimental_non_blocking = True  # type: ignore[attr-defined]
        write = HealthCheckResponse.SerializeToString
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, None, write),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, None, write),
        }
        messages: Any = health_pb2
        # Older versions of grpcio-health-checking have no such messages.
        if hasattr(messages, "HealthListRequest"):
            methods["List"] = grpc.unary_unary_rpc_method_handler(
                lambda *_: messages.HealthListResponse(statuses=self._states()),
                messages.HealthListRequest.FromString,
                messages.HealthListResponse.SerializeToString,
            )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def stop(self) -> None:
        """Tell what there is to tell, then nothing more."""
        self._changed.put(None)
        self._teller.join()

    def _check(self, message: bytes, context: grpc.ServicerContext) -> HealthCheckResponse:
        name = _name(message, context)
        if name not in self._serving:
            context.abort(grpc.StatusCode.NOT_FOUND, unknown(name))
        return response(self._serving.get(name))

    def _states(self) -> dict[str, HealthCheckResponse]:
        return {name: response(self._serving.get(name)) for name in list(self._serving)}

    def _watch(self, message: bytes, context: grpc.ServicerContext, send: Send) -> None:
        name = _name(message, context)

        def leave() -> None:
            with self._lock:
                self._watchers[name].discard(send)
                if not self._watchers[name]:
                    del self._watchers[name]

        with self._lock:
            self._watchers[name].add(send)
        if not context.add_callback(leave):
            leave()
        self._changed.put((name, send))

    def _on_change(self, name: str, serving: bool) -> None:
        self._serving[name] = serving
        self._changed.put((name, None))

    def _tell(self) -> None:
        """Send states as they are now, one after the other, so that the last one is the truth."""
        while (change := self._changed.get()) is not None:
            name, only = change
            with self._lock:
                watchers = {only} if only is not None else set(self._watchers.get(name, ()))
            for send in watchers:
                try:
                    send(response(self._serving.get(name)))
                except Exception:
                    logger.exception("a watcher of %r could not be told", name)


def _name(message: bytes, context: grpc.ServicerContext) -> str:
    """Return what a request asks for; ends the call if that cannot be told."""
    if len(message) > NAME_BYTES:
        abort(context, NamesTooLargeError(len(message), NAME_BYTES))
    try:
        return str(HealthCheckRequest.FromString(message).service)
    except (DecodeError, UnicodeDecodeError):
        context.abort(grpc.StatusCode.INTERNAL, "the message is no HealthCheckRequest")
