"""The server on grpcio's threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_status import rpc_status

from forwardpass.proto import inference_pb2, timing
from forwardpass.server.config import Config
from forwardpass.server.errors import STATUS, MessageTooLargeError, ServingError
from forwardpass.server.health import Health
from forwardpass.server.service import SERVICE, Call, Reply, Service
from forwardpass.server.transport.health import SERVICE as HEALTH_SERVICE
from forwardpass.server.transport.health import HealthTransport

_MAX_TEXT_BYTES = 1000
"""Of an error's text: it travels up to three times, encoded, within 8 KiB of trailers."""

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class ListenError(Exception):
    """The address cannot be listened on."""


class GrpcioServer:
    """A gRPC server that hands each call to the service on a thread of its own."""

    def __init__(self, config: Config, service: Service, state: Health) -> None:
        self._limit = config.max_message_bytes
        self._server = grpc.server(
            ThreadPoolExecutor(config.workers, thread_name_prefix="call"),
            options=[
                # We answer above the limit ourselves, naming it and its flag; grpcio, whose
                # text names neither, cuts what is above twice the limit before it is in memory.
                ("grpc.max_receive_message_length", min(2 * self._limit, 2**31 - 1)),
                ("grpc.max_send_message_length", -1),
                # Two servers on one port would share its calls silently.
                ("grpc.so_reuseport", 0),
            ],
        )
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(answer))
            for name, answer in service.unary.items()
        }
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer(service))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        self._server.add_generic_rpc_handlers((HealthTransport(state).handlers(),))
        self._add_reflection()
        self.port = self._bind(config)
        """The TCP port, picked where the configuration says 0."""

    def start(self) -> None:
        """Begin to answer calls."""
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE), let those in flight end within the grace, and stop."""
        self._server.stop(grace_s).wait()

    def _infer(self, service: Service) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def handle(message: bytes, context: grpc.ServicerContext) -> bytes:
            answer: Reply | ServingError
            if len(message) > self._limit:
                answer = MessageTooLargeError(len(message), self._limit)
            else:
                remaining = context.time_remaining()
                deadline = None if remaining is None else monotonic() + remaining
                (answer,) = service.infer([Call(message, deadline, context.is_active)])
            if isinstance(answer, ServingError):
                _abort(context, answer)
            if answer.timing is not None:
                context.set_trailing_metadata(((timing.TRAILER, timing.dump_parts(answer.timing)),))
            return answer.message

        return handle

    def _unary(
        self, answer: Callable[[bytes], bytes]
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def handle(message: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                if len(message) > self._limit:
                    raise MessageTooLargeError(len(message), self._limit)
                return answer(message)
            except ServingError as error:
                _abort(context, error)

        return handle

    def _add_reflection(self) -> None:
        # Our messages are not in protobuf's default pool; reflection needs one pool for all.
        pool = DescriptorPool()
        for file in (inference_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            pool.AddSerializedFile(file.serialized_pb)
        reflection.enable_server_reflection(
            (SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME), self._server, pool=pool
        )

    def _bind(self, config: Config) -> int:
        # A bare IPv6 address has colons of its own.
        host = f"[{config.host}]" if ":" in config.host.strip("[]") else config.host
        address = f"{host.replace('[[', '[').replace(']]', ']')}:{config.port}"
        try:
            if config.tls_cert is None or config.tls_key is None:
                return self._server.add_insecure_port(address)
            credentials = grpc.ssl_server_credentials(
                [(config.tls_key.read_bytes(), config.tls_cert.read_bytes())],
                root_certificates=_read(config.tls_client_ca),
                require_client_auth=config.tls_client_ca is not None,
            )
            return self._server.add_secure_port(address, credentials)
        except (RuntimeError, OSError) as error:
            raise ListenError(f"cannot listen on {address}: {error}") from error


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _abort(context: grpc.ServicerContext, error: ServingError) -> NoReturn:
    """End the call with the error's status code, its text and its violations."""
    status = status_pb2.Status(code=STATUS[type(error)], message=_cut(str(error)))
    if not error.violations:
        context.abort(_CODES[status.code], status.message)
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=_cut(violation.field), description=_cut(violation.description)
                )
                for violation in error.violations
            ]
        )
    )
    status.details.append(detail)
    context.abort_with_status(rpc_status.to_status(status))


def _cut(text: str) -> str:
    """Keep a text that quotes its caller within what a trailer can carry."""
    data = text.encode("utf-8", "replace")
    if len(data) <= _MAX_TEXT_BYTES:
        return text
    return data[:_MAX_TEXT_BYTES].decode("utf-8", "ignore") + "..."
