"""Wire the parts up, start, drain."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, Self

from forwardpass.server.access import Access
from forwardpass.server.batching import QueueLimits
from forwardpass.server.call_log import log_call
from forwardpass.server.catalog import Catalog
from forwardpass.server.config import Config, Transport
from forwardpass.server.cpus import available_cpus
from forwardpass.server.extensions import triton_extensions
from forwardpass.server.health import SERVER, Health
from forwardpass.server.lifecycle import Lifecycle
from forwardpass.server.loading import Loader
from forwardpass.server.observation import Observer
from forwardpass.server.regions import Regions
from forwardpass.server.repository import EmptyRepositoryError, scan
from forwardpass.server.service import Service
from forwardpass.server.signals import EndingSignals
from forwardpass.server.trial import Trial

if TYPE_CHECKING:
    from forwardpass.server.metrics_server import MetricsServer
    from forwardpass.server.tracing import Tracing
    from forwardpass.server.transport.aio.server import AsyncioServer
    from forwardpass.server.transport.grpcio import GrpcioServer

logger = logging.getLogger(__name__)


class TracingUnavailableError(Exception):
    """Traces were asked for where what makes them is not installed."""

    def __init__(self) -> None:
        super().__init__("traces need OpenTelemetry; install forwardpass[tracing]")


class Server:
    """A server of the models at `config.models`; a context manager that starts and stops it.

    It listens before it loads, so that a probe finds it alive but not ready meanwhile.
    """

    def __init__(self, config: Config) -> None:
        """Look at the path and bind the port.

        Raises RepositoryError if the path offers no model, TokensError if the file of tokens
        cannot be read, ListenError or MetricsListenError if a port is taken,
        TracingUnavailableError if traces are wanted and OpenTelemetry is missing.
        """
        if not scan(config.models).files:
            raise EmptyRepositoryError(config.models)
        self.catalog = Catalog()
        self._health = Health()
        self._trial = Trial(memory_bytes=config.trial_memory_bytes, deadline_s=config.trial_s)
        queue = QueueLimits(max_waiting=config.max_queue, runners=available_cpus())
        loader = Loader(
            config.models,
            config.limits,
            self._trial,
            queue,
            watch_inputs=config.metrics_port is not None,
        )
        self.lifecycle = Lifecycle(config, self.catalog, self._health, loader.load)
        regions = Regions(allowed=config.shared_memory, max_bytes=config.max_message_bytes)
        extensions = triton_extensions(config, self.catalog, self.lifecycle, queue, regions)
        service = Service(
            self.catalog,
            self._health,
            max_rows=config.max_rows,
            regions=regions,
            extensions=extensions,
            observers=self._observers(config),
        )
        self._transport = _transport(config, service, self._health)
        self.port = self._transport.port
        try:
            self._metrics = self._metrics_server(config, service)
        except BaseException:
            self._transport.stop(0.0)
            raise

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics; None where there are none."""
        return None if self._metrics is None else self._metrics.port

    def start(self) -> None:
        """Answer calls, load every model, then say ready; a drain meanwhile cuts it short."""
        self._transport.start()
        if self._metrics is not None:
            self._metrics.start()
        self.lifecycle.start()
        self.lifecycle.wait()
        self._health.set(SERVER, serving=True)

    def drain(self) -> None:
        """Say not ready, load nothing more; calls are still answered."""
        self._health.drain()
        self.lifecycle.stop()

    def finish(self, grace_s: float) -> None:
        """Answer new calls UNAVAILABLE, let those in flight end; for a process that ends then."""
        self.drain()
        self._transport.finish(grace_s)
        if self._tracing is not None:
            self._tracing.flush()

    def stop(self, grace_s: float = 0.0) -> None:
        """End: new calls get UNAVAILABLE, those in flight have `grace_s` seconds."""
        self.drain()
        self._transport.stop(grace_s)
        if self._tracing is not None:
            self._tracing.flush()
        if self._metrics is not None:
            self._metrics.stop()

    def _observers(self, config: Config) -> list[Observer]:
        observers: list[Observer] = [log_call] if config.log_calls else []
        self._tracing = _tracing() if config.traces else None
        if self._tracing is not None:
            observers.append(self._tracing.observe)
        return observers

    def _metrics_server(self, config: Config, service: Service) -> "MetricsServer | None":
        if config.metrics_port is None:
            return None
        # Imported here: who wants no metrics need not have, nor wait for, prometheus-client.
        from forwardpass.server.metrics import MetricsCollector
        from forwardpass.server.metrics_server import MetricsServer

        collector = MetricsCollector(
            self.catalog, self._health, service.refusals, lambda: self._transport.open_streams
        )
        return MetricsServer(config.metrics_host, config.metrics_port, collector)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        # The end of the process does both, and without waiting for a trial.
        self._trial.close()
        self.lifecycle.join()


def _transport(config: Config, service: Service, health: Health) -> "AsyncioServer | GrpcioServer":
    access = Access(config.tokens)
    # Imported here: a start shall not wait for grpcio, or asyncio, that nothing will use.
    match config.transport:
        case Transport.GRPCIO:
            from forwardpass.server.transport.grpcio import GrpcioServer

            return GrpcioServer(config, service, health, access)
        case Transport.ASYNCIO:
            from forwardpass.server.transport.aio.server import AsyncioServer

            return AsyncioServer(config, service, health, access)


def _tracing() -> "Tracing":
    try:
        from forwardpass.server.tracing import Tracing
    except ImportError as error:
        raise TracingUnavailableError from error
    return Tracing.start()


def serve_until_signalled(server: Server, config: Config, ready: Callable[[], None]) -> NoReturn:
    """Start a server, call `ready` once it is, serve until SIGTERM or SIGINT, exit with 0.

    SIGTERM drains for `drain_s` first, since a balancer needs time to turn away; SIGINT, which
    a person sends, does not, nor is there a need before the server was ready. Then calls in
    flight have `grace_s`. A second signal ends all that at once.
    """
    signals = EndingSignals()
    starter = threading.Thread(target=server.start, name="start", daemon=True)
    starter.start()
    signalled = None
    while signalled is None and starter.is_alive():
        signalled = signals.next_within(0.02)
    drain_s = 0.0
    if signalled is None:
        ready()
        signalled = signals.next()
        drain_s = config.drain_s if signalled == signal.SIGTERM else 0.0
    started = time.monotonic()
    logger.info("%s: draining", signalled.name)
    server.drain()
    hurry = drain_s > 0 and signals.next_within(drain_s) is not None
    stopper = threading.Thread(target=server.finish, args=(config.grace_s,), daemon=True)
    stopper.start()
    while stopper.is_alive() and not hurry:
        hurry = signals.next_within(0.05) is not None
    logger.info("stopped after %.1f s", time.monotonic() - started)
    # Python's own way out would wait for the threads of calls that were cut off.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
