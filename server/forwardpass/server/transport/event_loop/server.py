"""The server on asyncio."""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from forwardpass.server.access.authenticator import Access
from forwardpass.server.access.host_names import HostNames, is_loopback
from forwardpass.server.config import Config, Transport, request_limit
from forwardpass.server.errors import PageFullError
from forwardpass.server.health import Health
from forwardpass.server.observe.load import Load
from forwardpass.server.process.incidents import Incident, Incidents
from forwardpass.server.process.saturation import Saturation
from forwardpass.server.rpc.infer import READERS
from forwardpass.server.rpc.on_loop import Dispatcher
from forwardpass.server.rpc.service import SERVICE, Service
from forwardpass.server.transport.certificates import CertificateError, CertificateFiles
from forwardpass.server.transport.event_loop.arrivals import RequestArrivals, written
from forwardpass.server.transport.event_loop.health import HealthMethods
from forwardpass.server.transport.event_loop.memory import RequestMemory
from forwardpass.server.transport.event_loop.methods import (
    InferExchange,
    Method,
    Work,
    rpc_method,
)
from forwardpass.server.transport.event_loop.protocol import ClientConnection
from forwardpass.server.transport.event_loop.reflection import reflection_methods
from forwardpass.server.transport.event_loop.resting import Resting
from forwardpass.server.transport.event_loop.state import ServerState
from forwardpass.server.transport.event_loop.streams import OpenStreams
from forwardpass.server.transport.event_loop.tls import Tls
from forwardpass.server.transport.event_loop.turn import Turn, respond
from forwardpass.server.transport.health_messages import SERVICE as HEALTH_SERVICE
from forwardpass.server.transport.listening import (
    ListenError,
    SharedListener,
    address,
    listen,
    listen_for_http,
    unix_path,
)
from forwardpass.server.transport.threads import CallThreads

if TYPE_CHECKING:
    from forwardpass.server.rpc.page.page import Page
    from forwardpass.server.transport.event_loop.http_connection import HttpConnection

logger = logging.getLogger(__name__)

_TICK_S = 0.1
_ACCEPT_AGAIN_S = 0.5
"""Time until connections are accepted again after one could not be, in seconds."""
_ACCEPTED_TOGETHER = 128
"""Maximum number of connections that are accepted before the loop does other work."""
_LEAVE_S = 0.05
"""Time for which a connection is left to a process that has fewer, in seconds."""
_PAGE_THREADS = 4
"""Maximum number of calls of pages that are answered at a time."""
_PAGE_WAITING = 64
"""Maximum number of those that wait: a client that goes away leaves its call here."""
_CLOSE_S = 0.5
"""Time for clients to read what was written to them when the server stops, in seconds."""
_QUICK = frozenset(("ServerLive", "ServerReady", "ModelReady"))
"""Methods that are faster than a switch of threads."""


