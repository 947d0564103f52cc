"""The server's settings: one frozen object, built at the edge and passed down."""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

from forwardpass.server.guard import Limits
from forwardpass.server.log_format import FORMATS, LogFormat
from forwardpass.server.versions import VersionPolicy


class Transport(StrEnum):
    """What speaks gRPC."""

    GRPCIO = "grpcio"
    """grpcio's threads."""
    ASYNCIO = "asyncio"
    """An event loop of our own: far less CPU a call."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"transport: expected {' or '.join(cls)}, got {str(value)!r}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What an operator may set; valid once built.

    Raises ValueError that names the setting, what is allowed and what came.
    """

    models: Path
    """A model file, a directory of them, or a repository NAME/VERSION/model.onnx."""
    versions: VersionPolicy = field(default_factory=VersionPolicy)
    """Which versions of each model are served."""
    watch: bool = True
    """Whether changes of the files are picked up while the server runs."""
    poll_s: float | None = None
    """Seconds between two looks at the files, for volumes that tell of no changes, such as those
    on a network; None: file events tell."""
    limits: Limits = field(default_factory=Limits)
    """What a model file may be."""
    trial_s: float = 10.0
    """How long the trial of a model may take that is not proven harmless by reading its file."""
    trial_memory_bytes: int = 2**30
    """How much memory it may take."""
    host: str = "127.0.0.1"
    """Address to listen on, or `unix:PATH`: a socket in the file system, without a port."""
    port: int = 8001
    """TCP port to listen on; 0 picks a free one."""
    max_message_bytes: int = 64 * 2**20
    """Largest request; one above it is answered RESOURCE_EXHAUSTED."""
    max_rows: int = 2**20
    """Most rows of a call; one above it is answered RESOURCE_EXHAUSTED."""
    max_queue: int = 1024
    """Most calls that wait for one model; the next one is answered RESOURCE_EXHAUSTED."""
    max_calls_per_connection: int = 1024
    """Most calls in flight on one connection; a client holds back what is above it, and what it
    sends all the same ends UNAVAILABLE, not looked at."""
    max_connections: int = 10_000
    """Most connections; one above it is closed at once, and its calls end UNAVAILABLE."""
    max_connection_age_s: float | None = None
    """How long a connection may last, give or take a tenth, before its client is asked to open
    another, so that new servers get their share; `grace_s` later it is closed. None: for ever."""
    drain_s: float = 5.0
    """After SIGTERM: how long the server says that it is not ready while it still answers,
    so that balancers turn away from it first."""
    grace_s: float = 30.0
    """After the drain: how long calls in flight may take to end."""
    transport: Transport = Transport.GRPCIO
    workers: int = 32
    """Threads that answer calls."""
    max_streams: int = 128
    """Most streams (ModelStreamInfer) open at a time, each of which has threads of its own."""
    model_control: bool = False
    """Whether callers may load and unload models (RepositoryModelLoad, RepositoryModelUnload)."""
    shared_memory: bool = False
    """Whether callers may name POSIX shared memory on this machine to read tensors from and to
    write them to: any that the server's user may read and write."""
    tls_cert: Path | None = None
    """Certificate chain (PEM); with `tls_key` the server speaks TLS."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """CA that clients' certificates must come from (mutual TLS)."""
    tokens: Path | None = None
    """Who may call, and what (see `forwardpass.server.tokens`); None: everybody, everything."""
    log_format: LogFormat = "text"
    """How the process that runs the server writes its log."""
    log_calls: bool = False
    """Whether the log has a line for each call."""
    traces: bool = False
    """Whether OpenTelemetry is told of each call, by the extra `tracing`."""
    metrics_port: int | None = None
    """TCP port of metrics for Prometheus; 0 picks a free one, None: there are none."""
    metrics_host: str = "127.0.0.1"
    insecure_tokens: bool = False
    """Whether tokens are taken over connections that others can read, as behind a proxy that
    ends TLS."""

    def __post_init__(self) -> None:
        if self.poll_s is not None and not 0.01 <= self.poll_s <= 86400:
            raise ValueError(f"poll_s: expected 0.01..86400 seconds, got {self.poll_s}")
        if not 0.1 <= self.trial_s <= 86400:
            raise ValueError(f"trial_s: expected 0.1..86400 seconds, got {self.trial_s}")
        if not self.trial_memory_bytes >= 2**20:
            raise ValueError(
                f"trial_memory_bytes: expected at least {2**20}, got {self.trial_memory_bytes}"
            )
        if not 0 <= self.port < 65536:
            raise ValueError(f"port: expected 0..65535, got {self.port}")
        if self.log_format not in FORMATS:
            raise ValueError(
                f"log_format: expected {' or '.join(FORMATS)}, got {self.log_format!r}"
            )
        if self.metrics_port is not None and not 0 <= self.metrics_port < 65536:
            raise ValueError(f"metrics_port: expected 0..65535, got {self.metrics_port}")
        if not 1024 <= self.max_message_bytes < 2**31:
            raise ValueError(
                f"max_message_bytes: expected 1024..{2**31 - 1}, got {self.max_message_bytes}"
            )
        if self.max_connection_age_s is not None and not self.max_connection_age_s > 0:
            raise ValueError(
                "max_connection_age_s: expected more than 0 seconds, "
                f"got {self.max_connection_age_s}"
            )
        # Written so that NaN is refused as well.
        if not (self.drain_s >= 0 and self.grace_s >= 0):
            raise ValueError(
                "drain_s and grace_s: expected 0 or more seconds, "
                f"got {self.drain_s} and {self.grace_s}"
            )
        for name in (
            "max_rows",
            "max_queue",
            "max_calls_per_connection",
            "max_connections",
            "workers",
            "max_streams",
        ):
            if not 1 <= getattr(self, name) < 2**31:
                raise ValueError(f"{name}: expected 1..{2**31 - 1}, got {getattr(self, name)}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: expected both or neither, got one")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: needs tls_cert and tls_key, got neither")
        readable = self.tls_cert is None and not _is_loopback(self.host)
        if self.tokens is not None and readable and not self.insecure_tokens:
            raise ValueError(
                f"tokens: expected TLS, since {self.host!r} is reached by others, who could read "
                "tokens on their way; got no tls_cert. Behind a proxy that ends TLS set "
                "insecure_tokens"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
