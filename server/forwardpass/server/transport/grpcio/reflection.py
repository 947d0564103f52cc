"""Server reflection over grpcio."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from forwardpass.server.errors import ServingError
from forwardpass.server.rpc.method import NAMES_BYTES
from forwardpass.server.transport.compression import BadMessageError
from forwardpass.server.transport.grpcio.abort import abort
from forwardpass.server.transport.grpcio.received import received
from forwardpass.server.transport.reflection import SERVICES, reflection_servicer

_MAX_STREAMS = 8
"""Maximum number of open streams; a tool holds one while its command runs."""


def reflection_handlers(services: tuple[str, ...]) -> list[grpc.GenericRpcHandler]:
    """Return the handlers for both names; services: the server's other services."""
    servicer = reflection_servicer(services)

    def handle(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from servicer.ServerReflectionInfo(map(_question, messages), context)
        except (ServingError, BadMessageError) as error:
            abort(context, error)

    # An open stream holds a thread, so it must not be one of those that answer calls.
    handle.experimental_thread_pool = ThreadPoolExecutor(  # type: ignore[attr-defined]
        _MAX_STREAMS, thread_name_prefix="reflection"
    )
    method: grpc.RpcMethodHandler[bytes, Any] = grpc.stream_stream_rpc_method_handler(
        handle, None, ServerReflectionResponse.SerializeToString
    )
    return [
        grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": method})
        for service in SERVICES
    ]


def _question(message: bytes) -> Any:
    try:
        return ServerReflectionRequest.FromString(received(message, NAMES_BYTES, NAMES_BYTES))
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadMessageError("the message is not a ServerReflectionRequest") from error
