"""The server on grpcio's threads."""

from collections.abc import Callable
from time import monotonic

import grpc

from forwardpass.proto import timing
from forwardpass.server.access.authenticator import Access
from forwardpass.server.access.caller import ANYONE, Caller
from forwardpass.server.config import Config, request_limit
from forwardpass.server.errors import ServingError, UnauthenticatedError
from forwardpass.server.health import Health
from forwardpass.server.observe.load import Load
from forwardpass.server.observe.origin import REQUEST_ID
from forwardpass.server.process.sockets import established
from forwardpass.server.repository.control import MAX_WAITING
from forwardpass.server.rpc.in_thread import infer
from forwardpass.server.rpc.infer import Call
from forwardpass.server.rpc.method import NAMES_BYTES, Later, Rpc
from forwardpass.server.rpc.service import SERVICE, Service
from forwardpass.server.settings import INT32_MAX
from forwardpass.server.transport.certificates import (
    CertificateError,
    CertificateFiles,
    Certificates,
)
from forwardpass.server.transport.compression import BadMessageError
from forwardpass.server.transport.grpcio.abort import abort
from forwardpass.server.transport.grpcio.arrivals import ContextArrivals
from forwardpass.server.transport.grpcio.backlog import (
    Arrival,
    Backlog,
    CallHandlers,
    Handle,
    Messages,
    Metadata,
    Refuse,
)
from forwardpass.server.transport.grpcio.gate import Gate
from forwardpass.server.transport.grpcio.health import HealthTransport
from forwardpass.server.transport.grpcio.received import STILL_PACKED
from forwardpass.server.transport.grpcio.receiving import Receiving
from forwardpass.server.transport.grpcio.reflection import reflection_handlers
from forwardpass.server.transport.grpcio.sending import SentAnswers
from forwardpass.server.transport.grpcio.streams import StreamTransport
from forwardpass.server.transport.health_messages import SERVICE as HEALTH_SERVICE
from forwardpass.server.transport.http2.limits import ConnectionLimits
from forwardpass.server.transport.listening import (
    MAX_METADATA_BYTES,
    ListenError,
    address,
    claim,
    refused,
    unix_path,
    why_not,
)
from forwardpass.server.transport.threads import TaskClass

_MAX_PENDING = 2**16
"""Maximum calls that grpcio may hold before it passes them on."""
_PATH = f"/{SERVICE}/"


