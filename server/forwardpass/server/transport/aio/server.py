"""The server on asyncio."""

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic

from forwardpass.server.access import Access
from forwardpass.server.certificates import CertificateError, CertificateFiles
from forwardpass.server.config import Config
from forwardpass.server.dispatch import Dispatcher
from forwardpass.server.health import Health
from forwardpass.server.service import SERVICE, Service
from forwardpass.server.transport.aio.arrivals import Arrivals
from forwardpass.server.transport.aio.calls import ReadCall
from forwardpass.server.transport.aio.health import HealthMethods
from forwardpass.server.transport.aio.memory import RequestMemory
from forwardpass.server.transport.aio.methods import InferExchange, Method, rpc_method
from forwardpass.server.transport.aio.protocol import ClientConnection
from forwardpass.server.transport.aio.reflection import reflection_methods
from forwardpass.server.transport.aio.streams import OpenStreams
from forwardpass.server.transport.aio.tls import Tls
from forwardpass.server.transport.aio.turn import Turn
from forwardpass.server.transport.health_messages import SERVICE as HEALTH_SERVICE
from forwardpass.server.transport.http2.limits import Limits
from forwardpass.server.transport.listening import BACKLOG, ListenError, address, listen, unix_path
from forwardpass.server.transport.threads import CallThreads

_READ_BYTES = 2**18
"""Most bytes that are read from a socket at a time."""
_REQUEST_BYTES = 2**28
"""Least memory for requests that are on their way or wait; more where messages may be larger."""
_TICK_S = 0.1
_CLOSE_S = 0.5
"""For clients to take what was written to them, when the server stops."""
_QUICK = frozenset(("ServerLive", "ServerReady", "ModelReady"))
"""Methods that take less time than handing them to a thread would."""


class AsyncioServer:
    """A gRPC server in one thread, which hands to the service all calls that wait together."""

    def __init__(self, config: Config, service: Service, state: Health, access: Access) -> None:
        self._tls = _tls(config)
        self._socket = listen(config)
        # What has to be closed again comes after all that may fail.
        self._loop = _new_loop()
        self.arrivals = Arrivals(access, service)
        self.max_message_bytes = config.max_message_bytes
        self.limits = Limits(max_streams=config.max_calls_per_connection)
        self._max_connections = config.max_connections
        self._max_age_s = config.max_connection_age_s
        self.grace_s = config.grace_s
        self.memory = RequestMemory(max(_REQUEST_BYTES, 8 * config.max_message_bytes))
        self.buffer = memoryview(bytearray(_READ_BYTES))
        """What all connections read into."""
        self.closed = False
        """Whether new calls are answered UNAVAILABLE."""
        self._connections: set[ClientConnection] = set()
        self.busy: set[ClientConnection] = set()
        """Those with calls that may run out of time."""
        self._look_at_all = 0.0
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="work")
        self.methods: dict[bytes, Method] = {
            f"/{SERVICE}/{name}".encode(): rpc_method(
                answer, None if name in _QUICK else self._work
            )
            for name, answer in service.unary.items()
        }
        self.methods[f"/{SERVICE}/ModelInfer".encode()] = InferExchange
        self._streams = OpenStreams(config.max_streams)
        self.methods[f"/{SERVICE}/ModelStreamInfer".encode()] = self._streams.method()
        self._health = HealthMethods(state, self._post)
        self.methods |= self._health.methods()
        self.methods |= reflection_methods((SERVICE, HEALTH_SERVICE))
        self._path = unix_path(config)
        self.port = 0 if self._path is not None else int(self._socket.getsockname()[1])
        """The TCP port, picked where the configuration says 0; 0 where there is none."""
        self._dispatcher = Dispatcher(
            service.inference, CallThreads(config.workers), self._post, _respond
        )
        self.turn = Turn(self._loop, self._dispatcher.infer)
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return self._streams.count

    def start(self) -> None:
        """Begin to answer calls."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._accept(), self._loop).result()

    def finish(self, grace_s: float) -> None:
        """Answer new calls UNAVAILABLE; return when those in flight have ended, or the grace has.

        For a process that ends then.
        """
        asyncio.run_coroutine_threadsafe(self._finish(grace_s), self._loop).result()

    def stop(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE), let those in flight end within the grace, and stop."""
        if not self._thread.is_alive():
            self._socket.close()
            self._loop.close()
            return
        self.finish(grace_s)
        asyncio.run_coroutine_threadsafe(self._abort(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # What the connections call

    def admit(self, connection: ClientConnection) -> bool:
        """Take a connection in, unless there are too many."""
        if len(self._connections) >= self._max_connections:
            return False
        self._connections.add(connection)
        return True

    def dismiss(self, connection: ClientConnection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self.busy.discard(connection)

    def connection_end(self, now: float) -> float | None:
        """When a connection that begins now is asked to end."""
        age_s = self._max_age_s
        # Spread, or clients that came together would come again together, for ever.
        return None if age_s is None else now + age_s * random.uniform(0.9, 1.1)  # noqa: S311

    # The loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _accept(self) -> None:
        self._server = await self._loop.create_server(
            lambda: ClientConnection(self),
            sock=self._socket,
            backlog=BACKLOG,
            ssl=None if self._tls is None else self._tls.context,
            ssl_handshake_timeout=None if self._tls is None else self.limits.handshake_s,
        )
        self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        # First: whatever goes wrong below, the clock goes on.
        self._loop.call_later(_TICK_S, self._tick)
        now = monotonic()
        for connection in list(self.busy):
            connection.tick(now)
        if now >= self._look_at_all:
            self._look_at_all = now + 1.0
            for connection in self._connections - self.busy:
                connection.tick(now)
        self._dispatcher.sweep()
        self.memory.tidy()

    async def _finish(self, grace_s: float) -> None:
        self.closed = True
        self._server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._streams.stop()
        self._health.stop()
        for connection in self._connections:
            connection.leave()
        end = monotonic() + grace_s
        while any(each.unanswered for each in self._connections) and monotonic() < end:
            await asyncio.sleep(0.01)

    async def _abort(self) -> None:
        for connection in list(self._connections):
            connection.close()
        end = monotonic() + _CLOSE_S
        while self._connections and monotonic() < end:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()
        while self._connections:
            await asyncio.sleep(0)

    def _work(self, what: Callable[[], bytes], then: Callable[[bytes | Exception], None]) -> None:
        def run() -> None:
            try:
                answer = what()
            except Exception as error:
                # Kept in no variable here: with its traceback it would keep itself alive, and
                # whatever the method had open.
                self._post(partial(then, error))
            else:
                self._post(partial(then, answer))

        self._threads.submit(run)

    def _post(self, what: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(what)


def _respond(calls: Sequence[ReadCall]) -> None:
    for call in calls:
        call.respond()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop()
    return uvloop.new_event_loop()


def _tls(config: Config) -> Tls | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    try:
        return Tls(CertificateFiles(config.tls_cert, config.tls_key, config.tls_client_ca))
    except CertificateError as error:
        raise ListenError(f"cannot listen on {address(config)}: {error}") from error
