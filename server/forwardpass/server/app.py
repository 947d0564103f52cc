"""The server: connects the parts, starts, drains, stops."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn, Self

from forwardpass.proto.pickling import PicklableError
from forwardpass.proto.stores import StoreError
from forwardpass.server.access.authenticator import Access
from forwardpass.server.audit import Denials
from forwardpass.server.config import Config, Transport
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.health import Health
from forwardpass.server.observe.call_log import log_call
from forwardpass.server.observe.load import Load
from forwardpass.server.observe.observation import Observer
from forwardpass.server.process.cpus import available_cpus
from forwardpass.server.process.incidents import Incidents
from forwardpass.server.process.signals import Signals
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.repository.control import Changes, Control
from forwardpass.server.repository.disk import (
    MODEL_FILE,
    EmptyRepositoryError,
    ModelFile,
    RepositoryError,
    scan,
)
from forwardpass.server.repository.lifecycle import Lifecycle
from forwardpass.server.repository.loader import Files, Loader, Made
from forwardpass.server.repository.trial import Trial
from forwardpass.server.rpc.peers import Alone, Peers
from forwardpass.server.rpc.regions import Regions
from forwardpass.server.rpc.service import Service
from forwardpass.server.rpc.triton.extensions import triton_extensions
from forwardpass.server.transport.listening import SharedListener

if TYPE_CHECKING:
    from forwardpass.server.observe.metrics_server import MetricsServer
    from forwardpass.server.observe.tracing import Tracing
    from forwardpass.server.repository.mirror import Mirror
    from forwardpass.server.repository.mirror_folder import MirrorFigures
    from forwardpass.server.rpc.page.page import Page
    from forwardpass.server.transport.event_loop.server import AsyncioServer
    from forwardpass.server.transport.grpcio.server import GrpcioServer

logger = logging.getLogger(__name__)


_FLUSH_S = 1.0
"""Maximum time to write what is left for stdout when the process ends, in seconds."""


class TracingUnavailableError(PicklableError):
    """Traces were requested but OpenTelemetry is not installed."""

    def __init__(self) -> None:
        super().__init__("traces need OpenTelemetry; install forwardpass[tracing]")


def check_models(config: Config) -> None:
    """Raise RepositoryError if there is nothing to serve, see `Server`."""
    if config.store is not None:
        check_store(config.store)
        return
    try:
        empty = not scan(config.models).files
    except RepositoryError as error:
        raise RepositoryError(
            f"{error}; name a .onnx file, a directory of them, or NAME/VERSION/{MODEL_FILE} that "
            "exists and that this user may read"
        ) from error
    if empty and config.models.is_file():
        raise EmptyRepositoryError(config.models, "name one of them")
    if empty and not (config.watch or config.model_control):
        fix = "put one there first, or leave out --no-watch, to wait for it"
        raise EmptyRepositoryError(config.models, fix)


def check_store(url: str) -> None:
    """Raise RepositoryError if the store at a URL cannot be opened here."""
    # Not imported: processes are forked after this.
    if find_spec("obstore") is None:
        raise RepositoryError(f"{url}: object stores need obstore; install forwardpass[stores]")


def check_tracing(config: Config) -> None:
    """Raise TracingUnavailableError if traces are requested and OpenTelemetry is missing."""
    if config.traces:
        _tracing_type()


def queue_limits(config: Config) -> QueueLimits:
    """Return the limits of every model's queue in one process."""
    # The processes share the CPUs.
    runners = max(1, available_cpus() // config.processes)
    return QueueLimits(max_waiting=config.max_queue, runners=runners)


def new_loader(
    config: Config, trial: Trial, queue: QueueLimits, made: Made | None = None
) -> Loader:
    """Return what makes models of files; made: see `Loader`."""
    return Loader(
        config.models,
        config.limits,
        trial,
        queue,
        watch_inputs=config.metrics_port is not None,
        by_feature=config.drift_by_feature,
        made=made,
    )


class Models:
    """The models at `config.models`, and all that keeps them in step with the disk."""

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        load: Callable[[ModelFile], Model],
        unloaded: Iterable[str] = (),
    ) -> None:
        """Check the path; raises RepositoryError, see `Server`.

        load, unloaded: see `Lifecycle`.
        """
        check_models(config)
        self.catalog = catalog
        self.health = Health()
        self.lifecycle = Lifecycle(
            config.models,
            catalog,
            self.health,
            load,
            policy=config.versions,
            watch=config.watch,
            # A mirror is on a local disk.
            poll_s=config.poll_s if config.store is None else None,
            unloaded=unloaded,
        )
        self._mirror = None if config.store is None else self._mirror_of(config.store, config)
        self.control = Control(self._load_by_name, self.lifecycle.unload)

    @property
    def mirrored(self) -> "Callable[[], MirrorFigures] | None":
        """Returns the state of the store's mirror; None without a store."""
        mirror = self._mirror
        return None if mirror is None else lambda: mirror.figures

    def start(self) -> None:
        """Load everything, of a store once it is mirrored or cannot be read; then watch."""
        if self._mirror is None:
            self.lifecycle.start()
        else:
            self._mirror.start(self.lifecycle.start)

    def reread(self) -> None:
        """Look at the repository now; may take as long as a load."""
        if self._mirror is not None:
            self._mirror.look()
        self.lifecycle.rescan(settle_s=0.0)

    def drain(self) -> None:
        """Report not ready and load nothing more."""
        self.health.drain()
        if self._mirror is not None:
            self._mirror.stop()
        self.lifecycle.stop()
        self.control.stop()

    def join(self) -> None:
        """Wait, after `drain`, for what is being fetched and loaded."""
        if self._mirror is not None:
            self._mirror.join()
        self.lifecycle.join()
        self.control.join()

    def _load_by_name(self, name: str) -> None:
        if self._mirror is not None:
            self._mirror.look()
        self.lifecycle.load(name)

    def _mirror_of(self, url: str, config: Config) -> "Mirror":
        # Imported here: most servers have no store.
        from forwardpass.server.repository.mirror import Mirror

        try:
            return Mirror(
                url,
                config.models,
                self.catalog.get,
                self.catalog.note,
                policy=config.versions,
                poll_s=config.poll_s,
                watch=config.watch,
                max_bytes=config.mirror_bytes,
            )
        except StoreError as error:
            raise RepositoryError(str(error)) from error