class GrpcioServer:
    """A gRPC server that hands each call to the service on a thread of its own."""

    def __init__(
        self,
        config: Config,
        service: Service,
        state: Health,
        access: Access,
        *,
        shares_port: bool = False,
    ) -> None:
        """Bind; shares_port: Whether other processes of this server listen on the same port."""
        self._arrivals = ContextArrivals(access, service.denials, observed=service.observed)
        self._denials = service.denials
        self._limit = config.max_message_bytes
        # Our own error names the limit and its flag. grpcio's names neither, so it only refuses
        # messages that are well above the limit, before they are in memory.
        most = min(self._limit + max(self._limit // 8, 2**16), INT32_MAX)
        self._gate = Gate()
        self._receiving = Receiving(request_limit(config), most, config.max_receive_s)
        self._sending = SentAnswers(self._receiving, config.max_unread_s)
        self._receiving.on_look = self._sending.look
        self._backlog = Backlog(config.workers, config.max_backlog, waiters=MAX_WAITING + 1)
        self._server = grpc.server(
            self._backlog,  # type: ignore[arg-type]  # has all of Executor that grpcio uses
            options=[
                STILL_PACKED,
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", -1),
                # Without both, gRPC refuses some calls between 8 and 16 KiB at random.
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.max_concurrent_streams", config.max_calls_per_connection),
                ("grpc.max_allowed_incoming_connections", config.max_connections),
                # As with the event loop, in place of two minutes.
                ("grpc.server_handshake_timeout_ms", _ms(ConnectionLimits.handshake_s)),
                # By default gRPC cancels some calls, counted nowhere, once a thousand of them wait
                # to be accepted; ours wait in the backlog, which sheds them in words.
                ("grpc.server.max_pending_requests", _MAX_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
                # By default a balancer's pings end the connection, and with it calls of seconds.
                ("grpc.http2.min_ping_interval_without_data_ms", _ms(ConnectionLimits.min_ping_s)),
                ("grpc.keepalive_permit_without_calls", 1),
                # Two servers on one port would share its calls silently.
                ("grpc.so_reuseport", int(shares_port)),
                *_age(config),
            ],
        )
        self._streams = StreamTransport(
            service,
            self._gate,
            self._receiving,
            self._sending,
            self._arrivals,
            max_streams=config.max_streams,
            max_message_bytes=self._limit,
        )
        unary = {
            name: self._admit(self._unary(service, rpc), rpc) for name, rpc in service.unary.items()
        }
        unary["ModelInfer"] = self._admit(self._infer(service))
        refuse = {name: self._refuse(service, infers=name == "ModelInfer") for name in unary}
        calls = CallHandlers(
            {_PATH + name: admit for name, admit in unary.items()},
            {_PATH + name: end for name, end in refuse.items()},
            {f"{_PATH}ModelStreamInfer": self._streams.handler()},
        )
        self._server.add_generic_rpc_handlers((calls,))
        self._health = HealthTransport(state, self._receiving)
        self._server.add_generic_rpc_handlers((self._health.handlers(),))
        self._server.add_generic_rpc_handlers(tuple(reflection_handlers((SERVICE, HEALTH_SERVICE))))
        self._certificates: CertificateFiles | None = None
        self.port = self._bind(config)
        """The TCP port; a free one was picked if the configuration says 0."""

    @property
    def open_streams(self) -> int:
        """The number of open streams."""
        return self._streams.open

    def load(self) -> Load:
        """Return what the server has to do now."""
        files = self._certificates
        return Load(
            in_flight=self._backlog.in_flight + self._streams.in_flight,
            waiting=self._backlog.waiting + self._streams.waiting,
            oldest_ns=self._backlog.oldest_ns,
            connections=established(self.port) if self.port else None,
            certificate_expires_s=None if files is None else files.latest().expires_s,
            shared=True,
        )

    def start(self) -> None:
        """Start to answer calls."""
        self._receiving.start()
        self._server.start()

    def reread(self) -> None:
        """Look at the certificate's files now."""
        if self._certificates is not None:
            self._certificates.reread()

    def finish(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE); return when those in flight or the grace have ended.

        For a process that ends then: with `stop`, gRPC would cancel calls that arrive just now,
        and a caller does not try elsewhere after CANCELLED.
        """
        self._streams.stop()
        self._gate.close(grace_s)

    def stop(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE), wait for those in flight within the grace, and stop."""
        self._streams.stop()
        self._server.stop(grace_s).wait()
        self._backlog.shutdown()
        self._receiving.stop()
        self._health.stop()

    def _admit(self, handle: Handle, rpc: Rpc | None = None) -> Callable[[Metadata], Arrival]:
        """Make a function that admits calls of a method; rpc: None for ModelInfer."""
        waits = rpc is not None and rpc.waits
        receiving = self._receiving

        def admit(metadata: Metadata) -> Arrival:
            if rpc is not None and rpc.open:
                return Arrival(receiving, handle, TaskClass.INTERACTIVE, ANYONE, probe=True)
            caller = self._arrivals.known(metadata)
            batch = self._arrivals.is_batch(metadata) or (caller is not None and caller.batch)
            kind = TaskClass.BATCH if batch else TaskClass.INTERACTIVE
            self._backlog.check(kind)
            if rpc is None:
                receiving.check()
            answer = self._sending.answer() if rpc is None else None
            arrival = Arrival(receiving, handle, kind, caller, waits=waits, answer=answer)
            if caller is not None:
                arrival.use(caller.quota)
            return arrival

        return admit

    def _refuse(self, service: Service, *, infers: bool) -> Refuse:
        """Make a function that ends calls that were not admitted; infers: those of ModelInfer."""

        def refuse(context: grpc.ServicerContext, error: ServingError) -> None:
            origin = self._arrivals.origin(context)
            self._arrivals.refused(context, error)
            if infers:
                service.refused(error, origin)
            else:
                service.refusals.shed(error)
            abort(context, error, origin.request_id)

        return refuse

    def _caller(self, context: grpc.ServicerContext, arrival: Arrival) -> Caller:
        """Return the caller; raises UnauthenticatedError, and what `Quota.enter` raises."""
        if arrival.caller is not None:
            return arrival.caller
        # By its certificate, which is not known earlier.
        caller = self._arrivals.caller(context)
        arrival.use(caller.quota)
        return caller

    def _infer(self, service: Service) -> Handle:
        def handle(messages: Messages, context: grpc.ServicerContext, arrival: Arrival) -> bytes:
            origin = self._arrivals.origin(context)
            try:
                message = arrival.message(messages, context, self._limit)
                times = arrival.times()
                with self._gate:
                    remaining = context.time_remaining()
                    deadline = None if remaining is None else monotonic() + remaining
                    caller = self._caller(context, arrival)
                    batch = arrival.kind is TaskClass.BATCH or caller.batch
                    call = Call(message, deadline, context.is_active, caller, origin, times, batch)
                    (answer,) = infer(service.inference, [call], arrival.answer)
            except ServingError as error:
                service.refused(error, origin)
                abort(context, error, origin.request_id)
            except BadMessageError as error:
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

    def _unary(self, service: Service, rpc: Rpc) -> Handle:
        def handle(messages: Messages, context: grpc.ServicerContext, arrival: Arrival) -> bytes:
            request_id = self._arrivals.origin(context).request_id
            caller = ANYONE
            try:
                message = arrival.message(
                    messages, context, self._limit, NAMES_BYTES, rpc.too_large
                )
                if not rpc.open:
                    caller = self._arrivals.at(context, self._caller(context, arrival))
                reply = rpc.answer(message, caller)
                if isinstance(reply, Later):
                    reply = _wait(reply, context)
            except BadMessageError as error:
                abort(context, error, request_id)
            except ServingError as error:
                if not isinstance(error, UnauthenticatedError):
                    self._denials.record(error, caller.name, caller.peer)
                service.refusals.shed(error)
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
            self._certificates = files
            return self._server.add_secure_port(place, _credentials(files))
        except OSError as error:
            raise refused(config, error) from error
        except CertificateError as error:
            raise ListenError(f"cannot listen on {place}: {error}") from error
        except RuntimeError as error:
            other = ListenError(f"cannot listen on {place}: {error}")
            raise why_not(config) or other from error


def _wait(later: Later, context: grpc.ServicerContext) -> bytes:
    """Wait for a reply while its caller does."""

    def leave() -> None:
        later.done.cancel()

    if not context.add_callback(leave):
        leave()
    return later.result()


def _age(config: Config) -> list[tuple[str, int]]:
    if config.max_connection_age_s is None:
        return []
    # gRPC adds jitter itself.
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
        changed,  # type: ignore[arg-type]  # for grpcio None means no change
        require_client_authentication=last.client_ca is not None,
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], root_certificates=certificates.client_ca
    )
