"""The server on grpcio's threads."""

from collections.abc import Callable
from time import monotonic

import grpc

from forwardpass.proto import timing
from forwardpass.server.access import Access
from forwardpass.server.caller import ANYONE
from forwardpass.server.certificates import CertificateError, CertificateFiles, Certificates
from forwardpass.server.config import Config
from forwardpass.server.errors import MessageTooLargeError, NamesTooLargeError, ServingError
from forwardpass.server.gate import Gate
from forwardpass.server.health import Health
from forwardpass.server.inference import Call
from forwardpass.server.origin import REQUEST_ID
from forwardpass.server.rpc import Rpc
from forwardpass.server.service import SERVICE, Service
from forwardpass.server.transport.abort import abort
from forwardpass.server.transport.health import HealthTransport
from forwardpass.server.transport.health_messages import SERVICE as HEALTH_SERVICE
from forwardpass.server.transport.listening import ListenError, address, claim, unix_path
from forwardpass.server.transport.metadata import Arrivals
from forwardpass.server.transport.reflection import reflection_handlers
from forwardpass.server.transport.streams import StreamTransport
from forwardpass.server.transport.threads import CallThreads


class GrpcioServer:
    """A gRPC server that hands each call to the service on a thread of its own."""

    def __init__(self, config: Config, service: Service, state: Health, access: Access) -> None:
        self._arrivals = Arrivals(access, observed=service.observed)
        self._limit = config.max_message_bytes
        self._gate = Gate()
        self._threads = CallThreads(config.workers)
        self._server = grpc.server(
            self._threads,  # type: ignore[arg-type]  # all that grpcio uses of an executor
            options=[
                # We answer above the limit ourselves, naming it and its flag; grpcio, whose
                # text names neither, cuts what is above twice the limit before it is in memory.
                ("grpc.max_receive_message_length", min(2 * self._limit, 2**31 - 1)),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", config.max_calls_per_connection),
                ("grpc.max_allowed_incoming_connections", config.max_connections),
                # Two servers on one port would share its calls silently.
                ("grpc.so_reuseport", 0),
                *_age(config),
            ],
        )
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(rpc))
            for name, rpc in service.unary.items()
        }
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer(service))
        self._streams = StreamTransport(
            service,
            self._gate,
            self._arrivals,
            max_streams=config.max_streams,
            max_message_bytes=self._limit,
        )
        handlers["ModelStreamInfer"] = self._streams.handler()
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        self._health = HealthTransport(state)
        self._server.add_generic_rpc_handlers((self._health.handlers(),))
        self._server.add_generic_rpc_handlers(tuple(reflection_handlers((SERVICE, HEALTH_SERVICE))))
        self.port = self._bind(config)
        """The TCP port, picked where the configuration says 0."""

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return self._streams.open

    def start(self) -> None:
        """Begin to answer calls."""
        self._server.start()

    def finish(self, grace_s: float) -> None:
        """Answer new calls UNAVAILABLE; return when those in flight have ended, or the grace has.

        For a process that ends then: `stop` would have gRPC cancel what arrives just now, and
        CANCELLED tells a caller not to try elsewhere.
        """
        self._streams.stop()
        self._gate.close(grace_s)

    def stop(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE), let those in flight end within the grace, and stop."""
        self._streams.stop()
        self._server.stop(grace_s).wait()
        self._threads.shutdown()
        self._health.stop()

    def _infer(self, service: Service) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def handle(message: bytes, context: grpc.ServicerContext) -> bytes:
            origin = self._arrivals.origin(context)
            try:
                with self._gate:
                    if len(message) > self._limit:
                        raise MessageTooLargeError(len(message), self._limit)
                    remaining = context.time_remaining()
                    deadline = None if remaining is None else monotonic() + remaining
                    caller = self._arrivals.caller(context)
                    call = Call(message, deadline, context.is_active, caller, origin)
                    (answer,) = service.infer([call])
            except ServingError as error:
                service.refused(error, origin)
                abort(context, error, origin.request_id)
            if isinstance(answer, ServingError):
                abort(context, answer, origin.request_id)
            trailers: list[tuple[str, str | bytes]] = []
            if answer.timing is not None:
                trailers.append((timing.TRAILER, timing.dump_parts(answer.timing)))
            if origin.request_id:
                trailers.append((REQUEST_ID, origin.request_id))
            if trailers:
                context.set_trailing_metadata(tuple(trailers))
            return answer.message

        return handle

    def _unary(self, rpc: Rpc) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def handle(message: bytes, context: grpc.ServicerContext) -> bytes:
            request_id = self._arrivals.origin(context).request_id
            try:
                if len(message) > self._limit:
                    raise MessageTooLargeError(len(message), self._limit)
                if rpc.names_bytes is not None and len(message) > rpc.names_bytes:
                    raise NamesTooLargeError(len(message), rpc.names_bytes)
                caller = ANYONE if rpc.open else self._arrivals.caller(context)
                reply = rpc.answer(message, caller)
            except ServingError as error:
                abort(context, error, request_id)
            if request_id:
                context.set_trailing_metadata(((REQUEST_ID, request_id),))
            return reply

        return handle

    def _bind(self, config: Config) -> int:
        place = address(config)
        try:
            path = unix_path(config)
            if path is not None:
                claim(path)
            if config.tls_cert is None or config.tls_key is None:
                port = self._server.add_insecure_port(place)
                return port if path is None else 0
            files = CertificateFiles(config.tls_cert, config.tls_key, config.tls_client_ca)
            return self._server.add_secure_port(place, _credentials(files))
        except (RuntimeError, OSError, CertificateError) as error:
            raise ListenError(f"cannot listen on {place}: {error}") from error


def _age(config: Config) -> list[tuple[str, int]]:
    if config.max_connection_age_s is None:
        return []
    # gRPC adds the jitter itself.
    return [
        ("grpc.max_connection_age_ms", _ms(config.max_connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _ms(config.grace_s)),
    ]


def _ms(seconds: float) -> int:
    return min(round(seconds * 1000), 2**31 - 1)


def _credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Return credentials that ask for the latest certificate at every handshake."""
    last = files.latest()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal last
        latest = files.latest()
        if latest is last:
            return None
        last = latest
        return _configuration(latest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(last),
        changed,  # type: ignore[arg-type]  # grpcio takes None as: nothing new
        require_client_authentication=last.client_ca is not None,
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], root_certificates=certificates.client_ca
    )
