"""`grpc.health.v1` over grpcio: Check and Watch of the server and of each model, List of all.

grpcio-health-checking supplies the messages. Its servicer is not used: it sends while holding
a lock that a leaving watcher takes too, and then the server hangs (grpc/grpc#43403).
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

from forwardpass.server.errors import ServingError
from forwardpass.server.health import Health
from forwardpass.server.transport.compression import BadMessageError
from forwardpass.server.transport.grpcio.abort import abort
from forwardpass.server.transport.grpcio.backlog import PROBE, Messages
from forwardpass.server.transport.grpcio.received import received
from forwardpass.server.transport.grpcio.receiving import Receiving
from forwardpass.server.transport.health_messages import NAME_BYTES, SERVICE, response, unknown

logger = logging.getLogger(__name__)

Send = Callable[[HealthCheckResponse | None], None]
"""Sends a state to one watcher; None ends the stream."""


class HealthTransport:
    """Answers health requests; one thread sends changes to all watchers."""

    def __init__(self, state: Health, receiving: Receiving) -> None:
        self._receiving = receiving
        self._serving: dict[str, bool] = {}
        self._lock = Lock()
        # Guarded by the lock, which is never held while sending.
        self._watchers: defaultdict[str, set[Send]] = defaultdict(set)
        self._changed: SimpleQueue[tuple[str, Send | None] | None] = SimpleQueue()
        self._sender = Thread(target=self._send_changes, name="health", daemon=True)
        self._sender.start()
        state.listen(self._on_change)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the grpcio handler of the methods."""
        messages: Any = health_pb2

        def watch(requests: Messages, context: grpc.ServicerContext, send: Send) -> None:
            self._watch(self._name(requests, context), context, send)

        def check(requests: Messages, context: grpc.ServicerContext) -> HealthCheckResponse:
            return self._check(self._name(requests, context), context)

        def states(requests: Messages, context: grpc.ServicerContext) -> Any:
            # It has no fields, but may be long.
            self._name(requests, context)
            return messages.HealthListResponse(statuses=self._states())

        # In grpcio: the stream holds no thread and is answered through the callback.
        watch.experimental_non_blocking = True  # type: ignore[attr-defined]
        for behavior in (watch, check, states):
            setattr(behavior, PROBE, True)
        write = HealthCheckResponse.SerializeToString
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            # As streams of requests, so that grpcio does not wait for the message itself.
            "Check": grpc.stream_unary_rpc_method_handler(check, None, write),
            "Watch": grpc.stream_stream_rpc_method_handler(watch, None, write),
        }
        # Older versions of grpcio-health-checking do not have these messages.
        if hasattr(messages, "HealthListRequest"):
            methods["List"] = grpc.stream_unary_rpc_method_handler(
                states,
                None,
                messages.HealthListResponse.SerializeToString,
            )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def stop(self) -> None:
        """Send the pending changes, then nothing more."""
        self._changed.put(None)
        self._sender.join()

    def _check(self, name: str, context: grpc.ServicerContext) -> HealthCheckResponse:
        if name not in self._serving:
            context.abort(grpc.StatusCode.NOT_FOUND, unknown(name))
        return response(self._serving.get(name))

    def _states(self) -> dict[str, HealthCheckResponse]:
        return {name: response(self._serving.get(name)) for name in list(self._serving)}

    def _watch(self, name: str, context: grpc.ServicerContext, send: Send) -> None:
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

    def _name(self, requests: Messages, context: grpc.ServicerContext) -> str:
        """Return the name in a request; ends the call if the message cannot be read."""
        try:
            packed = self._receiving.only(requests, context, probe=True)
            message = received(packed, NAME_BYTES, NAME_BYTES)
            name = HealthCheckRequest.FromString(message).service
        except (ServingError, BadMessageError) as error:
            abort(context, error)
        except (DecodeError, UnicodeDecodeError):
            abort(context, BadMessageError("the message is not a HealthCheckRequest"))
        return str(name)

    def _on_change(self, name: str, serving: bool) -> None:
        self._serving[name] = serving
        self._changed.put((name, None))

    def _send_changes(self) -> None:
        """Send current states one after the other, so that the last one sent is the latest."""
        while (change := self._changed.get()) is not None:
            name, only = change
            with self._lock:
                watchers = {only} if only is not None else set(self._watchers.get(name, ()))
            for send in watchers:
                try:
                    send(response(self._serving.get(name)))
                except Exception:
                    logger.exception("could not send the state of %r to a watcher", name)
