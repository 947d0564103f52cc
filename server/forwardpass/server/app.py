"""Wire the parts up, start, drain."""

import logging
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn, Self

from forwardpass.server.catalog import Catalog
from forwardpass.server.config import Config
from forwardpass.server.health import SERVER, Health
from forwardpass.server.repository import find_models
from forwardpass.server.service import Service
from forwardpass.server.transport.grpcio import GrpcioServer

logger = logging.getLogger(__name__)


class Server:
    """A server of the models at `config.models`; a context manager that starts and stops it.

    It listens before it loads, so that a probe finds it alive but not ready meanwhile.
    """

    def __init__(self, config: Config) -> None:
        """Look at the path and bind the port.

        Raises RepositoryError if the path offers no model, ListenError if the port is taken.
        """
        self._config = config
        self._files = find_models(config.models)
        self.catalog = Catalog()
        self._health = Health()
        self._transport = GrpcioServer(config, Service(self.catalog, self._health), self._health)
        self.port = self._transport.port

    def start(self) -> None:
        """Answer calls, load every model, then say ready."""
        self._transport.start()
        self.catalog.load(self._files)
        for name in self.catalog:
            self._health.set(name, serving=bool(self.catalog.versions(name)))
        self._health.set(SERVER, serving=True)

    def drain(self) -> None:
        """Say not ready; calls are still answered."""
        self._health.drain()

    def stop(self, grace_s: float = 0.0) -> None:
        """End: new calls get UNAVAILABLE, those in flight have `grace_s` seconds."""
        self.drain()
        self._transport.stop(grace_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve_until_signalled(server: Server, config: Config) -> NoReturn:
    """Serve a started server until SIGTERM or SIGINT, then drain it, stop it and exit with 0.

    SIGTERM drains for `drain_s` first, since a balancer needs time to turn away; SIGINT, which
    a person sends, does not. A second signal cuts the drain and the grace short.
    """
    stop, hurry = threading.Event(), threading.Event()
    received: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        received.append(number)
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    stop.wait()
    started = time.monotonic()
    logger.info("%s: draining", signal.Signals(received[0]).name)
    server.drain()
    if received[0] == signal.SIGTERM:
        hurry.wait(config.drain_s)
    stopper = threading.Thread(target=server.stop, args=(config.grace_s,), daemon=True)
    stopper.start()
    while stopper.is_alive() and not hurry.is_set():
        stopper.join(0.05)
    logger.info("stopped after %.1f s", time.monotonic() - started)
    # Python's own way out would wait for the threads of calls that were cut off.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