class GrpcioAndHttp:
    """gRPC by grpcio, and HTTP/1.1 on an event loop beside it."""

    def __init__(self, grpcio: "GrpcioServer", http: "AsyncioServer") -> None:
        self._grpcio = grpcio
        self._http = http
        self.port = grpcio.port
        """The TCP port of gRPC."""
        self.http_port = http.http_port
        """The TCP port of HTTP/1.1."""

    @property
    def open_streams(self) -> int:
        """The number of open streams."""
        return self._grpcio.open_streams

    def load(self) -> Load:
        """Return what both have to do now."""
        grpcio, http = self._grpcio.load(), self._http.load()
        # Those of HTTP/1.1 are this process' own.
        return grpcio.with_that_of(http)._replace(
            connections=(grpcio.connections or 0) + (http.connections or 0)
        )

    def start(self) -> None:
        """Start to answer calls."""
        self._grpcio.start()
        self._http.start()

    def reread(self) -> None:
        """Look at the certificate's files now."""
        self._grpcio.reread()
        self._http.reread()

    def finish(self, grace_s: float) -> None:
        """Refuse new calls; return when those in flight or the grace have ended."""
        end = time.monotonic() + grace_s
        self._grpcio.finish(grace_s)
        self._http.finish(max(0.0, end - time.monotonic()))

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait for those in flight within the grace, and stop."""
        end = time.monotonic() + grace_s
        self._grpcio.stop(grace_s)
        self._http.stop(max(0.0, end - time.monotonic()))


class Front:
    """What answers calls: the RPCs over a transport, for callers that are known."""

    def __init__(
        self,
        config: Config,
        incidents: Incidents,
        catalog: Catalog,
        health: Health,
        control: Changes,
        queue: QueueLimits,
        peers: Peers,
        regions: Regions,
        *,
        access: Access | None = None,
        listener: SharedListener | None = None,
    ) -> None:
        """Bind the port.

        peers: The other processes of the server. access: None: made of the settings. listener:
        What to accept from, of all processes; None: a socket of its own, with `config.processes`
        above 1 beside those of the others on one port.

        Raises TokensError, ListenError and TracingUnavailableError, see `Server`.
        """
        extensions = triton_extensions(config, catalog, control, queue, regions, peers)
        observers: list[Observer] = [log_call] if config.log_calls else []
        self._tracing = _tracing_type().start() if config.traces else None
        if self._tracing is not None:
            observers.append(self._tracing.observe)
        self.service = Service(
            catalog,
            health,
            name=config.server_name,
            max_rows=config.max_rows,
            regions=regions,
            extensions=extensions,
            observers=observers,
            denials=Denials(incidents, catalog.__contains__),
        )
        self._access = Access(config.tokens) if access is None else access
        self._config = config
        self._catalog = catalog
        self._peers = peers
        self._started = time.monotonic()
        self._page: Page | None = None
        self._making_page = threading.Lock()
        self._stopped = False
        self.transport = self._listen(config, health, incidents, listener)

    def page(self) -> "Page":
        """Return the server's page over HTTP, which is made when it is asked for first."""
        with self._making_page:
            if self._page is None:
                # Imported here: most servers are never asked for it.
                from forwardpass.server.rpc.page.page import Page

                config = self._config
                self._page = Page(
                    self.service,
                    self._catalog,
                    self._peers,
                    Files(config.models, config.limits),
                    self.transport.load,
                    started=self._started,
                    max_run_bytes=config.trial_memory_bytes,
                    max_message_bytes=config.max_message_bytes,
                    grpc_port=self.transport.port or None,
                )
                if self._stopped:
                    self._page.stop()
            return self._page

    def finish(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE), wait for those in flight; the process ends then."""
        self.transport.finish(grace_s)
        if self._tracing is not None:
            self._tracing.flush()

    def stop(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE), wait for those in flight within the grace, and stop."""
        self.transport.stop(grace_s)
        with self._making_page:
            # A call that goes on may ask for it first.
            self._stopped = True
            if self._page is not None:
                self._page.stop()
        if self._tracing is not None:
            self._tracing.flush()

    def reread(self) -> None:
        """Look at certificates and tokens now."""
        self._access.reread()
        self.transport.reread()

    def _listen(
        self, config: Config, health: Health, incidents: Incidents, listener: SharedListener | None
    ) -> "AsyncioServer | GrpcioServer | GrpcioAndHttp":
        service, access = self.service, self._access
        # Imported here, so that a start does not wait for the unused one of grpcio and asyncio.
        match config.transport:
            case Transport.GRPCIO:
                from forwardpass.server.transport.grpcio.server import GrpcioServer

                shares_port = config.processes > 1
                server = GrpcioServer(config, service, health, access, shares_port=shares_port)
                if config.http_port is None:
                    return server
                try:
                    http = self._listen_on_loop(config, health, incidents, listener)
                except BaseException:
                    server.stop(0.0)
                    raise
                return GrpcioAndHttp(server, http)
            case Transport.ASYNCIO:
                return self._listen_on_loop(config, health, incidents, listener)

    def _listen_on_loop(
        self, config: Config, health: Health, incidents: Incidents, listener: SharedListener | None
    ) -> "AsyncioServer":
        from forwardpass.server.transport.event_loop.server import AsyncioServer

        return AsyncioServer(
            config, self.service, health, self._access, incidents, listener, self.page
        )


