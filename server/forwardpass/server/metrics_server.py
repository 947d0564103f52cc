"""Metrics over HTTP, on a port of their own."""

import logging
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

PATH = "/metrics"
_TIMEOUT_S = 10.0
"""For a request to come and its answer to be taken."""


class MetricsListenError(Exception):
    """The address for metrics cannot be listened on."""


class MetricsServer:
    """Answers GET /metrics, and nothing else."""

    def __init__(self, host: str, port: int, collector: Collector) -> None:
        """Bind; port 0 picks a free one.

        Raises MetricsListenError.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        class Handler(_Handler):
            metrics = registry

        try:
            self._server = _Server((host.strip("[]"), port), Handler)
        except OSError as error:
            raise MetricsListenError(
                f"cannot listen on {host}:{port} for metrics: {error.strerror}"
            ) from error
        self.port: int = self._server.server_address[1]
        """The TCP port, picked where 0 was asked for."""
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        logger.info("metrics on port %d%s", self.port, PATH)

    def stop(self) -> None:
        """End and close the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)


class _Handler(BaseHTTPRequestHandler):
    metrics: CollectorRegistry
    timeout = _TIMEOUT_S
    server_version = "forwardpass"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, f"only {PATH} is here")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        body = encode(self.metrics)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        logger.debug("metrics: " + format, *args)
