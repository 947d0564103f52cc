"""Metrics over HTTP, on a port of their own."""

import gzip
import logging
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from prometheus_client import CollectorRegistry, Counter, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from forwardpass.server.observe.metrics import Lines

logger = logging.getLogger(__name__)

PATH = "/metrics"
_ACCEPT_AGAIN_S = 0.5
"""Time until a connection is accepted again after one could not be, in seconds."""
_EOF = b"# EOF\n"
"""The end of a page of OpenMetrics."""
_TIMEOUT_S = 10.0
"""Maximum time to receive a request and send its answer, in seconds."""


class MetricsListenError(Exception):
    """The address for metrics cannot be listened on."""


class MetricsServer:
    """Answers only GET /metrics."""

    def __init__(
        self,
        host: str,
        port: int,
        collector: Collector,
        *,
        process: Collector | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        """Bind; port 0 picks a free one.

        process: The metrics of the process, or of all processes; None: of this one. listener: A
        socket that listens, in place of one of its own.

        Raises MetricsListenError.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        if process is None:
            ProcessCollector(registry=registry)
        else:
            registry.register(process)
        PlatformCollector(registry=registry)
        shared = _Pages(registry)

        class Handler(_Handler):
            pages = shared

        owned = listen_for_metrics(host, port) if listener is None else listener
        self._server = _Server(owned, Handler)
        self.port: int = self._server.server_address[1]
        """The TCP port; a free one was picked for port 0."""
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()
        logger.info("metrics on port %d%s", self.port, PATH)

    def stop(self) -> None:
        """End and close the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def listen_for_metrics(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises MetricsListenError."""
    host = host.strip("[]")
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(ThreadingHTTPServer.request_queue_size)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise MetricsListenError(
            f"cannot listen on {host}:{port} for metrics: {error.strerror or error}; choose "
            "another --metrics-port, 0 for any that is free, or a --metrics-host of this machine"
        ) from error
    return listener


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            return super().get_request()
        except OSError:
            # Mostly too many open files. The socket stays readable: wait, or the loop spins.
            time.sleep(_ACCEPT_AGAIN_S)
            raise

    def __init__(self, listener: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(listener.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


class _Pages:
    """Makes the pages, one at a time: who asks meanwhile for the same waits, and gets that one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._cpu = Counter(
            "forwardpass_scrape_cpu_seconds",
            "CPU time of building and writing the metrics.",
            registry=registry,
        )
        self._lock = Lock()
        # Guarded by the lock: the last page, of which content type, packed or not, begun when.
        self._last: tuple[tuple[str, bool], float, bytes] | None = None

    def get(self, accept: str, *, packed: bool) -> tuple[str, bytes]:
        """Return content type and page, made after this was called."""
        encode, content_type = choose_encoder(accept)
        asked = time.monotonic()
        with self._lock:
            if self._last is not None:
                form, begun, page = self._last
                if form == (content_type, packed) and begun >= asked:
                    return content_type, page
            begun, before = time.monotonic(), time.thread_time()
            page = _page(self._registry, encode)
            if packed:
                # The lowest level takes least time; Python's lock is free meanwhile.
                page = gzip.compress(page, 1)
            self._last = (content_type, packed), begun, page
            self._cpu.inc(time.thread_time() - before)
        return content_type, page


class _One(Collector):
    """Collects one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        """Return it."""
        yield self._family


def _page(registry: Collector, encode: Callable[[Collector], bytes]) -> bytes:
    """Return what the encoder writes, with the lines of `Lines` as they are."""
    parts = []
    ends = b""
    for family in registry.collect():
        page = encode(_One(family))
        if page.endswith(_EOF):
            page, ends = page[: -len(_EOF)], _EOF
        parts.append(page)
        if isinstance(family, Lines):
            # The page above has only what is before its lines.
            parts.append("".join(family.lines).encode())
    return b"".join((*parts, ends))


class _Handler(BaseHTTPRequestHandler):
    pages: _Pages
    timeout = _TIMEOUT_S
    server_version = "forwardpass"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, f"only {PATH} exists")
            return
        packed = "gzip" in self.headers.get("Accept-Encoding", "")
        content_type, body = self.pages.get(self.headers.get("Accept", ""), packed=packed)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Vary", "Accept, Accept-Encoding")
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited name
        logger.debug("metrics: " + format, *args)