class Server:
    """A server of the models at `config.models`; a context manager that starts and stops it.

    It listens before it loads models, so that probes meanwhile find it alive but not ready. It is
    one process, whatever `config.processes` says.
    """

    def __init__(self, config: Config, incidents: Incidents | None = None) -> None:
        """Check the path and bind the port.

        incidents: Counts what goes wrong beside calls, also outside of this server.

        Raises RepositoryError if the path does not exist, or offers no model and none can come:
        it is another file, or its changes are not watched, nor may callers load. TokensError if
        the file of tokens cannot be read, ListenError or MetricsListenError if a port is taken,
        TracingUnavailableError if traces are requested and OpenTelemetry is missing.
        """
        config = replace(config, processes=1)
        self.catalog = Catalog()
        self._incidents = Incidents() if incidents is None else incidents
        self._trial = Trial(memory_bytes=config.trial_memory_bytes, cpu_s=config.trial_s)
        queue = queue_limits(config)
        self._models = Models(config, self.catalog, new_loader(config, self._trial, queue).load)
        self.lifecycle = self._models.lifecycle
        self._health = self._models.health
        self._control = self._models.control
        self._front = Front(
            config,
            self._incidents,
            self.catalog,
            self._health,
            self._control,
            queue,
            Alone(),
            Regions(allowed=config.shared_memory, max_bytes=config.max_message_bytes),
        )
        self._transport = self._front.transport
        self.port = self._transport.port
        try:
            self._metrics = self._metrics_server(config)
        except BaseException:
            self._transport.stop(0.0)
            raise

    @property
    def http_port(self) -> int | None:
        """The port of HTTP/1.1; None if that is not asked for."""
        return getattr(self._transport, "http_port", None)

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics; None without metrics."""
        return None if self._metrics is None else self._metrics.port

    @property
    def ready(self) -> bool:
        """Whether health and ServerReady report it ready."""
        return self._health.ready

    def start(self) -> None:
        """Answer calls, load every model, then report ready; a drain ends the loading early.

        Where nothing answers yet, and something may later, it is ready as soon as that does.
        """
        self._transport.start()
        if self._metrics is not None:
            self._metrics.start()
        self._models.start()
        self.lifecycle.wait()

    def drain(self) -> None:
        """Report not ready and load nothing more; calls are still answered."""
        self._models.drain()

    def finish(self, grace_s: float) -> None:
        """Refuse new calls (UNAVAILABLE), wait for those in flight; the process ends then."""
        self.drain()
        self._front.finish(grace_s)

    def stop(self, grace_s: float = 0.0) -> None:
        """Stop: new calls get UNAVAILABLE, those in flight have `grace_s` seconds."""
        self.drain()
        self._front.stop(grace_s)
        if self._metrics is not None:
            self._metrics.stop()

    def reread(self) -> None:
        """Look at certificates, tokens, labels and the repository now; may take as long as a load.

        Files that are read anew are logged; those that are invalid change nothing.
        """
        self._front.reread()
        self._models.reread()

    def _metrics_server(self, config: Config) -> "MetricsServer | None":
        if config.metrics_port is None:
            return None
        # Imported here: without metrics, prometheus-client need not be installed or loaded.
        from forwardpass.server.observe.metrics import MetricsCollector
        from forwardpass.server.observe.metrics_server import MetricsServer

        collector = MetricsCollector(
            self.catalog,
            self._health,
            self._front.service.refusals,
            load=self._transport.load,
            open_streams=lambda: self._transport.open_streams,
            max_backlog=config.max_backlog,
            max_connections=config.max_connections,
            incidents=self._incidents,
            mirror=self._models.mirrored,
        )
        return MetricsServer(config.metrics_host, config.metrics_port, collector)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        # The end of the process does both without waiting for a trial.
        self._trial.close()
        self._models.join()


def _tracing_type() -> "type[Tracing]":
    try:
        from forwardpass.server.observe.tracing import Tracing
    except ImportError as error:
        raise TracingUnavailableError from error
    return Tracing


def serve_until_signalled(server: Server, config: Config, ready: Callable[[], None]) -> NoReturn:
    """Start a server, call `ready` when it is ready, serve until a signal, exit with 0.

    SIGTERM and SIGQUIT first drain for `drain_s`, so that balancers can switch to other servers;
    SIGINT, sent by a person, does not, nor does any before the server was ready. Then calls in
    flight have `grace_s`. A second signal ends the process at once. SIGHUP has files read again;
    if it came because the terminal was closed, it is a SIGINT. SIGUSR1 and SIGUSR2 are ignored.
    """
    signals = Signals({"SIGHUP": _Rereading(server).begin})
    started_well = threading.Event()

    def start() -> None:
        server.start()
        started_well.set()

    starter = threading.Thread(target=start, name="start", daemon=True)
    starter.start()
    signalled = None
    while signalled is None and starter.is_alive():
        signalled = signals.next_within(0.02)
    while signalled is None and started_well.is_set() and not server.ready:
        signalled = signals.next_within(0.1)
    drain_s = 0.0
    if signalled is None:
        ready()
        signalled = signals.next()
        drain_s = 0.0 if signalled == signal.SIGINT else config.drain_s
    started = time.monotonic()
    logger.info("%s: draining", signalled.name)
    server.drain()
    hurry = drain_s > 0 and signals.next_within(drain_s) is not None
    stopper = threading.Thread(target=server.finish, args=(config.grace_s,), daemon=True)
    stopper.start()
    while stopper.is_alive() and not hurry:
        hurry = signals.next_within(0.05) is not None
    logger.info("stopped after %.1f s", time.monotonic() - started)
    # A normal exit would wait for the threads of aborted calls.
    logging.shutdown()
    # Nobody may read it.
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(_FLUSH_S)
    os._exit(0)


class _Rereading:
    """What SIGHUP does: a disk that hangs must not keep the next signal from being received."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._at_terminal = os.isatty(0)
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        if self._at_terminal and not os.isatty(0):
            # It was closed, and whoever sat there did not mean to leave a server behind.
            os.kill(os.getpid(), signal.SIGINT)
            return
        if self._thread is not None and self._thread.is_alive():
            logger.info("SIGHUP: files are being read already")
            return
        logger.info("SIGHUP: reading certificates, tokens, labels and the repository again")
        self._thread = threading.Thread(target=self._reread, name="reread", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            logger.error("SIGHUP: files cannot be read again: %s", error)

    def _reread(self) -> None:
        try:
            self._server.reread()
        except Exception:
            logger.exception("SIGHUP: files could not be read again")
        else:
            logger.info("SIGHUP: read")