class AsyncioServer:
    """A server of gRPC and HTTP/1.1 in one thread that passes all waiting calls on together.

    Of HTTP/1.1 alone where another transport speaks gRPC.
    """

    def __init__(
        self,
        config: Config,
        service: Service,
        health: Health,
        access: Access,
        incidents: Incidents,
        listener: SharedListener | None,
        page: "Callable[[], Page]",
    ) -> None:
        """Prepare.

        listener: Where other processes accept, too; who made it ends it. page: See `Front`.
        """
        self._listener = listener
        self._incidents = incidents
        self._greeting: set[asyncio.Task[None]] = set()
        """Connections that were accepted, until they are made: over TLS, the handshakes."""
        self._left = False
        """Whether a connection is left to another process now."""
        certificates = _certificates(config)
        self._tls = None if certificates is None else Tls(certificates, "h2")
        self._http_tls = None if certificates is None else Tls(certificates, "http/1.1")
        self._grpc_sockets, self._http_sockets = _sockets(config, listener)
        # Everything that has to be closed is opened after everything that may fail.
        self._loop = _new_loop()
        self._look_at_all = 0.0
        self._saturation = Saturation() if config.processes == 1 else None
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="work")
        methods: dict[bytes, Method] = {
            f"/{SERVICE}/{name}".encode(): rpc_method(
                answer, None if name in _QUICK else partial(self._work_in, self._threads)
            )
            for name, answer in service.unary.items()
        }
        methods[f"/{SERVICE}/ModelInfer".encode()] = InferExchange
        self._streams = OpenStreams(config.max_streams)
        methods[f"/{SERVICE}/ModelStreamInfer".encode()] = self._streams.method()
        self._health = HealthMethods(health, self._post)
        methods |= self._health.methods()
        methods |= reflection_methods((SERVICE, HEALTH_SERVICE))
        is_unix = unix_path(config) is not None
        self._path = unix_path(config) if listener is None else None
        self.port = (
            int(self._grpc_sockets[0].getsockname()[1]) if self._grpc_sockets and not is_unix else 0
        )
        """The TCP port; a free one was picked if the configuration says 0. 0 if there is none."""
        self._runs, self._readers = CallThreads(config.workers), CallThreads(READERS)
        memory = RequestMemory(request_limit(config))
        self.http_port = int(self._http_sockets[0].getsockname()[1]) if self._http_sockets else None
        """The TCP port of HTTP/1.1; None if that is not asked for."""
        self._dispatcher = Dispatcher(
            service.inference, self._runs, self._readers, self._post, respond, memory
        )
        turn = Turn(self._loop, self._dispatcher.infer)
        self.state = ServerState(
            config,
            methods,
            RequestArrivals(access, service),
            turn,
            incidents,
            partial(self._work_in, self._readers),
            Resting(self._loop),
            memory,
            health,
        )
        # Threads of their own, which begin when they have work: who waits for a drawing keeps no
        # other RPC from being answered.
        self._page_threads = ThreadPoolExecutor(_PAGE_THREADS, thread_name_prefix="page")
        self._new_http = (
            _http(
                self.state,
                service,
                partial(self._work_in, self._threads),
                page,
                self._work_on_page,
                self._host_names(config),
            )
            if self._http_sockets
            else None
        )
        """Makes a connection of HTTP/1.1."""
        self._page_calls = 0
        """Calls of pages that are answered, or wait."""
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)

    @property
    def open_streams(self) -> int:
        """The number of open streams."""
        return self._streams.count

    def load(self) -> Load:
        """Return what the server has to do now."""
        return self.state.load(None if self._tls is None else self._tls.expires_s)

    def start(self) -> None:
        """Start to answer calls."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._accept(), self._loop).result()

    def reread(self) -> None:
        """Look at the certificate's files now."""
        if self._tls is not None:
            self._tls.reread()

    def finish(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE); return when those in flight or the grace have ended.

        For a process that ends then.
        """
        asyncio.run_coroutine_threadsafe(self._finish(grace_s), self._loop).result()

    def stop(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE), wait for those in flight within the grace, and stop."""
        if not self._thread.is_alive():
            for listener in self._sockets():
                listener.close()
            self._loop.close()
        else:
            self.finish(grace_s)
            asyncio.run_coroutine_threadsafe(self._abort(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        for threads in (self._threads, self._page_threads, self._runs, self._readers):
            threads.shutdown(wait=False, cancel_futures=True)

    def _host_names(self, config: Config) -> HostNames | None:
        """Return the names that requests over HTTP/1.1 may carry; None: any."""
        local = all(is_loopback(each.getsockname()[0]) for each in self._http_sockets)
        return config.http_host_names if local or config.http_host_names else None

    def _sockets(self) -> list[socket.socket]:
        return [*self._grpc_sockets, *self._http_sockets]

    # On the loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _accept(self) -> None:
        for listener in self._sockets():
            listener.setblocking(False)
            self._loop.add_reader(listener, self._take, listener)
        self._loop.call_later(_TICK_S, self._tick)

    def _take(self, listener: socket.socket) -> None:
        """Accept connections, by hand: asyncio and libuv report neither error below."""
        for _ in range(_ACCEPTED_TOGETHER):
            if not self._is_next():
                self._loop.remove_reader(listener)
                self._loop.call_later(_LEAVE_S, self._accept_again, listener)
                return
            try:
                connection, name = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # Mostly too many open files. The socket stays readable: wait, or the loop spins.
                self._incidents.report(
                    Incident.ACCEPT,
                    logger,
                    "a connection cannot be accepted: %s; raise the limit of open files, or lower "
                    "--max-connections",
                    error.strerror,
                )
                self._loop.remove_reader(listener)
                self._loop.call_later(_ACCEPT_AGAIN_S, self._accept_again, listener)
                return
            connection.setblocking(False)
            http = listener in self._http_sockets
            task = self._loop.create_task(self._greet(connection, written(name), http=http))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    def _accept_again(self, listener: socket.socket) -> None:
        if not self.state.closed:
            self._loop.add_reader(listener, self._take, listener)

    def _is_next(self) -> bool:
        """Whether to accept, or leave it to a process that has fewer connections."""
        if self._listener is None:
            return True
        # Once only: the other may be stopped, or have no room.
        self._left = not self._left and not self._listener.is_next(self._connections())
        return not self._left

    def _connections(self) -> int:
        return len(self.state.connections) + len(self._greeting)

    async def _greet(self, connection: socket.socket, peer: str, *, http: bool) -> None:
        tls = self._http_tls if http else self._tls
        context = None if tls is None else tls.context
        protocol: ClientConnection | HttpConnection = (
            self._new_http() if http and self._new_http else ClientConnection(self.state)
        )
        if not self.state.greet(protocol):
            connection.close()
            return
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=None if context is None else self.state.limits.handshake_s,
            )
        except (ssl.SSLError, ConnectionAbortedError) as error:
            # ConnectionAbortedError: out of time.
            self.state.handshake_failed(peer, str(error))
        except OSError:
            # It went away, as probes do that only look whether somebody listens.
            connection.close()
        finally:
            self.state.greeting.discard(protocol)

    def _tick(self) -> None:
        # First, so that an error below does not stop the ticks.
        self._loop.call_later(_TICK_S, self._tick)
        if self._listener is not None:
            self._listener.is_next(self._connections())
        now = monotonic()
        for connection in list(self.state.busy):
            connection.tick(now)
        if now >= self._look_at_all:
            self._look_at_all = now + 1.0
            if self._saturation is not None:
                self._saturation.look()
            for connection in self.state.connections - self.state.busy:
                connection.tick(now)
            self.state.memory.look()
        self._dispatcher.sweep()
        self.state.memory.tidy()

    async def _finish(self, grace_s: float) -> None:
        self.state.closed = True
        for listener in self._sockets():
            # Another stop has closed it, or does so now.
            if listener.fileno() >= 0:
                self._loop.remove_reader(listener)
                listener.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._streams.stop()
        self._health.stop()
        for connection in self.state.connections:
            connection.leave()
        end = monotonic() + grace_s
        while any(each.unanswered for each in self.state.connections) and monotonic() < end:
            await asyncio.sleep(0.01)

    async def _abort(self) -> None:
        greeting = list(self._greeting)
        for task in greeting:
            task.cancel()
        await asyncio.gather(*greeting, return_exceptions=True)
        for connection in list(self.state.connections):
            connection.close()
        end = monotonic() + _CLOSE_S
        while self.state.connections and monotonic() < end:
            await asyncio.sleep(0.01)
        for connection in list(self.state.connections):
            connection.abort()
        while self.state.connections:
            await asyncio.sleep(0)

    def _work_in(
        self,
        threads: Executor,
        what: Callable[[], Any],
        then: Callable[[Any], None],
    ) -> None:
        def run() -> None:
            try:
                answer = what()
            except Exception as error:
                # Not stored in a variable here: with its traceback it would keep itself alive,
                # and everything that the method had open.
                self._post(partial(then, error))
            else:
                self._post(partial(then, answer))

        with suppress(RuntimeError):  # the threads have ended
            threads.submit(run)

    def _work_on_page(self, what: Callable[[], Any], then: Callable[[Any], None]) -> None:
        if self._page_calls >= _PAGE_THREADS + _PAGE_WAITING:
            then(PageFullError(_PAGE_WAITING))
            return
        self._page_calls += 1

        def end(answer: Any) -> None:
            self._page_calls -= 1
            then(answer)

        self._work_in(self._page_threads, what, end)

    def _post(self, what: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(what)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop

        return uvloop.new_event_loop()
    except (ImportError, OSError) as error:
        # There is none for Windows and PyPy.
        logger.info("Python's own event loop is used, with more CPU a call: %s", error)
        return asyncio.SelectorEventLoop()


def _http(
    state: ServerState,
    service: Service,
    work: Work,
    page: "Callable[[], Page]",
    page_work: Work,
    host_names: HostNames | None,
) -> "Callable[[], HttpConnection]":
    # Imported here: most servers have gRPC alone.
    from forwardpass.server.transport.event_loop.http_connection import HttpConnection
    from forwardpass.server.transport.event_loop.http_requests import RestMethods

    methods = RestMethods(
        {
            name: (answer, None if name in _QUICK else work)
            for name, answer in service.unary.items()
        },
        service,
        work,
        state.max_message_bytes,
        page,
        page_work,
        host_names,
    )
    return lambda: HttpConnection(state, methods)


def _sockets(
    config: Config, listener: SharedListener | None
) -> tuple[Sequence[socket.socket], Sequence[socket.socket]]:
    """Return what to accept gRPC and HTTP/1.1 from; raises ListenError."""
    if listener is not None:
        return listener.sockets, listener.http
    grpc = listen(config) if config.transport is Transport.ASYNCIO else []
    try:
        return grpc, listen_for_http(config)
    except ListenError:
        for each in grpc:
            each.close()
        raise


def _certificates(config: Config) -> CertificateFiles | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    try:
        return CertificateFiles(config.tls_cert, config.tls_key, config.tls_client_ca)
    except CertificateError as error:
        raise ListenError(f"cannot listen on {address(config)}: {error}") from error
